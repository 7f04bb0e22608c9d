"""A model as plain functions of plain parameters. NNX stays inside `models/`.

Levels: 0 = embedding output, l = output of block l, L = output of the last block after the final norm.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from xalign_jax import target
from xalign_jax.errors import UserError
from xalign_jax.models.sharded_lookup import lookup, spread

Params = Any
UNROLLED_LAYERS = 8


def build(
    config: Any,
    vocabulary_size: int,
    *,
    row_map: Any = None,
    special: Any = None,
    mask_id: int | None = None,
    dtype: Any = jnp.float32,
    remat: bool = False,
    chunks: int = 1,
) -> Model:
    """The model that `config` (such as `Llama` or `XLMRoberta`) describes.

    Args:
      row_map: (vocabulary_size,) int32, the table row that each token id reads and is predicted by; None = its own.
      special: (vocabulary_size,) bool, ids that masking neither chooses nor draws (control pieces, unused rows).
      mask_id: the id that stands for a masked token; None = the vocabulary has none.
      dtype: of matmuls and hidden states; parameters, norms and softmax stay float32.
      remat: recompute each block's activations in the backward pass.
      chunks: run the rows of a batch in so many parts, one after another, each computed again in the backward pass:
        the same values and gradients from the memory of one part.
    """
    special = np.zeros(vocabulary_size, bool) if special is None else np.asarray(special, bool)
    if special.shape != (vocabulary_size,):
        raise ValueError(f"special of shape {special.shape} for a vocabulary of {vocabulary_size}")
    return Model(config, vocabulary_size, row_map, special, mask_id, dtype, remat, chunks)


class Model:
    """Functions of a parameter tree (nested dict of float32 arrays; blocks stacked along axis 0)."""

    def __init__(
        self,
        config: Any,
        vocabulary_size: int,
        row_map: Any,
        special: np.ndarray,
        mask_id: int | None,
        dtype: Any,
        remat: bool,
        chunks: int,
    ):
        self.config = config
        self.vocabulary_size = vocabulary_size
        self.num_layers: int = config.layers
        self.width: int = config.width
        self.tied: bool = config.tied
        self.max_length: int = config.max_length
        self.causal: bool = config.causal
        self.special = special
        self.mask_id = mask_id
        self._row_map = None if row_map is None else np.asarray(row_map, np.int32)
        self._dtype = dtype
        self._remat = remat
        self._chunks = chunks
        self._graph, self._variables = nnx.split(nnx.eval_shape(lambda: self._network(jax.random.key(0))))

    def _network(self, rng: jax.Array) -> Any:
        return self.config.network(self.vocabulary_size, self._dtype, nnx.Rngs(params=rng))

    @property
    def shapes(self) -> Params:
        """The parameters' tree with a `jax.ShapeDtypeStruct` in place of each array; nothing is computed or traced."""
        return nnx.to_pure_dict(nnx.filter_state(self._variables, nnx.Param))

    def init(self, rng: jax.Array) -> Params:
        """Fresh parameters; works under `jax.jit` and `jax.eval_shape`."""
        return nnx.to_pure_dict(nnx.state(self._network(rng), nnx.Param))

    def logical_axes(self) -> Params:
        """The parameters' tree with a tuple of logical axis names in place of each array."""
        parameters = nnx.filter_state(self._variables, nnx.Param)
        return nnx.to_pure_dict(nnx.map_state(lambda path, variable: variable.axes, parameters))

    def hidden(
        self,
        params: Params,
        tokens: jax.Array,
        positions: jax.Array,
        segment_ids: jax.Array,
        *,
        types: jax.Array | None = None,
        train: bool = False,
        levels: Sequence[int],
        stop_at_level: int | None = None,
    ) -> dict[int, jax.Array]:
        """Hidden states {level: (B,T,width)} of the levels asked for; nothing past the highest one is computed.

        Args:
          tokens, positions, segment_ids: (B,T) int32; segment 0 is padding.
          types: (B,T) int32 token types; None = all 0. A type that the model lacks gives NaN.
          train: unused (no dropout).
          stop_at_level: compute no further than this level; None = the highest of `levels`.

        Raises:
          UserError: T is longer than the configured max_length; `types` for a model that has none.
        """
        del train
        name = type(self.config).__name__
        if tokens.shape[1] > self.max_length:
            raise UserError(f"rows of {tokens.shape[1]} tokens: longer than {name}.max_length = {self.max_length}")
        if types is not None and self.config.types == 1:
            raise UserError(f"{name}.types = 1: set the feed's language_types = False, or as many types as languages")
        stop = max(levels) if stop_at_level is None else stop_at_level
        if not 0 <= min(levels) <= max(levels) <= stop <= self.num_layers:
            raise ValueError(f"levels {tuple(levels)} with stop_at_level {stop} of a model of {self.num_layers} layers")
        run = functools.partial(self._levels, levels=tuple(levels), stop=stop)
        if self._chunks == 1:
            return run(params, tokens, positions, segment_ids, types)
        parts = _split((tokens, positions, segment_ids, types), self._chunks)
        # Nothing outside a loop's body could share work with it, so there is no common subexpression to prevent.
        part = jax.checkpoint(lambda rows: run(params, *rows), prevent_cse=False)
        return _join(jax.lax.map(part, parts), tokens.shape[0])

    def _levels(
        self,
        params: Params,
        tokens: jax.Array,
        positions: jax.Array,
        segment_ids: jax.Array,
        types: jax.Array | None,
        levels: Sequence[int],
        stop: int,
    ) -> dict[int, jax.Array]:
        """`hidden` of all rows at once."""
        network = nnx.merge(self._graph, params)
        rows = tokens if self._row_map is None else jnp.asarray(self._row_map)[tokens]
        x = spread(network.embed(rows, positions, types))
        collected = {0: x}
        if stop > 0:
            collected |= self._blocks(network, x, network.context(positions, segment_ids), levels, stop)
        return {level: collected[level] for level in levels}

    def _blocks(
        self, network: Any, x: jax.Array, context: Any, levels: Sequence[int], stop: int
    ) -> dict[int, jax.Array]:
        """Outputs of blocks 1..stop at the levels asked for, by scans over slices of the stacked parameters."""
        block, stacked = nnx.split(network.layers)

        def apply(x: jax.Array, layer: Any) -> jax.Array:
            weights, full = layer
            return spread(nnx.merge(block, weights)(x, context.of_layer(full)))

        # Loops cost a small model a quarter of its speed on CPU; a deep model's compile time matters more.
        unroll = target.platform() == "cpu" and self.num_layers <= UNROLLED_LAYERS
        if self._remat:
            apply = jax.checkpoint(apply, prevent_cse=unroll)
        collected: dict[int, jax.Array] = {}
        for first, last, collect in _slices(levels, stop):
            layers = jax.tree.map(lambda w, a=first, b=last: w[a:b], (stacked, context.full_layers))
            step = functools.partial(_step, apply, collect)
            with jax.named_scope("layers"):  # by which `scale.collectives` knows the loop
                x, outputs = jax.lax.scan(step, x, layers, unroll=unroll)
            if collect:
                collected |= {first + 1 + i: outputs[i] for i in range(last - first)}
            collected[last] = x
        if stop == self.num_layers:
            collected[stop] = network.final_norm(x)
        return collected

    def head_input(self, params: Params, h: jax.Array) -> jax.Array:
        """What is multiplied with the head's rows, from the hidden states of level L (..., width)."""
        return nnx.merge(self._graph, params).head_input(h)

    def head_weight(self, params: Params) -> jax.Array:
        """The head's rows (V,width) float32."""
        table = nnx.merge(self._graph, params).head_table()[0]
        return table if self._row_map is None else table[jnp.asarray(self._row_map)]

    def head_rows(self, params: Params, tokens: jax.Array) -> jax.Array:
        """The head's rows of tokens: (B,T) int32 -> (B,T,width) float32."""
        rows = tokens if self._row_map is None else jnp.asarray(self._row_map)[tokens]
        return lookup(nnx.merge(self._graph, params).head_table()[0], rows)

    def head_bias(self, params: Params) -> jax.Array | None:
        """The head's bias (V,) or None."""
        bias = nnx.merge(self._graph, params).head_table()[1]
        return bias if bias is None or self._row_map is None else bias[jnp.asarray(self._row_map)]

    def pooled(self, params: Params, h: jax.Array) -> jax.Array:
        """Sentence embeddings tanh(h W + b) from first tokens' states of level L: (..., width) -> (..., width).

        Raises:
          UserError: the model has no pooler.
        """
        if "pooler" not in params:
            raise UserError(f"{type(self.config).__name__} without a pooler; use the mean or the first token's states")
        return nnx.merge(self._graph, params).pooled(h)

    def flops_per_token(self, length: int) -> float:
        """Model FLOPs of a forward and a backward pass per token of a row of `length` tokens.

        6 per weight of a matrix (lookups and a pooler are free) and the attention products with the keys that are seen.
        """
        c = self.config
        free = {"positions", "types", "pooler"} | (set() if self.tied else {"embedding"})
        weights = sum(a.size for a in jax.tree.leaves({k: v for k, v in self.shapes.items() if k not in free}))
        return 6.0 * weights + 12 * c.heads * c.head_size * c.keys_seen(length)


