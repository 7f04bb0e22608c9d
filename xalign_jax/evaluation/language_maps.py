"""Maps of several languages at one level of a model, applied within the compiled pass.

Shapes: B rows, T tokens, K languages, D the model's width, E the width after the map.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from xalign_jax.alignment import checked
from xalign_jax.alignment.maps import LinearMap, load_maps, save_maps
from xalign_jax.errors import UserError
from xalign_jax.evaluation.encode import fetch, fingerprint
from xalign_jax.models.model import Model

if TYPE_CHECKING:
    from xalign_jax.evaluation.activations import Want

SPACES = ("pivot", "centred", "own")
_NUMBERS = 256  # of each array of parameters that tell models apart


@dataclasses.dataclass(frozen=True)
class Fit:
    """Where maps come from.

    Attributes:
      level: whose states they map.
      layers: L of the model.
      model: `identified` of the model.
      method: its name, for people.
      pooling: of the vectors on which they were fitted.
      n: pairs on which they were fitted.
      space: into which they lead. "pivot" is the pivot's states as the model has them. "centred" is the same without
        their mean. "own" is a space of the maps, such as the canonical directions of CCA.
    """

    level: int
    layers: int
    model: str
    method: str = ""
    pooling: str = ""
    n: int = 0
    space: str = "centred"


@dataclasses.dataclass(frozen=True)
class LanguageMaps:
    """A map of each language into one space, at one level of one model.

    Maps into the pivot's space apply to the states of all tokens, so that all levels above read mapped states. Maps
    into another space, of another width, or of vectors of length 1 apply to the pooled vectors of their level. The
    blocks above were trained on other states.

    Attributes:
      maps: by language, the pivot first.
      means: by language, the (D,) mean of the vectors on which the maps were fitted, for the baseline `centring`.
      fit: where the maps come from.
      texts: (n,) `encode.text_hashes` of the pivot's texts on which they were fitted, to find them in a test; empty = not known.
    """

    maps: Mapping[str, LinearMap]
    means: Mapping[str, np.ndarray]
    fit: Fit
    texts: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))

    def __post_init__(self) -> None:
        checked.choice("maps", "space", self.fit.space, SPACES)
        if not self.maps:
            checked.refuse("maps", "no language")
        first, pivot = next(iter(self.maps.items()))
        for name, fitted in self.maps.items():
            if fitted.weight.shape != pivot.weight.shape or fitted.scaled != pivot.scaled:
                checked.refuse("maps", f"the maps of {first} and {name} lead into different spaces")
            if name not in self.means or fitted.centre.shape != self.means[name].shape:
                checked.refuse("maps", f"no mean of {name}, or one of another width")
            if not all(np.isfinite(array).all() for array in (fitted.weight, fitted.centre, self.means[name])):
                checked.refuse("maps", f"the map of {name} holds a number that is not finite; fit it again")
        if self.inside and (pivot.scaled or pivot.weight.shape[0] != pivot.weight.shape[1]):
            checked.refuse(
                "maps",
                f'space = "{self.fit.space}" means states of the model, but these maps scale vectors to length 1 or '
                'change their width; their space is "own"',
            )

    @property
    def inside(self) -> bool:
        """Whether the maps apply to token states, so that levels above read them."""
        return self.fit.space != "own"

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages, the pivot first."""
        return tuple(self.maps)

    @property
    def width(self) -> int:
        """D."""
        return len(next(iter(self.maps.values())).centre)

    def centring(self) -> LanguageMaps:
        """The baseline: each language's mean is subtracted, and the pivot's is added if the space is the pivot's."""
        maps = {name: LinearMap(np.eye(self.width), mean) for name, mean in self.means.items()}
        space = "pivot" if self.fit.space == "pivot" else "centred"
        return dataclasses.replace(self, maps=maps, fit=dataclasses.replace(self.fit, method="centring", space=space))

    @property
    def shift(self) -> np.ndarray:
        """(E,) what is added to all that is mapped: the pivot's mean, if the space is the pivot's."""
        pivot = self.languages[0]
        return self.means[pivot] if self.fit.space == "pivot" else np.zeros(self.maps[pivot].weight.shape[1])

    def apply(self, language: str, vectors: np.ndarray) -> np.ndarray:
        """Vectors (...,D) of a language in the common space: (...,E) float64, on the host."""
        return self.maps[language](vectors) + self.shift

    def check(self, model: Model) -> None:
        """Raise UserError unless the maps were fitted on this model."""
        fit = self.fit
        if self.width != model.width:
            raise UserError(f"maps: fitted on states of width {self.width}, but the model has width {model.width}")
        if not 0 <= fit.level <= model.num_layers or fit.layers != model.num_layers:
            raise UserError(
                f"maps: fitted at level {fit.level} of {fit.layers}, but the model has levels 0 to {model.num_layers}"
            )
        if fit.model != (found := identified(model)):
            raise UserError(
                f"maps: fitted on another model or checkpoint (parameters {fit.model}, here {found}); fit them again "
                "with xalign map"
            )
        if self.inside and model.chunks > 1:
            raise UserError("maps: the model reads batches in parts; bind --gin.Runtime.accumulate=1")

    def of(self, languages: str | Sequence[str], count: int) -> Mapped:
        """The maps for `count` texts in one language, or in one language each.

        Raises:
          UserError: a language without a map, or another number of languages than of texts.
        """
        each = [languages] * count if isinstance(languages, str) else list(languages)
        if len(each) != count:
            raise UserError(f"language: {len(each)} languages for {count} texts; give one for all, or one for each")
        number = {name: k for k, name in enumerate(self.maps)}
        if unknown := [name for name in each if name not in number]:
            raise UserError(f"language {unknown[0]!r}: the maps are of {', '.join(self.maps)}")
        return Mapped(self, np.array([number[name] for name in each], np.int32))

    @functools.cached_property
    def stack(self) -> Stack:
        """All maps as arrays for a device."""
        maps = self.maps.values()
        weights, centres = (np.stack([getattr(m, f) for m in maps]).astype(np.float32) for f in ("weight", "centre"))
        scaled = next(iter(maps)).scaled
        return Stack(weights, centres, self.shift.astype(np.float32), self.fit.level, scaled, self.inside)

    def save(self, folder: Path) -> None:
        """Write a folder that `load` reads."""
        folder.mkdir(parents=True, exist_ok=True)
        save_maps(folder / "maps.npz", self.maps)
        with open(folder / "means.npz", "wb") as file:
            np.savez(
                file, allow_pickle=False, texts=self.texts, **{f"mean:{k}": mean for k, mean in self.means.items()}
            )
        about = {"languages": list(self.maps), **dataclasses.asdict(self.fit)}
        (folder / "maps.json").write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> LanguageMaps:
        """Read what `save` wrote.

        Raises:
          UserError: the folder is missing, damaged, or holds something else.
        """
        if not (folder / "maps.json").is_file():
            raise UserError(f"{folder}: no maps.json there; xalign map writes such a folder")
        maps = load_maps(folder / "maps.npz")
        try:
            about = json.loads((folder / "maps.json").read_text(encoding="utf-8"))
            languages = about.pop("languages")
            with np.load(folder / "means.npz") as arrays:
                means, texts = {name: arrays[f"mean:{name}"] for name in languages}, arrays["texts"]
            return cls({name: maps[name] for name in languages}, means, Fit(**about), texts)
        except (OSError, ValueError, KeyError, TypeError, EOFError, AttributeError, zipfile.BadZipFile):
            raise UserError(f"{folder}: damaged maps; fit them again with xalign map") from None


