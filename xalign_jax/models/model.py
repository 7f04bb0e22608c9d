"""A model as functions of plain parameters. NNX stays inside `models/`.

Levels: 0 = embedding output, l = output of block l, L = output of the last block after the final norm.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from xalign_jax import target
from xalign_jax.arrays import join_rows, split_rows
from xalign_jax.errors import UserError
from xalign_jax.interfaces import Inputs, States
from xalign_jax.models.layers import Sites
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


@jax.tree_util.register_pytree_node_class
class Model:
    """Functions of a parameter tree (nested dict of float32 arrays; blocks stacked along axis 0).

    `build` gives a model without parameters, which says shapes and draws initial values. `bind` gives it parameters, and
    with them states and scores:

        model = build(Llama(...), vocabulary_size=32000)
        bound = model.bind(model.init(rng))
        states = bound.hidden(Inputs(tokens, positions, segment_ids), levels=(0, 12))
    """

    params: Params = None
    heads: Mapping[str, Any] = MappingProxyType({})

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
        self.unbound = self  # compiled functions of a bound model are cached under this
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

    def tree_flatten(self) -> tuple[tuple[Any, ...], Model]:
        """Bound parameters are the leaves, so that functions under `jax.jit` take bound models."""
        return (self.params, dict(self.heads)), self.unbound

    @classmethod
    def tree_unflatten(cls, unbound: Model, children: tuple[Any, ...]) -> Model:
        """The inverse of `tree_flatten`."""
        return unbound.bind(*children)

    def in_dtype(self, dtype: Any) -> Model:
        """The model with matmuls and hidden states of another dtype, without parameters."""
        same = (self.config, self.vocabulary_size, self._row_map, self.special, self.mask_id)
        return Model(*same, jnp.dtype(dtype), self._remat, self._chunks)

    def bind(self, params: Params, heads: Mapping[str, Any] | None = None) -> Model:
        """The same model with parameters, and with the heads that objectives own.

        Args:
          heads: by name; None = those bound already.
        """
        bound = copy.copy(self)
        bound.params = params
        if heads is not None:
            bound.heads = heads
        return bound

    def hidden(
        self,
        inputs: Inputs,
        *,
        levels: Sequence[int],
        capture: Sequence[str] = (),
        edit: Mapping[int, Callable[[jax.Array], jax.Array]] | None = None,
    ) -> States:
        """Hidden states of the levels asked for; nothing past the highest one is computed.

        Args:
          capture: sites within blocks, "attention" (its output, width wide) or "mlp" (its neurons, after the
            activation). The result then also has `states[site, level]` for each of `levels` from 1 on.
          edit: functions by level, each applied to the states (B, T, width) of its level; what follows reads their
            result. For example `{8: lambda x: x - mean}` centres level 8.

        Raises:
          UserError: T is longer than the configured max_length; `types` for a model that has none.
        """
        name, length = type(self.config).__name__, inputs.tokens.shape[1]
        if length > self.max_length:
            raise UserError(f"rows of {length} tokens: longer than {name}.max_length = {self.max_length}")
        if inputs.types is not None and self.config.types == 1:
            raise UserError(f"{name}.types = 1: set the feed's language_types = False, or as many types as languages")
        if not 0 <= min(levels) <= max(levels) <= self.num_layers:
            raise ValueError(f"levels {tuple(levels)} of a model of {self.num_layers} layers")
        if unknown := set(capture) - set(Sites._fields):
            raise ValueError(f"capture of {sorted(unknown)}: the sites are {', '.join(Sites._fields)}")
        run = functools.partial(self._levels, levels=tuple(levels), capture=tuple(capture), edit=dict(edit or {}))
        if self._chunks == 1:
            return run(inputs)
        parts = jax.tree.map(functools.partial(split_rows, pieces=self._chunks), inputs)
        # Nothing outside a loop's body could share work with it, so there is no common subexpression to prevent.
        part = jax.checkpoint(run, prevent_cse=False)
        states = jax.lax.map(part, parts)
        return jax.tree.map(functools.partial(join_rows, count=inputs.tokens.shape[0]), states)

    def _levels(
        self,
        inputs: Inputs,
        levels: tuple[int, ...],
        capture: tuple[str, ...],
        edit: Mapping[int, Callable[[jax.Array], jax.Array]],
    ) -> States:
        """`hidden` of all rows at once."""
        network, (tokens, positions, segment_ids, types) = self._bound_network(), inputs
        rows = tokens if self._row_map is None else jnp.asarray(self._row_map)[tokens]
        x = spread(network.embed(rows, positions, types))
        x = edit[0](x) if 0 in edit else x
        collected: dict[Any, jax.Array] = {0: x}
        if max(levels) > 0:
            collected |= self._blocks(network, x, network.context(positions, segment_ids), levels, capture, edit)
        sites = {site: {level: collected[site, level] for level in levels if level} for site in capture}
        return States({level: collected[level] for level in levels}, sites)

    def _blocks(
        self,
        network: Any,
        x: jax.Array,
        context: Any,
        levels: tuple[int, ...],
        capture: tuple[str, ...],
        edit: Mapping[int, Callable[[jax.Array], jax.Array]],
    ) -> dict[Any, jax.Array]:
        """States and sites of blocks 1 to max(levels), by scans over slices of the stacked parameters."""
        block, stacked = nnx.split(network.layers)

        def apply(x: jax.Array, layer: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
            weights, full = layer
            x, sites = nnx.merge(block, weights)(x, context.of_layer(full))
            return spread(x), {name: getattr(sites, name) for name in capture}

        # Loops cost a small model a quarter of its speed on CPU; a deep model's compile time matters more.
        unroll = target.platform() == "cpu" and self.num_layers <= UNROLLED_LAYERS
        if self._remat:
            apply = jax.checkpoint(apply, prevent_cse=unroll)
        stop = max(levels)
        collected: dict[Any, jax.Array] = {}
        for first, last, collect in _slices({*levels, *(level for level in edit if 0 < level < stop)}, edit, stop):
            layers = jax.tree.map(lambda w, a=first, b=last: w[a:b], (stacked, context.full_layers))
            step = functools.partial(_step, apply, collect)
            with jax.named_scope("layers"):  # by which `scale.collectives` knows the loop
                x, (outputs, sites) = jax.lax.scan(step, x, layers, unroll=unroll)
            for level in range(first + 1, last + 1):
                collected |= {(name, level): values[level - first - 1] for name, values in sites.items()}
                if collect:
                    collected[level] = outputs[level - first - 1]
            x = edit[last](x) if last in edit and last < self.num_layers else x
            collected[last] = x
        if stop == self.num_layers:
            x = network.final_norm(x)
            collected[stop] = edit[stop](x) if stop in edit else x
        return collected

    def _bound_network(self) -> Any:
        if self.params is None:
            raise ValueError("the model has no parameters: model.bind(params)")
        return nnx.merge(self._graph, self.params)

    def head_input(self, h: jax.Array) -> jax.Array:
        """What is multiplied with the head's rows, from the hidden states of level L (..., width)."""
        return self._bound_network().head_input(h)

    def head_weight(self) -> jax.Array:
        """The head's rows (V, width) float32."""
        table = self._bound_network().head_table()[0]
        return table if self._row_map is None else table[jnp.asarray(self._row_map)]

    def head_rows(self, tokens: jax.Array) -> jax.Array:
        """The head's rows of tokens: (B, T) int32 -> (B, T, width) float32."""
        rows = tokens if self._row_map is None else jnp.asarray(self._row_map)[tokens]
        return lookup(self._bound_network().head_table()[0], rows)

    def head_bias(self) -> jax.Array | None:
        """The head's bias (V,) or None."""
        bias = self._bound_network().head_table()[1]
        return bias if bias is None or self._row_map is None else bias[jnp.asarray(self._row_map)]

    def pooled(self, h: jax.Array) -> jax.Array:
        """Sentence embeddings tanh(h W + b) from first tokens' states of level L: (..., width) -> (..., width).

        Raises:
          UserError: the model has no pooler.
        """
        if "pooler" not in self.params:
            raise UserError(f"{type(self.config).__name__} without a pooler; use the mean or the first token's states")
        return self._bound_network().pooled(h)

    def flops_per_token(self, length: int) -> float:
        """Model FLOPs of a forward and a backward pass per token of a row of `length` tokens.

        6 per weight of a matrix (lookups and a pooler are free) and the attention products with the keys that are seen.
        """
        c = self.config
        free = {"positions", "types", "pooler"} | (set() if self.tied else {"embedding"})
        weights = sum(a.size for a in jax.tree.leaves({k: v for k, v in self.shapes.items() if k not in free}))
        return 6.0 * weights + 12 * c.heads * c.head_size * c.keys_seen(length)

    @property
    def head_flops_per_token(self) -> float:
        """The share of `flops_per_token` that the output head takes."""
        shapes = self.shapes
        head = sum(a.size for name in shapes if name.startswith("head") for a in jax.tree.leaves(shapes[name]))
        return 6.0 * (head + (shapes["embedding"].size if self.tied else 0))

    def block_flops_per_token(self, length: int) -> float:
        """The share of `flops_per_token` that one block takes, their mean."""
        return (self.flops_per_token(length) - self.head_flops_per_token) / self.num_layers


def _step(apply: Callable[..., Any], collect: bool, x: jax.Array, layer: Any) -> tuple[jax.Array, Any]:
    x, sites = apply(x, layer)
    return x, (x if collect else None, sites)


def _slices(levels: set[int], edited: Container[int], stop: int) -> Iterator[tuple[int, int, bool]]:
    """Cut blocks 0..stop into slices (first, last, collect all outputs?) that end at the levels of interest.

    Neighbouring levels share a slice that collects every output, unless one is edited on the way; otherwise only a slice's
    end is kept.
    """
    first = 0
    while first < stop:
        last, collect = first + 1, first + 1 in levels
        while last < stop and last not in edited and (last + 1 in levels if collect else last not in levels):
            last += 1
        yield first, last, collect
        first = last
