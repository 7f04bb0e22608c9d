"""Maps of languages within a model: a rotated copy of a language is repaired, in any batch, and nothing else changes."""

from __future__ import annotations

import dataclasses

import hf_folders
import jax
import numpy as np
import pytest

import xalign_jax as xa
from xalign_jax.alignment.fitting import Method, fit_maps
from xalign_jax.alignment.maps import LinearMap
from xalign_jax.errors import UserError
from xalign_jax.evaluation.activations import Want
from xalign_jax.evaluation.language_maps import Fit, LanguageMaps, identified
from xalign_jax.evaluation.measures.retrieval import retrieval

LEVEL = 1
RNG = np.random.default_rng(0)
TEXTS = ["".join(RNG.choice(list("abcdefghij "), RNG.integers(8, 30))).strip() + "." for _ in range(90)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An encoder of 3 blocks and width 16."""
    path = tmp_path_factory.mktemp("maps") / "hf"
    hf_folders.write("xlm-r", path)
    return path


@pytest.fixture(scope="module")
def model(folder):
    return xa.load(folder)


@pytest.fixture(scope="module")
def turn():
    """A rotation (16,16) and an offset (16,): the second language is the first one, turned and moved at LEVEL."""
    return np.linalg.qr(RNG.normal(size=(16, 16)))[0], RNG.normal(size=16)


def turned(model, turn):
    """Maps that make English a second language "xx" at LEVEL."""
    away = LinearMap(turn[0], np.zeros(16))
    moved = dataclasses.replace(away, centre=-turn[1] @ turn[0].T)
    return LanguageMaps({"en": _nothing(), "xx": moved}, _zeros("en", "xx"), _fit(model))


def repair(model, turn, method="procrustes", space="pivot", count=50):
    """The first map after the second one, as a single map: fitted on the first texts of both languages."""
    there = model.mapped(turned(model, turn))
    vectors = {name: there.encode(TEXTS[:count], LEVEL, language=name) for name in ("en", "xx")}
    maps = fit_maps(vectors, Method(method, strength=1e-6))
    return LanguageMaps(maps, {name: side.mean(0) for name, side in vectors.items()}, _fit(model, space=space))


def through(model, turn, maps):
    """The model whose second language is turned and then repaired: both maps are affine, and so is their product."""
    first, second = turned(model, turn).maps["xx"], maps.maps["xx"]
    weight = first.weight @ second.weight
    # ((v - a) A - b) B = (v - c) A B with c A = a A + b.
    centre = first.centre + second.centre @ np.linalg.inv(first.weight)
    both = {"en": maps.maps["en"], "xx": LinearMap(weight, centre)}
    return model.mapped(dataclasses.replace(maps, maps=both))


def _nothing():
    return LinearMap(np.eye(16), np.zeros(16))


def _zeros(*names):
    return {name: np.zeros(16) for name in names}


def _fit(model, level=LEVEL, space="centred"):
    return Fit(level, model.model.num_layers, identified(model.model), "by hand", "mean", 50, space)


def read(model, texts=TEXTS[50:]):
    """{level: (English vectors, vectors of "xx")} in one pass over both languages."""
    both = [*texts, *texts]
    found = {level: np.zeros((len(both), 16)) for level in range(4)}
    for part in model.capture(both, Want((0, 1, 2, 3)), ["en"] * len(texts) + ["xx"] * len(texts)):
        for level, vectors in part.pooled["mean"].items():
            found[level][part.numbers] = vectors
    return {level: np.split(vectors, 2) for level, vectors in found.items()}


@pytest.mark.parametrize(("method", "space"), [("procrustes", "pivot"), ("ridge", "centred")])
def test_a_rotated_language_is_repaired_at_the_level_and_above(model, turn, method, space):
    broken = read(model.mapped(turned(model, turn)))
    mended = read(through(model, turn, repair(model, turn, method, space)))
    for level in (LEVEL, 2, 3):
        assert retrieval(*broken[level]).forward < 0.7
        assert retrieval(*mended[level]).forward == retrieval(*mended[level]).backward == 1.0
        np.testing.assert_allclose(*mended[level], atol=2e-2)
        if space == "pivot":  # the pivot is read as if there were no maps
            np.testing.assert_allclose(mended[level][0], broken[level][0], atol=1e-4)
    np.testing.assert_array_equal(broken[0], mended[0])


def test_the_states_of_a_level_are_what_the_map_says(model, turn):
    maps = turned(model, turn)
    found = model.mapped(maps).hidden(TEXTS[:5], (LEVEL, 2), language="xx")
    for states, plain in zip(found, model.hidden(TEXTS[:5], LEVEL), strict=True):
        np.testing.assert_allclose(states.states[LEVEL], maps.maps["xx"](plain.states[LEVEL]), atol=1e-5)
    # The mean of mapped states is the mapped mean.
    vectors = model.mapped(maps).encode(TEXTS, LEVEL, language="xx")
    np.testing.assert_allclose(vectors, maps.maps["xx"](model.encode(TEXTS, LEVEL)), atol=1e-5)


def test_languages_of_one_batch_on_eight_devices_are_as_alone(model, turn):
    assert len(jax.devices()) == 8
    maps = repair(model, turn)
    mapped = model.mapped(
        dataclasses.replace(maps, maps=maps.maps | {"yy": _nothing()}, means=maps.means | _zeros("yy"))
    )
    languages = [("en", "xx", "yy")[n % 3] for n in range(len(TEXTS))]
    together = mapped.encode(TEXTS, 3, language=languages)
    for n in (0, 1, 2, 50, 89):
        np.testing.assert_allclose(mapped.encode([TEXTS[n]], 3, language=languages[n])[0], together[n], atol=1e-5)
    apart = {name: mapped.encode(TEXTS, 3, language=name) for name in ("en", "xx", "yy")}
    np.testing.assert_allclose(together, [apart[name][n] for n, name in enumerate(languages)], atol=1e-5)
    (part,) = [p for p in mapped.capture(TEXTS[:1], Want((1, 3)), language="yy")]
    assert part.pooled["mean"][3].shape == (1, 16)


@pytest.mark.parametrize("method", ["cca", "vecmap", "barycentre"])
def test_maps_into_a_space_of_their_own_serve_vectors_of_their_level(model, turn, method):
    # Vectors are scaled to length 1 before they are centred, so an offset would bend their space.
    turn = turn[0], np.zeros(16)
    maps = repair(model, turn, method, "own", count=60)
    plain, mapped = model.mapped(turned(model, turn)), model.mapped(maps)
    assert not maps.inside
    for name in ("en", "xx"):
        wanted = maps.maps[name](model.encode(TEXTS, LEVEL))
        np.testing.assert_allclose(mapped.encode(TEXTS, LEVEL, language=name), wanted, atol=1e-4)
        np.testing.assert_array_equal(mapped.encode(TEXTS, 0, language=name), model.encode(TEXTS, 0))
    with pytest.raises(UserError, match="so level 2 of a mapped model cannot be read; read vectors of levels up to 1"):
        mapped.encode(TEXTS, 2, language="en")
    with pytest.raises(UserError, match="so states of tokens of a mapped model cannot be read"):
        mapped.hidden(TEXTS, 1, language="en")
    sides = [maps.maps[name](plain.encode(TEXTS[60:], LEVEL, language=name)) for name in ("en", "xx")]
    assert retrieval(*sides).forward > 0.95


def test_fewer_canonical_directions_make_narrower_vectors(model, turn):
    vectors = {name: model.encode(TEXTS, LEVEL) for name in ("en", "de")}
    maps = LanguageMaps(fit_maps(vectors, Method("cca", dimensions=5)), _zeros("en", "de"), _fit(model, space="own"))
    assert model.mapped(maps).encode(TEXTS[:3], LEVEL, language="de").shape == (3, 5)
    assert model.mapped(maps.centring()).encode(TEXTS[:3], 3, language="de").shape == (3, 16)


def test_what_is_saved_is_read_again(model, turn, tmp_path):
    maps = dataclasses.replace(repair(model, turn), texts=np.arange(3))
    maps.save(tmp_path / "maps")
    again = LanguageMaps.load(tmp_path / "maps")
    assert again.languages == ("en", "xx") and again.fit == maps.fit and (again.texts == maps.texts).all()
    for one in (maps, maps.centring()):
        other = again if one is maps else again.centring()
        for name in one.languages:
            np.testing.assert_array_equal(one.maps[name](np.eye(16)), other.maps[name](np.eye(16)))
    wanted = model.mapped(maps).encode(TEXTS, 3, language="xx")
    np.testing.assert_array_equal(model.mapped(tmp_path / "maps").encode(TEXTS, 3, language="xx"), wanted)
    for name in ("means.npz", "maps.npz", "maps.json"):
        content = (tmp_path / "maps" / name).read_bytes()
        (tmp_path / "maps" / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(UserError, match="damaged"):
            LanguageMaps.load(tmp_path / "maps")
        (tmp_path / "maps" / name).write_bytes(content)


def test_a_model_is_known_in_any_dtype_and_a_changed_one_is_not(model, folder):
    name = identified(model.model)
    assert identified(xa.load(folder, dtype="bfloat16").model) == name
    params = jax.tree.map(lambda leaf: leaf * 1.001, model.model.params)
    assert identified(model.model.bind(params)) != name


def test_bad_input_gives_one_line(model, turn, tmp_path):
    maps = repair(model, turn)
    mapped = model.mapped(maps)
    few = {name: np.ones((10, 16)) for name in ("en", "xx")}
    three = {name: RNG.normal(size=(40, 16)) for name in ("en", "de", "hi")}
    replaced = lambda **fields: dataclasses.replace(maps, fit=dataclasses.replace(maps.fit, **fields))  # noqa: E731
    narrow = {name: LinearMap(np.eye(8), np.zeros(8)) for name in ("en", "xx")}
    broken = maps.maps | {"xx": LinearMap(np.full((16, 16), np.nan), np.zeros(16))}
    for said, call in {
        "language 'de': the maps are of en, xx": lambda: mapped.encode(TEXTS, language="de"),
        "say which of en, xx": lambda: mapped.encode(TEXTS),
        "1 languages for 90 texts": lambda: mapped.encode(TEXTS, language=["en"]),
        "this model has no maps": lambda: model.encode(TEXTS, language="en"),
        "fitted at level 1 of 12, but the model has levels 0 to 3": lambda: model.mapped(replaced(layers=12)),
        "fitted at level 7 of 3": lambda: model.mapped(replaced(level=7)),
        "fitted on another model or checkpoint": lambda: model.mapped(replaced(model="0" * 12)),
        "width 8, but the model has width 16": lambda: model.mapped(
            LanguageMaps(narrow, {name: np.zeros(8) for name in narrow}, maps.fit)
        ),
        "the map of xx holds a number that is not finite": lambda: dataclasses.replace(maps, maps=broken),
        "scale vectors to length 1": lambda: dataclasses.replace(
            maps, maps={name: dataclasses.replace(m, scaled=True) for name, m in maps.maps.items()}
        ),
        "no mean of xx": lambda: dataclasses.replace(maps, means=_zeros("en")),
        "space = 'other'": lambda: replaced(space="other"),
        "no maps.json there": lambda: model.mapped(tmp_path),
        "10 pairs for 16 dimensions": lambda: fit_maps(few, Method("procrustes")),
        "cca is for a pair of languages alone": lambda: fit_maps(three, Method("cca")),
        "row i of all languages": lambda: fit_maps({"en": three["en"], "de": three["de"][:30]}, Method("ridge")),
        "row 0 of xx is not finite": lambda: fit_maps({"en": few["en"], "xx": few["en"] * np.nan}, Method("ridge")),
        "one language": lambda: fit_maps({"en": few["en"]}, Method("ridge")),
        "method = 'pca'": lambda: Method("pca"),
        "the method 'trained' needs a weight": lambda: Method("trained"),
        "the trained map has the shape": lambda: fit_maps(
            {"en": few["en"], "xx": few["en"]}, Method("trained", weight=np.eye(3))
        ),
        "score: maps change states": lambda: mapped.score(TEXTS),
        "generate: maps change states": lambda: mapped.generate(TEXTS),
    }.items():
        with pytest.raises(UserError, match=said) as raised:
            call()
        assert "\n" not in str(raised.value)
    assert fit_maps(three, Method("barycentre")).keys() == three.keys()