def _split(rows: Any, parts: int) -> Any:
    """Arrays (B,T) -> (parts, ceil(B/parts), T), padded with zeros: row i goes to part i % parts.

    Strided, so that every part spans all devices when rows are sharded.
    """

    def split(array: jax.Array) -> jax.Array:
        size = -(-array.shape[0] // parts)
        padded = jnp.pad(array, ((0, size * parts - array.shape[0]), (0, 0)))
        return padded.reshape(size, parts, -1).swapaxes(0, 1)

    return jax.tree.map(split, rows)


def _join(states: Any, count: int) -> Any:
    """The inverse of `_split` for arrays (parts, rows, T, width)."""
    return jax.tree.map(lambda a: a.swapaxes(0, 1).reshape(-1, *a.shape[2:])[:count], states)


def _step(apply: Callable[..., jax.Array], collect: bool, x: jax.Array, layer: Any) -> tuple[jax.Array, Any]:
    x = apply(x, layer)
    return x, x if collect else None


def _slices(levels: Sequence[int], stop: int) -> Iterator[tuple[int, int, bool]]:
    """Cut blocks 0..stop into slices (first, last, collect all outputs?) whose ends are the levels asked for.

    Neighbouring levels share a slice that collects every output; otherwise only a slice's end is kept.
    """
    first, wanted = 0, set(levels)
    while first < stop:
        last, collect = first + 1, first + 1 in wanted
        while last < stop and (last + 1 in wanted if collect else last not in wanted):
            last += 1
        yield first, last, collect
        first = last
