"""A model as functions of plain parameters. NNX stays inside `models/`.

Levels: 0 = embedding output, l = output of block l, L = output of the last block after the final norm.

Shapes: B rows of T tokens, hidden states (B,T,width), V token ids, L blocks. The parameters of all blocks are stacked:
a matrix (n,m) of a block is an array (L,n,m).
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from xalign_jax import target
from xalign_jax.arrays import join_rows, split_rows
from xalign_jax.errors import UserError
from xalign_jax.interfaces import Inputs, ModelConfig, States
from xalign_jax.models.attention import Context
from xalign_jax.models.blocks import run_blocks
from xalign_jax.models.layers import Sites
from xalign_jax.models.sharded_lookup import lookup, spread

jax.tree_util.register_dataclass(States)  # results of compiled functions

Params = Any  # nested dicts of float32 arrays
UNROLLED_LAYERS = 8  # the most blocks whose loop is unrolled on a CPU


class Network(Protocol):
    """What a network consists of: `Model` calls these pieces in this order. `ModelConfig.network` makes it.

    Attributes:
      layers: one block with stacked parameters; (x, context) -> (x, Sites).
    """

    layers: nnx.Module

    def embed(self, rows: jax.Array, positions: jax.Array, types: jax.Array | None) -> jax.Array:
        """Level 0 (B,T,width), from table rows, positions and types (B,T)."""

    def context(self, positions: jax.Array, segment_ids: jax.Array) -> Context:
        """What all blocks share, from positions and segment ids (B,T)."""

    def final_norm(self, x: jax.Array) -> jax.Array:
        """The norm after the last block."""

    def head_input(self, h: jax.Array) -> jax.Array:
        """What the rows of the head multiply, from states of level L."""

    def head_table(self) -> tuple[jax.Array, jax.Array | None]:
        """The head's rows (rows of the table, width) and its bias; None = no bias."""

    def pooled(self, h: jax.Array) -> jax.Array:
        """Sentence embeddings; only networks with a pooler have them."""


def build(
    config: ModelConfig,
    vocabulary_size: int,
    *,
    row_map: np.ndarray | None = None,
    special: np.ndarray | None = None,
    mask_id: int | None = None,
    dtype: DTypeLike = jnp.float32,
    remat: bool = False,
    chunks: int = 1,
) -> Model:
    """The model that `config` (such as `Llama` or `XLMRoberta`) describes.

    Args:
      vocabulary_size: V, the number of token ids.
      row_map: (V,) int32, the table row by which each token id is read and predicted; None = its own row. Two ids with
        one row are tied.
      special: (V,) bool, ids that masking neither chooses nor draws (control pieces, unused rows); None = no id.
      mask_id: the id that stands for a masked token; None = the vocabulary has none.
      dtype: of matrix products and hidden states; parameters, norms and softmax stay float32.
      remat: compute each block's activations again in the backward pass instead of keeping them.
      chunks: run the rows of a batch in so many parts, one after another. The backward pass computes each part again.
        Values and gradients are the same, with the memory of one part.

    Raises:
      ValueError: `special` has another shape.
    """
    # Numpy, not JAX: objectives read it while they are traced, and it becomes a constant of the program.
    special = np.zeros(vocabulary_size, bool) if special is None else np.asarray(special, bool)
    if special.shape != (vocabulary_size,):
        raise ValueError(f"special of shape {special.shape} for a vocabulary of {vocabulary_size}")
    return Model(config, vocabulary_size, row_map, special, mask_id, dtype, remat, chunks)


