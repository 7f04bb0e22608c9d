"""XlCo: InfoXLM's cross-lingual contrast with a momentum encoder and a queue (Chi et al. 2021, arXiv 2007.07834).

    loss_i = - q_i.k_i / temperature + log sum_{c in candidates} exp(q_i.c / temperature)

As in the released code, not the paper's wording: raw dot products of projected first-token states of a middle block,
candidates are the own key and the queue. Both views are corrupted as for masked language modelling.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import gin
import jax
import jax.numpy as jnp

from xalign_jax.errors import UserError
from xalign_jax.interfaces import Batch, Objective
from xalign_jax.objectives.parts import momentum as averages
from xalign_jax.objectives.parts import queue as ring
from xalign_jax.objectives.parts.contrast import Contrast, infonce, infonce_flops
from xalign_jax.objectives.parts.corruption import Corruption, corrupt
from xalign_jax.objectives.parts.momentum import ConstantMomentum, Momentum
from xalign_jax.objectives.parts.primitives import l2_normalize
from xalign_jax.objectives.parts.sentences import (
    KEY,
    POOLINGS,
    QUERY,
    check_encoder,
    contrast_ids,
    item_texts,
    items,
    sentence_vectors,
    side,
    swapped,
)
from xalign_jax.recipe import freeze, one_of, within

if TYPE_CHECKING:
    from xalign_jax.models.model import Model


FORWARD = 1 / 3  # share of a pass without gradient: 2 of the 6 FLOPs per weight and token


@gin.configurable
@dataclasses.dataclass(frozen=True)
class XlCo(Objective):
    """Contrast of the two sides of a ContrastFeed's items, summed over items (and directions), counted by them.

    Candidates whose items share a group or a text with the query's are masked: other translations of the same sentence, too.

    Attributes:
      level: whose states are contrasted; the pass stops there (published: 8 of 12, large 12 of 24).
      pooling: "first" token or "mean" over ordinary tokens.
      projection: multiply with a trained (width, width) matrix without bias; it starts as N(0, 0.02^2).
      cosine: normalise the vectors; False = raw dot products (published).
      temperature: published 0.25 for raw dot products.
      queue: past keys kept, filled from data before the stage's first step; 0 = none.
      negatives: "queue" (published), "batch" (the other items of the global batch) or "both".
      momentum: the key encoder's moving average; None = keys of the model itself, with their gradient.
      both_directions: every side is query once.
      corruption: of both views; None = none.
    """

    level: int = gin.REQUIRED
    pooling: str = "first"
    projection: bool = True
    cosine: bool = False
    temperature: float = 0.25
    queue: int = 131_072
    negatives: str = "queue"
    momentum: Any = dataclasses.field(default_factory=ConstantMomentum)
    both_directions: bool = False
    corruption: Any = dataclasses.field(default_factory=Corruption)

    def __post_init__(self) -> None:
        freeze(self)
        one_of(self, "negatives", ("queue", "batch", "both"))
        one_of(self, "pooling", POOLINGS)
        within(self, "[0, inf)", "level", "queue")
        within(self, "(0, inf)", "temperature")
        if (self.negatives == "batch") != (self.queue == 0):
            raise UserError(f"XlCo.queue = {self.queue} with XlCo.negatives = {self.negatives!r}: one of them is wrong")
        if not (self.momentum is None or isinstance(self.momentum, Momentum)):
            raise UserError(f"XlCo.momentum = {self.momentum!r}: a schedule, as @ConstantMomentum(), or None")
        if not (self.corruption is None or isinstance(self.corruption, Corruption)):
            raise UserError(f"XlCo.corruption = {self.corruption!r}: @Corruption(), or None")

    def check(self, model: Model, batch: Batch) -> None:
        """Raise UserError if a step's items do not fit the queue."""
        needed = batch["group"].shape[0] * batch["group"].shape[1] * (2 if self.both_directions else 1)
        if self.queue and self.queue < needed:
            raise UserError(f"XlCo.queue = {self.queue}: smaller than the {needed} keys that one step may push")

    def init(self, rng: jax.Array, model: Model) -> tuple[dict[str, Any], dict[str, Any]]:
        """Head "xlco" (the projection); state: the key encoder, the queue and the number of updates.

        Raises:
          UserError: no such level or pooling, or views are corrupted and the vocabulary has no mask piece.
        """
        check_encoder("XlCo", model, self.level, self.pooling)
        if self.corruption is not None and model.mask_id is None:
            raise UserError("XlCo.corruption: the vocabulary has no mask piece; set it to None")
        heads: dict[str, Any] = {}
        if self.projection:
            heads["xlco"] = {"projection": 0.02 * jax.random.normal(rng, (model.width, model.width))}
        state: dict[str, Any] = {}
        if self.momentum is not None:  # becomes a copy of the parameters in `prefill`
            zeros = jax.tree.map(lambda array: jnp.zeros(array.shape, jnp.float32), (model.shapes, heads))
            state |= {"encoder": {"model": zeros[0], "heads": zeros[1]}, "updates": jnp.zeros((), jnp.int32)}
        if self.queue:
            state["queue"] = ring.empty(self.queue, model.width)
        return heads, state

    def state_axes(self, model: Model, state: Any) -> Any:
        """Logical axes of the state: the key encoder lies like the model, the queue by its rows."""
        axes = super().state_axes(model, state)
        if "encoder" in state:
            axes["encoder"]["model"] = model.logical_axes()
        if "queue" in state:
            axes["queue"] = dict(ring.AXES)
        return axes

    def count(self, model: Model, batch: Batch, rng: jax.Array) -> jax.Array:
        """Queries of the batch."""
        return items(batch) * (2 if self.both_directions else 1)

    def prefill(self, model: Model, state: Any, batches: Iterable[Any], rng: jax.Array) -> Any:
        """The key encoder as a copy of the parameters, and the queue full of keys of the stream's own first batches.

        Raises:
          UserError: a batch without a single pair.
        """
        if "encoder" in state:
            state = state | {"encoder": jax.tree.map(lambda x: x.astype(jnp.float32) + 0.0, _own(model, state))}
        if not self.queue:
            return state

        def step(params: Any, heads: Any, state: Any, batch: Any, rng: jax.Array) -> tuple[Any, jax.Array]:
            keys = self._keys(model.bind(params, heads), state, batch, rng)
            return state | {"queue": self._push(state["queue"], keys, batch)}, items(batch)

        push = jax.jit(step, donate_argnums=2)
        pushed = 0
        for number, batch in enumerate(batches):
            state, found = push(model.params, dict(model.heads), state, batch, jax.random.fold_in(rng, number))
            if not int(found):
                raise UserError("XlCo.queue: a batch of the stream holds no pair; see its feed's length and slots")
            pushed += int(found)
            if pushed >= self.queue:
                break
        return state

    def loss(
        self, model: Model, batch: Batch, state: dict[str, Any], rng: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array], dict[str, Any]]:
        """(summed loss, metrics, state with this step's keys pushed)."""
        directions = (batch, swapped(batch)) if self.both_directions else (batch,)
        found, pushed = [], dict(state)
        for number, views in enumerate(directions):
            query_rng, key_rng = jax.random.split(jax.random.fold_in(rng, number))
            query = self._encode(model, side(views, QUERY), query_rng, self._slots(batch))
            key = self._keys(model, state, views, key_rng)
            found.append(self._contrast(query, key, state, views))
            if self.queue:
                pushed["queue"] = self._push(pushed["queue"], key, views)
        sums = jax.tree.map(lambda *parts: sum(parts), *found)
        return sums.loss, self._metrics(sums, state), pushed

    def after_update(self, model: Model, state: dict[str, Any]) -> dict[str, Any]:
        """The key encoder moves towards the parameters that the optimiser has just left."""
        if self.momentum is None:
            return state
        share = self.momentum.at(state["updates"])
        moved = averages.moved(state["encoder"], _own(model, state), share)
        return state | {"encoder": moved, "updates": state["updates"] + 1}

    def flops(self, model: Model, batch: Batch) -> float:
        """Passes of queries and keys up to the level, and the products with the batch and the queue."""
        rows, length = batch["tokens"].shape
        items_at_most = batch["group"].shape[0] * batch["group"].shape[1]
        sides = 1 + (1.0 if self.momentum is None else FORWARD)
        passes = sides * rows * length * self.level * model.block_flops_per_token(length)
        own = 0 if self.negatives == "queue" else infonce_flops(items_at_most, model.width)
        past = 4.0 * items_at_most * self.queue * model.width  # similarities, and the queries' gradient
        return (2 if self.both_directions else 1) * (passes + own + past)

    def _slots(self, batch: Batch) -> int:
        return batch["group"].shape[1]

    def _keys(self, model: Model, state: Any, batch: Any, rng: jax.Array) -> jax.Array:
        if self.momentum is not None:
            encoder = jax.lax.stop_gradient(state["encoder"])
            model = model.bind(encoder["model"], encoder["heads"])
        return self._encode(model, side(batch, KEY), rng, self._slots(batch))

    def _encode(self, model: Model, rows: Any, rng: jax.Array, slots: int) -> jax.Array:
        if self.corruption is not None:
            tokens, segment_ids = rows["tokens"], rows["segment_ids"]
            found = corrupt(rng, tokens, segment_ids, self.corruption, model.special, model.mask_id)
            rows = rows | {"corrupted": found.tokens}
        vectors = sentence_vectors(model, rows, slots, self.level, self.pooling)
        if self.projection:
            vectors = jnp.matmul(vectors, model.heads["xlco"]["projection"], preferred_element_type=jnp.float32)
        return l2_normalize(vectors) if self.cosine else vectors

    def _contrast(self, query: jax.Array, key: jax.Array, state: Any, batch: Any) -> Contrast:
        query_ids, key_ids = contrast_ids(batch)
        past = state.get("queue")
        return infonce(
            query,
            key,
            query_ids,
            key_ids,
            self.temperature,
            in_batch=self.negatives != "queue",
            queue=None if past is None else past["keys"],
            queue_ids=None if past is None else ring.ids(past),
        )

    def _push(self, queue: ring.Queue, keys: jax.Array, batch: Any) -> ring.Queue:
        group = batch["group"].reshape(-1, batch["group"].shape[-1])
        texts = item_texts(batch)[:, : ring.PARTS]  # of mixup rows those of the key alone
        return ring.push(queue, jax.lax.stop_gradient(keys), group, texts)

    def _metrics(self, sums: Contrast, state: Any) -> dict[str, jax.Array]:
        metrics = {
            "accuracy": sums.correct / jnp.maximum(sums.anchors, 1),
            "positive_similarity": sums.positive_similarity / jnp.maximum(sums.positives, 1),
            "mean_similarity": sums.similarity / jnp.maximum(sums.pairs, 1),
        }
        if self.queue:
            metrics["queue_norm"] = jnp.sqrt(jnp.mean(jnp.sum(state["queue"]["keys"] ** 2, axis=1)))
        return metrics


def _own(model: Model, state: Any) -> dict[str, Any]:
    """The parameters that the key encoder follows: the model's, and those heads that it has."""
    return {"model": model.params, "heads": {name: model.heads[name] for name in state["encoder"]["heads"]}}
