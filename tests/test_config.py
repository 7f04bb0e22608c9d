"""Gin files become dataclasses; what nothing used, nobody knows or nobody gave is an error that names it."""

from __future__ import annotations

import dataclasses
import re

import gin
import pytest

from xalign_jax import cli, config
from xalign_jax import recipe as recipes
from xalign_jax.errors import UserError
from xalign_jax.interfaces import Everything, Feed, Objective
from xalign_jax.parametrizations.selection import Selection
from xalign_jax.recipe import Recipe, Runtime, Stage, Stream, freeze, identity
from xalign_jax.records.gin_text import as_gin


@gin.configurable(module="config_test")
@dataclasses.dataclass(frozen=True)
class Toy(Feed, Objective):
    """Anything a recipe can hold."""

    size: int = 3
    rates: tuple = ()
    inner: object = None

    def __post_init__(self):
        freeze(self)


@gin.configurable(module="config_test")
@dataclasses.dataclass(frozen=True)
class Absent(Toy):
    """What the recipe below has none of."""


BASE = """
SIZE = 5
Recipe.model = @Toy()
Recipe.vocabulary = @words/Toy()
Recipe.stages = [@pretrain/Stage()]
words/Toy.rates = {"en": 0.9, "de": 0.1}
words/Toy.size = %SIZE
pretrain/Stage.name = "pretrain"
pretrain/Stage.steps = 7
pretrain/Stage.streams = [@lm/Stream(), @more/Stream()]
pretrain/Stage.optimizer = @Toy()
pretrain/Stage.schedule = @pretrain/Toy()
pretrain/Toy.size = 11
lm/Stream.name = "lm"
lm/Stream.feed = @lm/Toy()
lm/Toy.rates = [1, 2]
lm/Stream.objective = @Toy()
lm/Stream.batch_size = 4
more/Stream.name = "more"
more/Stream.feed = @more/Toy()
more/Toy.inner = @deep/Toy()
deep/Toy.size = 99
more/Stream.objective = @Toy()
more/Stream.batch_size = 2
"""


def _write(tmp_path, text):
    path = tmp_path / "recipe.gin"
    path.write_text(text)
    return str(path)


def _load(tmp_path, text, bindings=()):
    return config.load([_write(tmp_path, text)], list(bindings), (Recipe, Runtime))


def test_lists_and_dicts_become_tuples_and_scopes_reach_their_objects(tmp_path):
    recipe, runtime = _load(tmp_path, BASE)
    stage = recipe.stages[0]
    assert isinstance(stage, Stage) and isinstance(stage.streams[0], Stream)
    assert recipe.vocabulary == Toy(5, (("en", 0.9), ("de", 0.1)))
    assert stage.schedule == stage.optimizer == Toy(11)  # an unscoped reference inherits its owner's scope
    assert stage.streams[0].feed == Toy(rates=(1, 2))
    assert stage.streams[1].feed.inner == Toy(99)
    assert sum(stage.steps for stage in recipe.stages) == 7 and runtime == Runtime()


def test_written_config_rebuilds_an_equal_recipe(tmp_path):
    recipe, runtime = _load(tmp_path, BASE, ["Runtime.prefetch = 7", "SIZE = 6"])
    text = as_gin(recipe, runtime)
    assert "%" not in text
    again, runtime_again = _load(tmp_path, text)
    assert again == recipe and runtime_again == runtime
    assert identity(again) == identity(recipe)


def test_a_value_that_a_file_takes_from_a_macro_may_be_replaced(tmp_path):
    recipe, _ = _load(tmp_path, BASE, ["words/Toy.size = 8"])
    assert recipe.vocabulary.size == 8
    (tmp_path / "base.gin").write_text(BASE)
    recipe, _ = _load(tmp_path, f"include '{tmp_path}/base.gin'\nwords/Toy.size = 9\n")
    assert recipe.vocabulary.size == 9
    with pytest.raises(UserError, match="macro OTHER"):
        _load(tmp_path, BASE + "OTHER = 3  # %OTHER\n", ["words/Toy.size = 8"])


def test_identity_depends_on_every_value(tmp_path):
    recipe, _ = _load(tmp_path, BASE)
    other, _ = _load(tmp_path, BASE, ["deep/Toy.size = 98"])
    assert identity(recipe) != identity(other)
    assert identity(recipe) != identity(dataclasses.replace(recipe, seed=1))


