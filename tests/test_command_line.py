"""The command line itself: help for everything, and usage errors as one line with exit code 2."""

from __future__ import annotations

import argparse

import pytest

from xalign_jax import __version__, cli, config
from xalign_jax.recipe import Recipe

TRAIN = ["train", "--gin_file=a.gin"]


def _ends(capsys, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    said = capsys.readouterr()
    return end.value.code, said.out, said.err


def _commands() -> dict[str, argparse.ArgumentParser]:
    (commands,) = [action for action in cli._parser()._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(commands.choices)


def test_every_argument_of_every_command_has_a_help_text():
    for name, command in _commands().items():
        for action in command._actions:
            assert action.help, f"{name}: {action.option_strings or action.dest}"
        assert "_" not in command.format_help().split(), name  # what argparse makes of an option without a name


def test_the_version_is_the_packages(capsys):
    assert _ends(capsys, "--version") == (0, f"xalign {__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "xalign: the following arguments are required: COMMAND"),
        (["trian"], "invalid choice: 'trian'"),
        (TRAIN, "xalign train: the following arguments are required: --model_dir"),
        ([*TRAIN, "--model_dir="], "argument --model_dir: names nothing"),
        (["evaluate", "--gin_file=a.gin", "--model_dir= "], "argument --model/--model_dir: names nothing"),
        (["evaluate", "--gin_file=a.gin", "--model_dir=x", "--step=two"], "argument --step: invalid int value: 'two'"),
        ([*TRAIN, "--model=x"], "--model_dir"),  # no abbreviations
        ([*TRAIN, "--model_dir=x", "--gin.Recipe.seed", "=", "3"], "--gin.Recipe.seed: no value"),
        ([*TRAIN, "--model_dir=x", "--gin.Recipe.seed"], "write --gin.NAME=VALUE"),
        (["data", "show", "--gin_file=a.gin"], "invalid choice: 'show'"),
        (
            ["data", "prepare", "--gin_file=a.gin", "--pipeline_options=runner=Flink"],
            "expected options such as --runner=",
        ),
        (["import", "--model_dir=x", "--source=y", "--dtype=int8"], "invalid choice: 'int8'"),
        (["train", "--gin_file=a.gin", "--model_dir=x", "--step=" + "9" * 9000], "unrecognized"),
    ],
)
def test_bad_usage_is_one_line(capsys, arguments, said):
    code, out, err = _ends(capsys, *arguments)
    assert (code, out) == (2, "")
    assert said in err and err.count("\n") == 1 and len(err) < 600


def test_places_of_output_are_looked_at_first(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = _ends(capsys, "compare", str(tmp_path), f"--output={tmp_path / 'file'}")
    assert code == 2 and err.startswith(f"xalign: --output={tmp_path / 'file'}: ") and err.count("\n") == 1
    output = tmp_path / "file" / "x.json"
    arguments = ("compile", "--gin_file=recipes/nope.gin", "--topology=cpu:8", f"--output={output}")
    code, _, err = _ends(capsys, *arguments)
    assert code == 2 and err.startswith(f"xalign: --output={tmp_path / 'file'}: ") and err.count("\n") == 1


def test_what_there_is_is_listed_a_line_each(capsys):
    for kind, names in (
        ("recipes", ("recipes/prealign_clone_tiny.gin", "recipes/infoxlm_base.gin")),
        ("probes", ("@Perplexity()", "@SentenceRetrieval()")),
        ("objectives", ("@CausalLM()", "@XlCo()")),
        ("parametrizations", ("@Everything()", "@LowRank()")),
    ):
        code, out, err = _ends(capsys, "list", kind)
        lines = out.splitlines()
        assert (code, err) == (0, "") and {*names} <= {line.split()[0] for line in lines}
        assert all(len(line.split()) > 3 for line in lines)
    assert not any("parts/" in line for line in lines)


def test_a_recipe_is_shown_whole_and_the_file_gives_the_same_recipe(capsys, tmp_path):
    code, out, _ = _ends(capsys, "show", "--gin_file=recipes/prealign_clone_tiny.gin", "--gin.ALIGN_STEPS=7")
    (tmp_path / "whole.gin").write_text(out)
    assert code == 0 and "include" not in out and "%" not in out
    (whole,) = config.load([str(tmp_path / "whole.gin")], [], (Recipe,))
    (parts,) = config.load(["recipes/prealign_clone_tiny.gin"], ["ALIGN_STEPS=7"], (Recipe,))
    assert whole == parts
