"""What gin files may say: includes and their order, and mistakes as one line that names the option or the file and line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from xalign_jax import cli, config, gin_files
from xalign_jax.errors import UserError
from xalign_jax.recipe import Recipe, Runtime

JOINT = "recipes/joint_clone_tiny.gin"


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    cli.register()
    monkeypatch.chdir(tmp_path)


def _write(files: dict[str, str | bytes]) -> None:
    for name, text in files.items():
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())


def _recipe(*files: str, bindings: tuple[str, ...] = ()) -> Recipe:
    recipe, _ = config.load(files, bindings, (Recipe, Runtime))
    return recipe


def _refusal(*files: str, bindings: tuple[str, ...] = ()) -> str:
    with pytest.raises(UserError) as error:
        _recipe(*files, bindings=bindings)
    message = str(error.value)
    assert "\n" not in message and len(message) < 600
    return message


def test_a_users_file_may_have_the_name_of_the_packaged_file_it_includes():
    _write({JOINT: f"include '{JOINT}'\nRecipe.seed = 5\n"})
    assert _recipe(JOINT).seed == 5


def test_a_packaged_file_includes_packaged_files_only():
    _write({"models/llama_1m.gin": "Recipe.model = @Llama()\nLlama.layers = 2\n"})
    assert _recipe(JOINT).model.layers == 4
    _write({"mine.gin": f"include '{JOINT}'\ninclude 'models/llama_1m.gin'\n"})
    assert _recipe("mine.gin").model.layers == 2


@pytest.mark.parametrize("length", [1, 2, 3, 40])
def test_files_that_include_each_other_are_named(length):
    _write({f"f{n}.gin": f"\ninclude 'f{(n + 1) % length}.gin'\n" for n in range(length)})
    message = _refusal("f0.gin")
    assert message.startswith(f"f{length - 1}.gin:2: include 'f0.gin': a file cannot include itself: f0.gin includes ")
    assert message.endswith("includes f0.gin")


def test_includes_go_only_so_deep():
    _write({f"f{n}.gin": f"include 'f{n + 1}.gin'\n" for n in range(2000)})
    assert "f50.gin: includes are nested more than 50 files deep" in _refusal("f0.gin")


def test_a_cycle_is_named_from_where_it_begins():
    _write({"start.gin": "include 'a.gin'", "a.gin": "include './b.gin'", "b.gin": "include 'a.gin'"})
    assert _refusal("start.gin").endswith("a.gin includes b.gin includes a.gin")


IMPORTED = "Recipe.model = @Llama()\nLlama.layers = 1\nRecipe.vocabulary = @Vocabulary()\nVocabulary.rows = 9\n"


def test_a_model_that_a_recipe_included_after_it_would_replace_is_refused():
    _write({"runs/x/model.gin": IMPORTED, "wrong.gin": f"include 'runs/x/model.gin'\ninclude '{JOINT}'\n"})
    message = _refusal("wrong.gin")
    assert message == (
        "models/llama_1m.gin:3 would replace Llama.layers of runs/x/model.gin:2: "
        "include 'recipes/joint_clone_tiny.gin' before that"
    )
    assert f"give --gin_file={JOINT} before that" in _refusal("runs/x/model.gin", JOINT)
    _write({"right.gin": f"include '{JOINT}'\ninclude 'runs/x/model.gin'\n"})
    for files in (["right.gin"], [JOINT, "runs/x/model.gin"]):
        recipe = _recipe(*files)
        assert (recipe.model.layers, recipe.model.width, recipe.vocabulary.rows) == (1, 128, 9)


def test_a_value_that_an_include_after_it_would_replace_is_refused():
    _write({"mine.gin": f"PRETRAIN_STEPS = 5\n\ninclude '{JOINT}'\n"})
    assert "parts/tiny.gin:7 would replace PRETRAIN_STEPS of mine.gin:1" in _refusal("mine.gin")
    _write({"mine.gin": f"PRETRAIN_STEPS = 700\ninclude '{JOINT}'\n"})  # the same value either way
    assert _recipe("mine.gin").stages[0].steps == 700
    _write({"mine.gin": f"include '{JOINT}'\nPRETRAIN_STEPS = 5\n"})
    assert _recipe("mine.gin").stages[0].steps == 5


def test_a_value_given_before_the_file_that_asks_for_it_is_refused():
    _write({"mine.gin": 'TEXT = "lines:en=a"\n'})
    message = _refusal("mine.gin", "recipes/joint_pair_tiny.gin")
    assert "parts/own_text.gin:4 would replace TEXT of mine.gin:1" in message


def test_every_value_of_a_base_may_be_replaced():
    _write({"run.gin": "Runtime.log_every = 3\nRuntime.prefetch = 4\n", "runtimes.gin": "Runtime.log_every = 7\n"})
    _write({"mine.gin": "include 'runtimes.gin'\n"})
    (runtime,) = config.load(["mine.gin"], [], (Runtime,), base=["run.gin"])
    assert (runtime.log_every, runtime.prefetch) == (7, 4)


@pytest.mark.parametrize(
    ("binding", "said"),
    [
        ("PROBES=lines:en=a.txt", "--gin.PROBES=lines:en=a.txt: lines is not a value; a string needs quotes"),
        ("Vocabulary.path=runs/x", """a string needs quotes, --gin.NAME='"text"'"""),
        ("Vocabulary.path=/runs/x", "a string needs quotes"),
        ("Vocabulary.path=a b", "a string needs quotes"),
        ("Vocabulary.path=12b", "more than one value; a string needs quotes"),
        ("Vocabulary.lowercase=true", "write True, not true"),
        ("Vocabulary.lowercase=FALSE", "write False, not FALSE"),
        ("Recipe.facts=null", "--gin.Recipe.facts=null: write None, not null"),
        ("Recipe.seed=", "no value after ="),
        ("Recipe.seed", "expected NAME = VALUE"),
        ("", "expected one binding"),
        ('Mixture.rates={"en": 1', "a bracket or a quote is not closed"),
        ('Mixture.rates={"en": 1)', "Expected ',' or '}'"),
        ("Mixture.rates={“en”: 1}", "write quotes as"),
        ("Mixture.rates={[1]: 2}", "unhashable"),
        ("Recipe.seed: 3", "not NAME: VALUE"),
        ("Recipe.seed=1\nRecipe.seed=2", "expected one binding"),
        ("include 'parts/tiny.gin'", "expected one binding"),
        ("Recipe.model=@Lama()", "near: Llama"),
        ("Recip.seed=1", "near: Recipe"),
        ("Recipe.sead=1", "sead"),
        (f"Recipe.seed={'9' * 5000}", "is not a value"),
        (f"PROBES={'[' * 3000}", "bracket"),  # too many, or not closed: Python 3.12 counts them first
        ("Recipe.vocabulary=%NOPE", "%NOPE has no value; bind NOPE"),
        ("pretrain/Stage.steps=%gin.REQUIRED", "bind --gin.pretrain/Stage.steps"),
        ("Recipe.model=@Recipe()", "refers to itself"),
        ("PROBES=%PROBES", "refers to itself"),
        ("Recipe.model=@Llama", "Recipe.model names @Llama: write @Llama() for an object of it"),
    ],
)
def test_a_mistaken_option_is_named(binding, said):
    message = _refusal(JOINT, bindings=("Recipe.seed = 4", binding))
    assert said in message
    assert "Recipe.seed = 4" not in message  # options do not run into each other


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("\n# c\nRecipe.seed: 3\n", "a.gin:3: expected NAME = VALUE, not NAME: VALUE (it reads: Recipe.seed: 3)"),
        ("- a\n", "a.gin:1: expected NAME = VALUE"),
        ("Vocabulary.path = runs/x\n", 'a.gin:1: runs is not a value; a string needs quotes, NAME = "text"'),
        ("include parts/tiny.gin\n", "a.gin:1: parts is not a value; a string needs quotes"),
        ("include 'recipes/tin.gin'\n", "a.gin:1: include 'recipes/tin.gin': no such file"),
        ("include 'recipes'\n", "a.gin:1: include 'recipes': no such file"),
        ("Vocabulary.lowercase = true\n", "a.gin:1: write True, not true"),
        ("\n\nRecipe.modules = [1,\n2\n", "a.gin:3: a bracket or a quote is not closed"),
        ("\nRecipe.seed = '''x\n\n", "a.gin:2: a bracket or a quote is not closed"),
        (
            "Recipe.modules = [1\n\nRecipe.seed = 2\n",
            "a.gin:3: Expected ',' or ']'.; is a bracket of line 1 left open?",
        ),
        ("Recipe:\n\tseed = 1\n  modules = []\n", "a.gin:3: indent all lines of a block alike (it"),
        ("Recipe:\n  sead = 1\n", "a.gin:2: "),
        ("Recipe.seed = 1\nRecipe.model = @Lama()\n", "a.gin:2: No configurable matching"),
        ("Recipe.seed = 1\nRecip.model = 1\n", "a.gin:2: No configurable matching"),
        ("import no_such_module\n", "a.gin:1: import no_such_module failed: No module named"),
        (b"\xff\xfeR\0", "a.gin: byte 0 is not UTF-8"),
        ("Recipe.seed = 1\n", "a.gin: no value for Recipe.model"),
    ],
)
def test_a_mistake_in_a_file_is_named_by_its_line(text, said):
    _write({"a.gin": text})
    assert said in _refusal("a.gin")


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_files_of_other_editors_are_read(mark, end):
    lines = [f"include '{JOINT}'".encode(), b"Recipe:", b"\tseed = 3", b""]
    _write({"a.gin": mark + end.join(lines)})
    assert _recipe("a.gin").seed == 3


def test_a_part_of_a_recipe_names_what_it_lacks_and_what_includes_it():
    message = _refusal("parts/tiny.gin")
    assert "parts/pretrain_stage.gin:8: %PROBES has no value" in message
    assert "parts/tiny.gin may be a part of recipes: recipes/held_clone_tiny.gin, " in message
    message = _refusal("parts/xlco_stream.gin")
    assert (
        "no value for Recipe.model, Recipe.vocabulary, Recipe.stages; parts/xlco_stream.gin may be a part of recipes"
        in message
    )
    for other in re.findall(r"recipes/\w+\.gin", message):
        assert (gin_files.gin_root() / other).is_file()


def test_what_is_left_to_the_user_names_the_file_that_says_what_goes_there():
    message = _refusal("recipes/prealign_pair_tiny.gin")
    assert "bind --gin.TEXT, --gin.LANGUAGES, --gin.RATES, --gin.DICTIONARY" in message
    assert str(gin_files.gin_root() / "parts/own_text.gin") in message


@pytest.mark.parametrize(
    ("name", "close"),
    [
        ("recipes/nope.gin", None),
        ("recipes/zzz.gin", None),
        ("recipes/prealign_clone_tny.gin", "recipes/prealign_clone_tiny.gin"),
        ("prealign_clone_tiny.gin", "recipes/prealign_clone_tiny.gin"),
    ],
)
def test_only_names_that_look_alike_are_near(name, close):
    message = _refusal(name)
    assert f"--gin_file={name}: no such file" in message
    assert ("near: " in message) == (close is not None)
    assert close is None or f"near: {close}" in message