@pytest.mark.parametrize(
    ("extra", "bindings", "said"),
    [
        ("pretrian/Stage.steps = 3", (), "pretrian/Stage.steps; near: pretrain"),
        ("lm/Stage.steps = 3", (), "lm/Stage.steps"),
        ("UNUSED = 3", (), "macro UNUSED"),
        ("", ("SIZEE = 3",), "SIZEE: no gin file defines this macro; near: SIZE"),
        ("a/b/Toy.size = 3", (), "nested scope a/b/Toy"),
        ("Recipee.seed = 3", (), "Recipee"),
        ("Recipe.sead = 3", (), "sead"),
        ("include 'recipes/nowhere.gin'", (), "nowhere.gin"),
        ("Recipe.seed 3", (), "recipe.gin:25: expected NAME = VALUE"),
    ],
)
def test_what_gin_would_swallow_is_an_error(tmp_path, extra, bindings, said):
    with pytest.raises(UserError) as error:
        _load(tmp_path, BASE + extra, bindings)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("bindings", "said"),
    [
        ("Recipe.modules = 'mine'", "Recipe.modules = 'mine': expected a list"),
        ("lm/Stream.feed = @Toy", "lm/Stream.feed names @Toy: write @Toy()"),
        ("pretrain/Stage.probes = [@Toy]", "pretrain/Stage.probes names @Toy"),
        ("pretrain/Stage.steps = 0", "pretrain/Stage.steps = 0: must be at least 1"),
        ("lm/Stream.batch_size = 0", "lm/Stream.batch_size = 0: must be at least 1"),
        ("Recipe.model = 3", "Recipe.model = 3: expected an object, @NAME()"),
        ("Recipe.vocabulary = None", "Recipe.vocabulary = None: expected an object"),
        ("Recipe.stages = [3]", "Recipe.stages = (3,): expected an object, @Stage()"),
        ("Recipe.stages = [@Toy()]", "expected an object, @Stage()"),
        ("pretrain/Stage.streams = [@Toy()]", "expected an object, @Stream()"),
        ("pretrain/Stage.probes = [1]", "pretrain/Stage.probes = (1,): expected an object"),
        ("pretrain/Stage.schedule = 'linear'", "pretrain/Stage.schedule = 'linear': expected an object"),
        ("lm/Stream.feed = [@Toy()]", "expected an object"),
    ],
)
def test_values_of_the_wrong_kind_are_named(tmp_path, bindings, said):
    with pytest.raises(UserError, match=re.escape(said)):
        _load(tmp_path, BASE, [bindings])


def test_a_binding_of_one_run_that_reaches_nothing_is_named(tmp_path):
    with pytest.raises(UserError, match=r"--gin\.Absent\.size: the recipe has no Absent"):
        _load(tmp_path, BASE, ["Absent.size = 3"])
    with pytest.raises(UserError, match=r"--gin\.Stage\.steps reaches no Stage.* bind --gin\.pretrain/Stage\.steps"):
        _load(tmp_path, BASE, ["Stage.steps = 3"])
    recipe, _ = _load(tmp_path, BASE, ["Toy.size = 4"])  # some have a value of their own, the others take it
    assert (recipe.model.size, recipe.stages[0].optimizer.size) == (4, 11)
    _load(tmp_path, BASE + "Stage.steps = 3")  # of a file that other recipes include, too


def test_missing_values_are_named(tmp_path):
    macros = BASE.replace("SIZE = 5", "SIZE = %gin.REQUIRED")
    with pytest.raises(UserError, match=r"bind --gin\.SIZE: the recipe leaves them to you"):
        _load(tmp_path, macros)
    _load(tmp_path, macros, ["SIZE = 5"])
    with pytest.raises(UserError, match="stages"):
        _load(tmp_path, BASE.replace("Recipe.stages = [@pretrain/Stage()]", ""))


def test_a_missing_file_names_what_is_near():
    with pytest.raises(UserError, match=r"near: .*joint_clone_tiny\.gin"):
        config.load(["recipes/joint_clone_tny.gin"], [], (Recipe,))


def test_an_identity_is_of_what_differs_from_the_defaults(monkeypatch):
    cli.register()
    (recipe,) = config.load(["recipes/joint_clone_tiny.gin"], [], (Recipe,))
    (stage,) = recipe.stages
    said = dataclasses.replace(stage, combine="means", parametrization=Everything())
    assert identity(dataclasses.replace(recipe, stages=(said,))) == identity(recipe)
    other = dataclasses.replace(stage, parametrization=Selection(("model/head",)))
    assert identity(dataclasses.replace(recipe, stages=(other,))) != identity(recipe)
    before = identity(recipe)
    monkeypatch.setitem(recipes.MEANINGS, "CausalLM", 2)  # its default behaviour became another
    assert identity(recipe) != before
