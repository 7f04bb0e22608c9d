"""Every command of docs/clusters.md and docs/first_pod.md, against the stand-ins."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from tpu_scripts.cloud import Cloud

from xalign_jax import cli

ROOT = Path(__file__).parent.parent.parent
pytest.importorskip("yaml")
# Commands that have no stand-in: they set up a project or build images.
OUTSIDE = r"gcloud (auth|config|services|storage (buckets|ls|cp -r)|compute tpus queued-resources list)|pip install|docker |ssh-keygen"


def sections(page):
    """(title, commands) of the parts of a page that have commands, in order. A command may go over lines."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8").replace("my-bucket", "bucket")
    text = text.replace("v5litepod-256", "v5litepod-8")  # a slice with one host
    for part in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        found = re.findall(r"^```(\w*)\n(.*?)^```", part, re.MULTILINE | re.DOTALL)
        blocks = [text for kind, text in found if not kind]
        commands = [line for line in "".join(blocks).replace("\\\n", " ").splitlines() if line]
        if commands:
            yield part.splitlines()[0], commands


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    monkeypatch.setenv("STANDIN_WORKERS", "1")
    cloud = Cloud(tmp_path)
    cloud.environment |= {"STANDIN_WORKERS": "1", "XALIGN_SETTLE": "0.2", "XALIGN_POLL": "0.1"}
    for folder, name in (("infoxlm", "infoxlm.gin"), ("mine", "mine.gin")):
        (cloud.home / folder).mkdir()
        (cloud.home / folder / name).write_text("")
    (cloud.home / "tpu_scripts").symlink_to(ROOT / "tpu_scripts")
    (cloud.home / "env" / "bin").mkdir(parents=True)
    for name, text in (("python", "exit 0"), ("pip", "exit 0"), ("xalign", f'exec {cloud.bin}/xalign "$@"')):
        (cloud.home / "env" / "bin" / name).write_text(f"#!/bin/bash\n{text}\n")
        (cloud.home / "env" / "bin" / name).chmod(0o755)
    yield cloud
    cloud.close()


def check(command):
    """Whether `xalign` takes these options."""
    words = shlex.split(command)[1:]
    assert words[0] in ("train", "compile", "data", "compare") and cli._parse(words)


@pytest.mark.parametrize(
    ("page", "title"), [(page, title) for page in ("clusters.md", "first_pod.md") for title, _ in sections(page)]
)
def test_the_commands_of_a_section_run(cloud, page, title):
    commands = dict(sections(page))[title]
    if page == "first_pod.md":  # its sections build on each other
        commands = [line for _, lines in sections(page) for line in lines if line.startswith("export")] + commands
    for number, command in enumerate(commands):
        lines = [line for line in commands[:number] if line.startswith("export ")]
        if command.startswith("xalign "):
            check(command)
        elif not re.match(rf"({OUTSIDE}|export |cd )", command):
            assert command.startswith("tpu_scripts/"), command
            if " watch " in command:
                (cloud.state / "finish").touch()
            script, words = re.match(r"tpu_scripts/(\w+)\.sh (.*)", command).groups()
            exported = [word for line in lines for word in shlex.split(line)[1:]]
            cloud.environment |= dict(word.split("=", 1) for word in exported)
            cloud.call(script, *shlex.split(words))
    cloud.until(lambda: cloud.running() == [])


def test_the_tests_that_the_page_names_are_there():
    """The table of faults names a test for each."""
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "clusters.md").read_text(encoding="utf-8")))
    tests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    assert len(named) > 15 and {name for name in named if f"def {name}(" not in tests} == set()
