"""An export goes to the Hub through a stand-in for huggingface_hub, which keeps what it was asked."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest

from xalign_jax.errors import RunError, UserError
from xalign_jax.interop import hub
from xalign_jax.interop.folders import whole


class Api:
    """The Hub, with one repository."""

    told: list = []  # noqa: RUF012
    there = ("ann/old",)
    fails = ""

    def repo_exists(self, name):
        self._maybe_fail("repo_exists")
        return name in self.there

    def create_repo(self, name, **about):
        self.told.append((name, about))

    def upload_folder(self, **about):
        self._maybe_fail("upload_folder")
        self.told.append(about)
        return "https://huggingface.co/ann/new/commit/1"

    def _maybe_fail(self, method):
        if method == self.fails:
            raise ConnectionError("503\nService Unavailable")


@pytest.fixture
def library(monkeypatch):
    found = SimpleNamespace(HfApi=Api, get_token=lambda: "a token")
    monkeypatch.setattr(Api, "told", [])
    monkeypatch.setitem(sys.modules, "huggingface_hub", found)
    return found


@pytest.fixture
def exported(tmp_path):
    with whole(tmp_path / "hf", "--output", overwrite=False) as building:
        (building / "config.json").write_text("{}")
    (tmp_path / "hf" / "mine.txt").write_text("not for others")
    return tmp_path / "hf"


def test_only_the_export_is_uploaded_and_the_repository_is_private(library, exported):
    hub.check("ann/new", overwrite=False)
    assert hub.push(exported, "ann/new", public=False) == "https://huggingface.co/ann/new/commit/1"
    made, uploaded = Api.told
    assert made == ("ann/new", {"private": True, "exist_ok": True})
    assert uploaded["allow_patterns"] == json.loads((exported / "xalign_files.json").read_text())
    assert "config.json" in uploaded["allow_patterns"] and "mine.txt" not in uploaded["allow_patterns"]
    hub.push(exported, "ann/new", public=True)
    assert Api.told[2][1]["private"] is False


@pytest.mark.parametrize("name", ["ann", "ann/", "/new", "ann/new/x", "ann/n ew", "https://huggingface.co/ann/new"])
def test_a_name_that_is_none_is_one_line(library, name):
    with pytest.raises(UserError, match=r"^--push_to_hub=.*: expected USER/NAME$"):
        hub.check(name, overwrite=False)


def test_what_is_missing_is_said_before_the_export(library, monkeypatch):
    with pytest.raises(UserError, match=r"^--push_to_hub=ann/old: exists already; --overwrite adds a commit"):
        hub.check("ann/old", overwrite=False)
    hub.check("ann/old", overwrite=True)
    monkeypatch.setattr(Api, "fails", "repo_exists")
    with pytest.raises(RunError, match=r"the Hub does not answer: 503 Service Unavailable$"):
        hub.check("ann/new", overwrite=False)
    library.get_token = lambda: None
    with pytest.raises(UserError, match=r"no token of the Hub here; run `hf auth login`, or set HF_TOKEN$"):
        hub.check("ann/new", overwrite=False)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(
        UserError, match=r"^--push_to_hub needs the package huggingface_hub: pip install huggingface_hub"
    ):
        hub.check("ann/new", overwrite=False)


def test_an_upload_that_fails_says_how_to_try_it_again(library, exported, monkeypatch):
    monkeypatch.setattr(Api, "fails", "upload_folder")
    with pytest.raises(RunError, match=r"not uploaded: 503 .* is complete, and `hf upload ann/new .*` tries it again$"):
        hub.push(exported, "ann/new", public=False)
