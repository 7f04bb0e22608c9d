"""Parameters of another run: restored, with new rows for the tokens that its vocabulary lacks."""

from __future__ import annotations

import sys

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh, NamedSharding

from xalign_jax.data.corpus import Corpus
from xalign_jax.data.new_rows import RowSources, row_sources
from xalign_jax.data.tokens.tokenizer import Tokenizer
from xalign_jax.errors import UserError
from xalign_jax.interfaces import Tree
from xalign_jax.models.model import Model, build
from xalign_jax.recipe import Recipe, resolve
from xalign_jax.runtime import sharding, storage
from xalign_jax.runtime.restore import restore_heads, restore_model
from xalign_jax.training.state import Layout


def initial_params(recipe: Recipe, model: Model, known: Layout, corpus: Corpus, mesh: Mesh) -> Tree:
    """{"model", "heads"} of `Recipe.init_from`, with rows for the tokens that its vocabulary lacks (`Recipe.new_rows`).

    A head is kept if the first stage, whose layout is `known`, has one of the same name and shapes. A line says which.

    Raises:
      UserError: no run is there, it holds another model, or `new_rows` cannot be made.
    """
    source = storage.directory("Recipe.init_from", resolve(recipe.init_from or ""))
    if not (source / "vocabulary").is_dir():
        raise UserError(f"Recipe.init_from = {recipe.init_from!r}: no vocabulary there; is it a model directory?")
    # Compare the vocabulary that the other run wrote with this run's: None means that no row changes its place.
    old, new = Tokenizer.load(source / "vocabulary"), corpus.tokenizer
    sources = row_sources(old, new, recipe.new_rows, corpus.lexicon)
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


def _segments(sources: RowSources) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`extended`'s (ids, row, counts): the ragged lists of old rows, flat, with the new row that each belongs to."""
    # (W,) lengths of the lists. Row w of the new table occurs counts[w] times in `row`, which is ascending.
    counts = np.diff(sources.starts)
    return sources.ids, np.repeat(np.arange(len(counts), dtype=np.int32), counts), counts.astype(np.int32)


def extended(table: jax.Array, ids: np.ndarray, row: np.ndarray, counts: np.ndarray, ordinary: np.ndarray) -> jax.Array:
    """(V,...) -> (W,...): row w is the mean of table[ids[j]] over all j with row[j] = w, or of all ordinary rows.

    Args:
      table: rows by token along axis 0.
      ids, row: (n,) int32, `row` ascending.
      counts: (W,) int32, how often each row occurs in `row`; 0 = it gets the mean of all ordinary rows.
      ordinary: (V,) bool, the rows of that mean.
    """
    # Masks and counts of rows, as (rows, 1, ...), broadcast over the other axes of the table.
    shape = (-1,) + (1,) * (table.ndim - 1)
    # (W, ...) sums of old rows.
    sums = jax.ops.segment_sum(table[ids], row, len(counts), indices_are_sorted=True)
    # (...) the mean of all ordinary old rows.
    mean = jnp.sum(jnp.where(ordinary.reshape(shape), table, 0), axis=0) / ordinary.sum()
    own = counts.reshape(shape)
    return jnp.where(own > 0, sums / jnp.maximum(own, 1), mean)
