"""Parameters of another run: restored, with new rows for the tokens that its vocabulary lacks."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh, NamedSharding

from xalign_jax.data.corpus import Corpus
from xalign_jax.data.lexicon.vectors import WordVectors, common_width, read_vectors
from xalign_jax.data.new_rows import RowSources, check_way, row_sources
from xalign_jax.data.tokens.tokenizer import Tokenizer
from xalign_jax.errors import UserError
from xalign_jax.interfaces import Tree
from xalign_jax.models.model import Model, build
from xalign_jax.recipe import Recipe, resolve
from xalign_jax.runtime import sharding, storage
from xalign_jax.runtime.restore import restore_heads, restore_model
from xalign_jax.training.state import Layout


def check(recipe: Recipe) -> None:
    """Check, before any text is read, that what the run starts from is there.

    Raises:
      UserError: `Recipe.init_from` is no model directory, `new_rows` lacks what it reads, or a file of `row_vectors` is
        missing or has another width than the others.
    """
    if recipe.init_from is not None:
        _source(recipe.init_from)
        check_way(recipe.new_rows, recipe.lexicon is not None, bool(recipe.row_vectors))
    if recipe.row_vectors:
        common_width("Recipe.row_vectors", [resolve(path) for path in recipe.row_vectors])


def initial_params(recipe: Recipe, model: Model, known: Layout, corpus: Corpus, mesh: Mesh) -> Tree:
    """{"model", "heads"} of `Recipe.init_from`, with rows for the tokens that its vocabulary lacks (`Recipe.new_rows`).

    A head is kept if the first stage, whose layout is `known`, has one of the same name and shapes. A line says which.

    Raises:
      UserError: no run is there, it holds another model, or `new_rows` cannot be made.
    """
    source = _source(recipe.init_from or "")
    # Compare the vocabulary that the other run wrote with this run's: None means that no row changes its place.
    old, new = Tokenizer.load(source / "vocabulary"), corpus.tokenizer
    sources = row_sources(old, new, recipe.new_rows, corpus.lexicon, _words(recipe.row_vectors))
    if sources is None:
        step, params = restore_model(source, None, model, mesh)
        return {"model": params, "heads": _heads(source, step, known, mesh)}
    ordinary = int(np.sum(~new.special))
    print(
        f"Recipe.init_from: {sources.kept} of {ordinary} rows are known, {sources.made} made by {recipe.new_rows!r}, "
        f"{ordinary - sources.kept - sources.made} the mean row",
        file=sys.stderr,
    )
    # The checkpoint has the old number of rows V. It is restored as a model of that size, and each table is then made
    # anew for W rows, already sharded as the new model wants it.
    step, params = restore_model(source, None, build(recipe.model, old.size), mesh)
    axes = model.logical_axes()
    where = sharding.parameter_shardings(axes, model.shapes, mesh)

    def extend(names: tuple[str | None, ...], table: jax.Array, to: NamedSharding) -> jax.Array:
        # Only tables by token have an axis "vocab", and it is their first.
        if "vocab" not in names:
            return table
        # (V, ...) -> (W, ...)
        return jax.jit(extended, out_shardings=to)(table, *_segments(sources), sources.ordinary)

    params = jax.tree.map(extend, axes, params, where, is_leaf=lambda node: isinstance(node, tuple))
    return {"model": params, "heads": _heads(source, step, known, mesh)}


def _source(init_from: str) -> epath.Path:
    """The model directory that parameters come from."""
    source = storage.directory("Recipe.init_from", resolve(init_from))
    if not (source / "vocabulary").is_dir():
        raise UserError(f"Recipe.init_from = {init_from!r}: no vocabulary there; is it a model directory?")
    return source


def _words(paths: Sequence[str]) -> WordVectors | None:
    """The words of all files of vectors, one file after another; None = there is no file."""
    read = [read_vectors(resolve(path)) for path in paths]
    if not read:
        return None
    return WordVectors([word for part in read for word in part.words], np.concatenate([part.vectors for part in read]))


def _heads(source: epath.Path, step: int, known: Layout, mesh: Mesh) -> dict[str, Tree]:
    """The heads of another run that this run keeps."""
    wanted, found = known.abstract_params["heads"], restore_heads(source, step, mesh)
    kept = {name for name, head in found.items() if _shapes(head) == _shapes(wanted.get(name))}
    for name in found:
        what = "is kept" if name in kept else "is left behind: the first stage has none of its name and shapes"
        print(f"Recipe.init_from: head {name!r} {what}", file=sys.stderr)
    return {name: found[name] for name in kept}


def _shapes(tree: Tree) -> Tree:
    return jax.tree.map(lambda array: tuple(array.shape), tree)


def _segments(sources: RowSources) -> tuple[np.ndarray, ...]:
    """`extended`'s (ids, weights, row, counts): the ragged lists of old rows, flat, with the new row of each."""
    # (W,) lengths of the lists. Row w of the new table occurs counts[w] times in `row`, which is ascending.
    counts = np.diff(sources.starts)
    rows = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    return sources.ids, sources.weights, rows, counts.astype(np.int32)


def extended(
    table: jax.Array, ids: np.ndarray, weights: np.ndarray, row: np.ndarray, counts: np.ndarray, ordinary: np.ndarray
) -> jax.Array:
    """(V,...) -> (W,...): row w is the sum of weights[j] table[ids[j]] over all j with row[j] = w, or all rows' mean.

    Args:
      table: rows by token along axis 0.
      ids, row: (n,) int32, `row` ascending.
      weights: (n,) float32, those of a row sum to 1.
      counts: (W,) int32, how often each row occurs in `row`; 0 = it gets the mean of all ordinary rows.
      ordinary: (V,) bool, the rows of that mean.
    """
    # Masks and counts of rows, as (rows, 1, ...), broadcast over the other axes of the table.
    shape = (-1,) + (1,) * (table.ndim - 1)
    # (W, ...) weighted sums of old rows.
    sums = jax.ops.segment_sum(table[ids] * weights.reshape(shape), row, len(counts), indices_are_sorted=True)
    # (...) the mean of all ordinary old rows.
    mean = jnp.sum(jnp.where(ordinary.reshape(shape), table, 0), axis=0) / ordinary.sum()
    return jnp.where(counts.reshape(shape) > 0, sums, mean)
