"""An exported folder goes to the Hugging Face Hub (extra `hub`)."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

from xalign_jax.errors import RunError, UserError, install, one_line
from xalign_jax.interop.folders import written

_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_OPTION = "--push_to_hub"


def check(name: str, overwrite: bool) -> None:
    """Check all that pushing needs, before there is any work to lose.

    Args:
      name: "USER/NAME" of the repository.
      overwrite: it may exist.

    Raises:
      UserError: the package, the token or the name is missing, or the repository exists.
      RunError: the Hub does not answer.
    """
    if not _NAME.fullmatch(name):
        raise UserError(f"{_OPTION}={name}: expected USER/NAME")
    hub = _library()
    if hub.get_token() is None:
        raise UserError(f"{_OPTION}={name}: no token of the Hub here; run `hf auth login`, or set HF_TOKEN")
    try:
        there = hub.HfApi().repo_exists(name)
    except Exception as error:
        raise RunError(f"{_OPTION}={name}: the Hub does not answer: {one_line(error)}") from error
    if there and not overwrite:
        raise UserError(f"{_OPTION}={name}: exists already; --overwrite adds a commit to it, or name another one")


def push(folder: Path, name: str, public: bool) -> str:
    """Upload the files that the export wrote into a folder, as one commit. Other files there stay here.

    Args:
      public: everyone may see a repository that is made now; one that exists stays as it is.

    Returns:
      where the commit is, a URL.

    Raises:
      RunError: the Hub refuses, or does not answer. The folder stays, so that pushing can be tried again.
    """
    api = _library().HfApi()
    try:
        api.create_repo(name, private=not public, exist_ok=True)
        commit = api.upload_folder(
            repo_id=name,
            folder_path=str(folder),
            allow_patterns=written(folder),
            commit_message="Exported by xalign_jax",
        )
    except Exception as error:
        again = f"`hf upload {name} {folder}` tries it again"
        raise RunError(
            f"{_OPTION}={name}: not uploaded: {one_line(error)}; {folder} is complete, and {again}"
        ) from error
    return str(commit)


def _library() -> Any:
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError:
        how = f"pip install huggingface_hub, or {install('hub')}"
        raise UserError(f"{_OPTION} needs the package huggingface_hub: {how}") from None