@jax.tree_util.register_pytree_node_class
class Model:
    """Functions of a parameter tree: nested dicts of float32 arrays, those of blocks stacked along axis 0.

    `build` returns a model without parameters, which knows shapes and draws initial values. `bind` adds parameters, and
    with them the model computes states and scores:

        model = build(Llama(...), vocabulary_size=32000)
        bound = model.bind(model.init(rng))
        states = bound.hidden(Inputs(tokens, positions, segment_ids), levels=(0, 12))
        states[12]  # (B, T, width)

    No function returns logits, because (B,T,V) seldom fits in memory: `head_input` and `head_weight` are their factors.

    Attributes:
      params: bound parameters; None = none are bound.
      heads: {name: parameters} of objectives' heads.
      num_layers: L. width, tied, max_length, causal: as in `ModelConfig`.
      special: (V,) bool. mask_id, chunks: as in `build`.
      unbound: the same model without parameters.
    """

    params: Params = None
    heads: Mapping[str, Any] = MappingProxyType({})

    def __init__(
        self,
        config: ModelConfig,
        vocabulary_size: int,
        row_map: np.ndarray | None,
        special: np.ndarray,
        mask_id: int | None,
        dtype: DTypeLike,
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
        self.chunks = chunks
        self.unbound = self  # JAX caches compiled functions of bound models under this object
        # The structure of the network and its variables, with shapes in place of arrays. Nothing is computed.
        self._graph, self._variables = nnx.split(nnx.eval_shape(lambda: self._network(jax.random.key(0))))

    def _network(self, rng: jax.Array) -> nnx.Module:
        """The network with initial parameters."""
        return self.config.network(self.vocabulary_size, self._dtype, nnx.Rngs(params=rng))

    @property
    def shapes(self) -> Params:
        """The parameters' tree with a `jax.ShapeDtypeStruct` in place of each array. Nothing is computed or traced."""
        return nnx.to_pure_dict(nnx.filter_state(self._variables, nnx.Param))

    def init(self, rng: jax.Array) -> Params:
        """Fresh parameters; works under `jax.jit` and `jax.eval_shape`."""
        return nnx.to_pure_dict(nnx.state(self._network(rng), nnx.Param))

    def logical_axes(self) -> Params:
        """The parameters' tree with a tuple of logical axis names in place of each array."""
        parameters = nnx.filter_state(self._variables, nnx.Param)
        return nnx.to_pure_dict(nnx.map_state(lambda path, variable: variable.axes, parameters))

    def tree_flatten(self) -> tuple[tuple[Any, ...], Model]:
        """Bound parameters are the leaves, so that a function under `jax.jit` can take a bound model."""
        # All models bound from one `build` share `unbound`. So a function compiled for one of them serves them all.
        return (self.params, dict(self.heads)), self.unbound

    @classmethod
    def tree_unflatten(cls, unbound: Model, children: tuple[Any, ...]) -> Model:
        """The inverse of `tree_flatten`."""
        return unbound.bind(*children)

    def in_dtype(self, dtype: DTypeLike) -> Model:
        """The model with matrix products and hidden states of another dtype, without parameters."""
        # Parameters are float32 in every model, so they can be bound to the new one as they are.
        same = (self.config, self.vocabulary_size, self._row_map, self.special, self.mask_id)
        return Model(*same, jnp.dtype(dtype), self._remat, self.chunks)

    def bind(self, params: Params, heads: Mapping[str, Any] | None = None) -> Model:
        """The same model with parameters, and with the heads that objectives own.

        Args:
          heads: {name: parameters}; None = keep the heads that are bound.
        """
        # A shallow copy, so that a momentum encoder can be bound beside the model in one step.
        bound = copy.copy(self)
        bound.params = params
        if heads is not None:
            bound.heads = heads
        return bound

    def up_to(self, level: int) -> Model:
        """The same model without the blocks above `level`, for passes that read no higher level.

        Otherwise each pass copies the blocks that it needs out of the arrays of all blocks.
        """
        if self.params is None or level >= self.num_layers:
            return self
        # (L,..) -> (level,..), once.
        kept = jax.tree.map(lambda w: w[:level], self.params["layers"])
        return self.bind({**self.params, "layers": kept})

    def hidden(
        self,
        inputs: Inputs,
        *,
        levels: Sequence[int],
        capture: Sequence[str] = (),
        edit: Mapping[int, Callable[[jax.Array], jax.Array]] | None = None,
    ) -> States:
        """Hidden states (B,T,width) of some levels, in the model's dtype. Nothing above the highest level is computed.

        Args:
          levels: numbers from 0 to L, at least one, in any order.
          capture: sites within blocks: "attention" (its output, width wide) or "mlp" (its neurons, after the
            activation). The result then also has `states[site, level]` for each of `levels` from 1 on.
          edit: {level: function}. A function gets the states (B,T,width) of its level, and the levels above read its
            result. For example `{8: lambda x: x - mean}` centres level 8.

        Raises:
          UserError: more tokens are embedded than the configured max_length, or the inputs have `types` and the model has none.
          ValueError: a level or a site that does not exist.
        """
        # Shapes and names are known when JAX traces the function, so these checks cost nothing in a step.
        # Tokens whose states are given read no position.
        name, length = type(self.config).__name__, inputs.tokens.shape[1]
        length -= 0 if inputs.given is None else inputs.given.shape[1]
        if length > self.max_length:
            raise UserError(f"rows of {length} tokens: longer than {name}.max_length = {self.max_length}")
        if inputs.types is not None and self.config.types == 1:
            raise UserError(f"{name}.types = 1: set the feed's language_types = False, or as many types as languages")
        if not 0 <= min(levels) <= max(levels) <= self.num_layers:
            raise ValueError(f"levels {tuple(levels)} of a model of {self.num_layers} layers")
        if unknown := set(capture) - set(Sites._fields):
            raise ValueError(f"capture of {sorted(unknown)}: the sites are {', '.join(Sites._fields)}")
        run = functools.partial(self._levels, levels=tuple(levels), capture=tuple(capture), edit=dict(edit or {}))
        if self.chunks == 1:
            return run(inputs)
        # (B,T) -> (chunks,B/chunks,T) for every array of the inputs.
        parts = jax.tree.map(functools.partial(split_rows, pieces=self.chunks), inputs)
        # `prevent_cse` keeps XLA from merging the second computation with the first. It never merges a loop's body.
        part = jax.checkpoint(run, prevent_cse=False)
        states = jax.lax.map(part, parts)
        # (chunks,B/chunks,T,width) -> (B,T,width) for every level and site.
        return jax.tree.map(functools.partial(join_rows, count=inputs.tokens.shape[0]), states)

    def _levels(
        self,
        inputs: Inputs,
        levels: tuple[int, ...],
        capture: tuple[str, ...],
        edit: Mapping[int, Callable[[jax.Array], jax.Array]],
    ) -> States:
        """`hidden` for all rows at once."""
        network = self.bound_network()
        # (B,T) -> (B,T,width), rows spread over the mesh.
        with jax.named_scope("embedding"):
            x = spread(self._embedded(network, inputs))
        x = edit[0](x) if 0 in edit else x
        # States by level, and captured sites by (site, level).
        collected: dict[Any, jax.Array] = {0: x}
        if max(levels) > 0:
            context = network.context(inputs.positions, inputs.segment_ids)
            context = context if inputs.seen is None else context.limited(inputs.seen)
            collected |= run_blocks(
                network.layers,
                x,
                context,
                levels,
                capture,
                {level: function for level, function in edit.items() if 0 < level < self.num_layers},
                remat=self._remat,
                unroll=self.unrolled,
            )
        # Level L is after the final norm, and so is its edit.
        if self.num_layers in collected:
            x = network.final_norm(collected[self.num_layers])
            collected[self.num_layers] = edit[self.num_layers](x) if self.num_layers in edit else x
        # Level 0 lies before the first block, so it has no sites.
        sites = {site: {level: collected[site, level] for level in levels if level} for site in capture}
        return States({level: collected[level] for level in levels}, sites)

    def _embedded(self, network: Network, inputs: Inputs) -> jax.Array:
        """Level 0 (B,T,width): states that are given, then the embeddings of all other tokens."""
        if inputs.given is None:
            return network.embed(self.rows(inputs.tokens), inputs.positions, inputs.types)
        count = inputs.given.shape[1]
        tokens, positions, types = jax.tree.map(
            lambda array: array[:, count:], (inputs.tokens, inputs.positions, inputs.types)
        )
        x = network.embed(self.rows(tokens), positions, types)
        return jnp.concatenate([inputs.given.astype(x.dtype), x], axis=1)

    @property
    def unrolled(self) -> bool:
        """Whether loops over blocks are unrolled."""
        # On a CPU, a loop costs a small model a quarter of its speed. For a deep model, compile time matters more.
        return target.platform() == "cpu" and self.num_layers <= UNROLLED_LAYERS

    def bound_network(self) -> Network:
        """The network with the bound parameters in place of its variables."""
        if self.params is None:
            raise ValueError("the model has no parameters: model.bind(params)")
        return cast(Network, nnx.merge(self._graph, self.params))

    def head_input(self, h: jax.Array) -> jax.Array:
        """(..., width) -> (..., width): what the head's rows multiply, from the hidden states of level L.

        The logits of all tokens are `head_input(h) @ head_weight().T + head_bias()`.
        """
        return self.bound_network().head_input(h)

    def head_weight(self) -> jax.Array:
        """The head's rows (V,width) float32."""
        # With a row map, (rows,width) -> (V,width): tied ids get the same row.
        table = self.bound_network().head_table()[0]
        return table if self._row_map is None else table[jnp.asarray(self._row_map)]

    def head_rows(self, tokens: jax.Array) -> jax.Array:
        """The head's rows of tokens: (B,T) int32 -> (B,T,width) float32. The whole table is never gathered."""
        return lookup(self.bound_network().head_table()[0], self.rows(tokens))

    def rows(self, tokens: jax.Array) -> jax.Array:
        """Token ids -> rows of the table, which differ only with a row map; any shape."""
        return tokens if self._row_map is None else jnp.asarray(self._row_map)[tokens]

    def head_bias(self) -> jax.Array | None:
        """The head's bias (V,) float32; None = the head has none."""
        bias = self.bound_network().head_table()[1]
        return bias if bias is None or self._row_map is None else bias[jnp.asarray(self._row_map)]

    def pooled(self, h: jax.Array) -> jax.Array:
        """Sentence embeddings tanh(h W + b), from states of the first token at level L: (..., width) -> (..., width).

        Raises:
          UserError: the model has no pooler.
        """
        if "pooler" not in self.params:
            raise UserError(f"{type(self.config).__name__} without a pooler; use the mean or the first token's states")
        return self.bound_network().pooled(h)

    def flops_per_token(self, length: int) -> float:
        """FLOPs of a forward and a backward pass for one token of a row of `length` tokens.

        They are 6 for each weight of a matrix, and the attention products with the keys that the token sees. Lookups in
        tables and a pooler count as free.
        """
        c = self.config
        # An untied embedding is only looked up; a tied one is the matrix of the head as well.
        free = {"positions", "types", "pooler"} | (set() if self.tied else {"embedding"})
        weights = sum(a.size for a in jax.tree.leaves({k: v for k, v in self.shapes.items() if k not in free}))
        # 2 for a multiplication and an addition, times 3 for forward, gradient of inputs and gradient of weights.
        # Attention has two products with each key: scores and the weighted sum of values.
        return 6.0 * weights + 12 * c.heads * c.head_size * c.keys_seen(length)

    @property
    def head_flops_per_token(self) -> float:
        """The part of `flops_per_token` that the output head takes."""
        shapes = self.shapes
        # An encoder's head has a dense layer in addition to the table.
        head = sum(a.size for name in shapes if name.startswith("head") for a in jax.tree.leaves(shapes[name]))
        return 6.0 * (head + (shapes["embedding"].size if self.tied else 0))

    def block_flops_per_token(self, length: int) -> float:
        """The part of `flops_per_token` that one block takes, on average over the blocks."""
        return (self.flops_per_token(length) - self.head_flops_per_token) / self.num_layers