class Mapped(NamedTuple):
    """Maps, and which of them each text goes through.

    Attributes:
      numbers: (N,) int32 number of each text's language in `maps.languages`.
    """

    maps: LanguageMaps
    numbers: np.ndarray

    def check(self, want: Want) -> None:
        """Raise UserError if what is read lies where the maps are not defined."""
        level = self.maps.fit.level
        if self.maps.inside:
            return
        above = [read for read in want.levels if read > level]
        if above or want.tokens:
            read = f"level {above[0]}" if above else "states of tokens"
            raise UserError(
                f"maps: {self.maps.fit.method} maps pooled vectors of level {level} into a space of its own, so {read} "
                f"of a mapped model cannot be read; read vectors of levels up to {level}, or fit procrustes"
            )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Stack:
    """Maps of K languages on a device. One program serves all languages.

    Attributes:
      weights: (K,D,E) float32.
      centres: (K,D) float32.
      shift: (E,) float32, added to all that is mapped.
      level, scaled, inside: as in `LanguageMaps` and `LinearMap`.
    """

    weights: jax.Array | np.ndarray
    centres: jax.Array | np.ndarray
    shift: jax.Array | np.ndarray
    level: int = dataclasses.field(metadata={"static": True})
    scaled: bool = dataclasses.field(metadata={"static": True})
    inside: bool = dataclasses.field(metadata={"static": True})

    def __call__(self, states: jax.Array, numbers: jax.Array | np.ndarray) -> jax.Array:
        """(B,...,D) of rows in languages `numbers` (B,) int32 -> (B,...,E), in the dtype of the states."""
        x = states.astype(jnp.float32)
        if self.scaled:
            x = x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)

        def add(found: jax.Array, each: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, None]:
            # The map of one language. Those that no row is in cost nothing.
            number, weight, centre = each
            own = (numbers == number).reshape(-1, *[1] * (x.ndim - 1))
            mapped = lambda: jnp.where(own, jnp.matmul(x - centre, weight, precision="highest"), found)  # noqa: E731
            return jax.lax.cond(own.any(), mapped, lambda: found), None

        count, _, width = self.weights.shape
        # Zeros that are divided over devices as the states are.
        empty = jnp.zeros_like(x, shape=(*x.shape[:-1], width))
        each = jnp.arange(count), jnp.asarray(self.weights), jnp.asarray(self.centres)
        found, _ = jax.lax.scan(add, empty, each)
        return (found + self.shift).astype(states.dtype)

    def edits(self, numbers: jax.Array | np.ndarray) -> dict[int, Callable[[jax.Array], jax.Array]]:
        """For `Model.hidden(edit=...)`: the states of the level, if the maps apply to states."""
        return {self.level: lambda states: self(states, numbers)} if self.inside else {}


def identified(model: Model) -> str:
    """12 hex digits that tell a model with its parameters from others, whichever folder it was read from.

    They depend on the shapes of all arrays and on some numbers of each, rounded to bfloat16. So loading in bfloat16
    changes nothing, and a few steps of training change all.
    """
    columns: list[np.ndarray] = [np.array([model.num_layers, model.width])]
    for leaf in jax.tree.leaves(model.params):
        # The end of the array's last row, of the last block.
        some = leaf[(-1,) * (leaf.ndim - 1)][-_NUMBERS:] if leaf.ndim else leaf
        bits = fetch(jnp.asarray(some, jnp.bfloat16)).view(np.uint16)
        columns += [np.array(leaf.shape), bits]
    return fingerprint(*columns)
