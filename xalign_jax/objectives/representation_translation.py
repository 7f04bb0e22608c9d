"""Representation translation: a sentence's token states say what its translation is (DAP, Li et al. 2023).

The states X of a sentence and one mask token for each token of its translation y go through a small decoder. It holds
copies of the model's last blocks and of its masked-LM head, which train apart from the model (arXiv 2305.09148):

    loss = - sum_j log p(y_j | X, masks)       over the tokens of y but the first, where that one is special (bos)

DAP's code adds a tenth of it to a translation ranking. It hides the first tokens from the decoder, so that the other
states must carry the words.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import gin
import jax
import jax.numpy as jnp

from xalign_jax.errors import UserError
from xalign_jax.interfaces import Batch, Inputs, Objective, Tree
from xalign_jax.objectives.parts.momentum import copied
from xalign_jax.objectives.parts.primitives import predict_tokens
from xalign_jax.objectives.parts.sentences import KEY, QUERY, has_keys
from xalign_jax.recipe import at_least_one, freeze

if TYPE_CHECKING:
    from xalign_jax.models.model import Model

HEAD = "representation_translation"


@gin.configurable
@dataclasses.dataclass(frozen=True)
class RepresentationTranslation(Objective):
    """Predict the tokens of each key from the token states of its query; counted by the tokens of keys.

    The embeddings and the rows of the head stay the model's and get no gradient here. So this loss reaches the model
    through the states of queries alone. A model that was imported without a masked-LM head has drawn a fresh one, and
    the copy begins as that.

    Bind `ContrastFeed.pivot` to the language whose words are predicted, and `ContrastFeed.reverse = 1.0`.

    Batch of a ContrastFeed: tokens, positions, segment_ids (R,T) int32, and the same with `key_`.

    Attributes:
      blocks: the number of copied blocks. Every device holds the copies whole.
    """

    blocks: int = 2

    def __post_init__(self) -> None:
        freeze(self)
        at_least_one(self, "blocks")

    def init(self, rng: jax.Array, model: Model) -> tuple[dict[str, Tree], dict[str, Tree]]:
        """Head "representation_translation": the blocks and the head, zeros until `copied_heads`. No state.

        Raises:
          UserError: the model is causal or has too few blocks, or the vocabulary has no mask piece.
        """
        name, own = type(model.config).__name__, type(self).__name__
        if model.causal:
            raise UserError(f"Recipe.model = @{name}(): {own} needs a model that sees both sides, as @XLMRoberta()")
        if model.mask_id is None:
            raise UserError(f"Stream.objective = @{own}(): the vocabulary has no mask piece; choose one that has")
        if self.blocks > model.num_layers:
            raise UserError(f"{own}.blocks = {self.blocks}: the model has {model.num_layers} blocks")
        shapes = jax.eval_shape(self._decoder, model.shapes)
        return {HEAD: jax.tree.map(lambda array: jnp.zeros(array.shape, jnp.float32), shapes)}, {}

    def copied_heads(self, model: Model) -> dict[str, Tree]:
        """The last blocks and the masked-LM head, as they are now."""
        return {HEAD: copied(self._decoder(model.params))}

    def check(self, model: Model, batch: Batch) -> None:
        """Raise UserError for batches without keys."""
        if not has_keys(batch):
            raise UserError(
                "Stream.objective = @RepresentationTranslation(): it reads sentences and their translations; bind a "
                "ContrastFeed"
            )

    def count(self, model: Model, batch: Batch, rng: jax.Array) -> jax.Array:
        """The number of predicted tokens, float32 scalar."""
        return jnp.sum(_predicted(model, batch), dtype=jnp.float32)

    def loss(
        self, model: Model, batch: Batch, state: dict[str, Tree], rng: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array], dict[str, Tree]]:
        """(summed cross-entropy, metrics, state). Metric: `accuracy` of the predictions."""
        query, key = Inputs.of(batch, QUERY), Inputs.of(batch, KEY)
        states = model.hidden(query, levels=(model.num_layers,))[model.num_layers]
        decoder = model.bind({**jax.lax.stop_gradient(model.params), **model.heads[HEAD]})
        # (R,2T): the states of the queries, then a mask for each token of the keys. Translations share a segment, so
        # they see each other.
        assert model.mask_id is not None, "`init` has looked"
        masks = jnp.full_like(key.tokens, model.mask_id)
        tokens, positions, segments = (
            jnp.concatenate(pair, axis=1)
            for pair in ((query.tokens, masks), (query.positions, key.positions), (query.segment_ids, key.segment_ids))
        )
        hidden = jnp.concatenate([_first(model, query), _first(model, key)], axis=1)
        seen = jnp.broadcast_to(~hidden[:, None, :], (len(hidden), hidden.shape[1], hidden.shape[1]))
        inputs = Inputs(tokens, positions, segments, seen=seen, given=states)
        # (R,2T,width) -> (R T,width): the masks' states.
        h = decoder.hidden(inputs, levels=(self.blocks,))[self.blocks][:, states.shape[1] :]
        found = predict_tokens(
            decoder.head_input(h.reshape(-1, h.shape[-1])),
            decoder.head_weight(),
            decoder.head_bias(),
            key.tokens.reshape(-1),
            _predicted(model, batch).reshape(-1),
        )
        return found.loss, {"accuracy": found.correct / jnp.maximum(self.count(model, batch, rng), 1)}, state

    def flops(self, model: Model, batch: Batch) -> float:
        """FLOPs of all blocks on the queries, of the copied ones on both sides, and of the head on the keys."""
        rows, length = batch["tokens"].shape
        encoder = model.num_layers * model.block_flops_per_token(length)
        decoder = 2 * self.blocks * model.block_flops_per_token(2 * length)
        return rows * length * (encoder + decoder + model.head_flops_per_token)

    def _decoder(self, params: Tree) -> Tree:
        """The part of the parameters, or of their shapes, that is copied. Blocks are stacked along axis 0."""
        head = {name: tree for name, tree in params.items() if name.startswith("head")}
        return head | {"layers": jax.tree.map(lambda stacked: stacked[-self.blocks :], params["layers"])}


def _first(model: Model, inputs: Inputs) -> jax.Array:
    """(R,T) bool: the first tokens of sentences, if they are special."""
    return (inputs.segment_ids > 0) & (inputs.positions == 0) & jnp.asarray(model.special)[inputs.tokens]


def _predicted(model: Model, batch: Batch) -> jax.Array:
    """(R,T) bool: the tokens of keys that are predicted."""
    key = Inputs.of(batch, KEY)
    return (key.segment_ids > 0) & ~_first(model, key)
