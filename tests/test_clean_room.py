"""The clean room finds every command and every block of Python in README.md. `make clean-room` runs them."""

from __future__ import annotations

import clean_room
from doc_blocks import blocks


def test_every_command_and_block_of_readme_is_a_step_and_they_keep_their_order():
    found = [text for text, _ in clean_room.steps()]
    shown = blocks(clean_room.README)
    assert {command for block in shown for command in block.commands} <= set(found)
    assert [text for text, python in clean_room.steps() if python] == [b.text for b in shown if b.kind == "python"]
    assert found[0].startswith("python3.11 -m venv") and found[1].startswith("pip install")
    readme = clean_room.README.read_text(encoding="utf-8")
    at = [readme.index(text) for text, python in clean_room.steps() if python or text.startswith("xalign import")]
    assert at == sorted(at)


def test_a_step_runs_in_an_empty_home_without_this_shells_variables(tmp_path, monkeypatch):
    monkeypatch.setenv("XALIGN_CACHE", "elsewhere")
    (tmp_path / "room").mkdir()
    room = clean_room.Room(tmp_path / "room", {"old": "new"})
    assert room.run("echo old ${XALIGN_CACHE-unset} $HOME; pwd").said.split() == [
        *("new", "unset", str(tmp_path / "home")),
        str(tmp_path / "room"),
    ]
    failed = room.run("echo why >&2; exit 3")
    assert (failed.code, failed.said) == (3, "why")


def test_fewer_steps_change_training_alone():
    assert clean_room._fewer("xalign list recipes", 5) == ""
    assert clean_room._fewer("xalign train --gin_file=recipes/joint_clone_tiny.gin", None) == ""
    assert clean_room._fewer("xalign train --gin_file=recipes/joint_clone_tiny.gin", 5) == " --gin.PRETRAIN_STEPS=5"
    assert "ALIGN_STEPS=5" in clean_room._fewer("xalign train --gin_file=recipes/prealign_clone_tiny.gin", 5)
