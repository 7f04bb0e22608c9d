"""Folders appear whole or not at all, and the user's own files stay."""

from __future__ import annotations

import json

import pytest

from xalign_jax.errors import UserError
from xalign_jax.interop.folders import LIST, whole


def write(folder, overwrite=False, **files):
    with whole(folder, "--output", overwrite) as building:
        for name, text in files.items():
            (building / name.replace("__", "/")).parent.mkdir(parents=True, exist_ok=True)
            (building / name.replace("__", "/")).write_text(text)


def everything(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_only_files_that_were_written_are_replaced(tmp_path):
    folder = tmp_path / "out"
    write(folder, a="1", deep__b="1", deep__deeper__c="1")
    (folder / "deep" / "thesis.tex").write_text("mine")
    with pytest.raises(UserError, match="is not empty; name another folder or add --overwrite"):
        write(folder, a="2")
    write(folder, overwrite=True, a="2", new="2")
    assert everything(folder) == {"a", "new", "deep/thesis.tex", LIST}
    assert (folder / "a").read_text() == "2" and (folder / "deep" / "thesis.tex").read_text() == "mine"
    assert not (folder / "deep" / "deeper").exists()
    assert json.loads((folder / LIST).read_text()) == ["a", "new"]


def test_a_file_of_the_user_in_the_way_stays(tmp_path):
    folder = tmp_path / "out"
    write(folder, a="1")
    (folder / "README.md").write_text("mine")
    with pytest.raises(UserError, match=r"README\.md is not of an earlier export or import"):
        write(folder, overwrite=True, **{"README.md": "2", "a": "2"})
    assert (folder / "README.md").read_text() == "mine" and (folder / "a").read_text() == "1"


def test_a_folder_of_others_is_refused_before_any_work(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / LIST).write_text('["../home/thesis.tex"]')
    for name, said in (("home", "did not write"), ("file", "is a file"), ("odd", "not a list of written files")):
        for overwrite in (False, True):
            with pytest.raises(UserError, match=said):
                write(tmp_path / name, overwrite, a="1")
    with pytest.raises(UserError, match=r"--output=.*file/out: cannot be written"):
        write(tmp_path / "file" / "out", a="1")
    assert everything(tmp_path) == {"home/thesis.tex", "file", f"odd/{LIST}"}


def test_nothing_stays_behind_when_something_is_raised(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("new", "empty"):
        with pytest.raises(KeyboardInterrupt), whole(tmp_path / name, "--output", False) as building:
            (building / "a").write_text("1")
            raise KeyboardInterrupt
    assert {path.name for path in tmp_path.iterdir()} == {"empty"} and not everything(tmp_path)
    write(tmp_path / "empty", a="1")
    assert everything(tmp_path) == {"empty/a", f"empty/{LIST}"}
