"""XlCo: InfoXLM's cross-lingual contrast with a momentum encoder and a queue (Chi et al. 2021, arXiv 2007.07834).

    loss_i = - q_i.k_i / temperature + log sum_{c in candidates} exp(q_i.c / temperature)

The defaults follow the released code where the paper's wording differs. Vectors are projected first-token states of a
middle block, compared by raw dot products, not cosines. The candidates are a query's own key and the queue; other items
of the batch are none. Both views are corrupted as for masked language modelling.

The key encoder is a moving average of the model (`parts.momentum`). It changes slowly, so that the keys in the queue,
which come from earlier steps, stay comparable (He et al. 2020, arXiv 1911.05722, section 3.2).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import gin
import jax
import jax.numpy as jnp

from xalign_jax.errors import UserError
from xalign_jax.interfaces import Batch, Tree
from xalign_jax.objectives.parts import momentum as averages
from xalign_jax.objectives.parts import queue as ring
from xalign_jax.objectives.parts.contrast import Contrast, infonce, infonce_flops
from xalign_jax.objectives.parts.corruption import Corrupted, Corruption, corrupt
from xalign_jax.objectives.parts.momentum import ConstantMomentum, Momentum
from xalign_jax.objectives.parts.primitives import FORWARD, l2_normalize
from xalign_jax.objectives.parts.sentences import (
    KEY,
    POOLINGS,
    QUERY,
    PoolsSentences,
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
    from xalign_jax.models.model import Model, Params


@gin.configurable
@dataclasses.dataclass(frozen=True)
class XlCo(PoolsSentences):
    """Contrast of the two sides of a ContrastFeed's items, summed over items (and directions), counted by them.

    A candidate is masked if its item shares a group or a text with the query's item. Other translations of the same
    sentence are masked too.

    Batch: tokens, positions, segment_ids (R,T) int32 and the same with `key_`; group (R,S,P) int32, -1 = empty slot;
    text and key_text (R,S,P).

    Attributes:
      level: the level whose states are contrasted. The pass stops there. The published base model uses 8 of 12.
      pooling: as in `TranslationRanking`.
      projection: multiply with a trained (width, width) matrix without bias, which starts as N(0, 0.02^2).
      cosine: normalise the vectors; False = raw dot products (published).
      temperature: similarities are divided by it; published: 0.25 for raw dot products.
      queue: number of past keys kept; they are filled from data before the stage's first step; 0 = none.
      negatives: "queue" (published), "batch" (the other items of the global batch) or "both".
      momentum: the key encoder's moving average; None = the model itself encodes keys, and they have a gradient.
      both_directions: each side is the query once.
      corruption: corrupts both views; None = none.
    """

    level: int = gin.REQUIRED
    pooling: str = "first"
    projection: bool = True
    cosine: bool = False
    temperature: float = 0.25
    queue: int = 131_072
    negatives: str = "queue"
    momentum: Momentum | None = dataclasses.field(default_factory=ConstantMomentum)
    both_directions: bool = False
    corruption: Corruption | None = dataclasses.field(default_factory=Corruption)

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
        """Raise UserError if one step may push more keys than the queue holds."""
        # Shapes do not say which slots are empty, so every slot counts as an item.
        needed = batch["group"].shape[0] * batch["group"].shape[1] * (2 if self.both_directions else 1)
        if self.queue and self.queue < needed:
            raise UserError(f"XlCo.queue = {self.queue}: smaller than the {needed} keys that one step may push")

    def init(self, rng: jax.Array, model: Model) -> tuple[dict[str, Tree], dict[str, Tree]]:
        """Head "xlco" (the projection); state: the key encoder, the queue and the number of updates.

        Raises:
          UserError: the model lacks the level, `pooling` does not suit the model, or views are corrupted and the
            vocabulary has no mask piece.
        """
        check_encoder("XlCo", model, self.level, self.pooling)
        if self.corruption is not None and model.mask_id is None:
            raise UserError("XlCo.corruption: the vocabulary has no mask piece; set it to None")
        heads: dict[str, Tree] = {}
        if self.projection:
            # (width,width), without a bias.
            heads["xlco"] = {"projection": 0.02 * jax.random.normal(rng, (model.width, model.width))}
        state: dict[str, Tree] = {}
        if self.momentum is not None:
            # Zeros of the parameters' shapes; `prefill` copies the parameters.
            zeros = jax.tree.map(lambda array: jnp.zeros(array.shape, jnp.float32), (model.shapes, heads))
            state |= {"encoder": {"model": zeros[0], "heads": zeros[1]}, "updates": jnp.zeros((), jnp.int32)}
        if self.queue:
            state["queue"] = ring.empty(self.queue, model.width)
        return heads, state

    def state_axes(self, model: Model, state: dict[str, Tree]) -> dict[str, Tree]:
        """Logical axes of the state: the key encoder is sharded like the model, the queue by its rows."""
        # By default nothing is sharded. The heads of the key encoder and the number of updates are small and stay so.
        axes = super().state_axes(model, state)
        if "encoder" in state:
            axes["encoder"]["model"] = model.logical_axes()
        if "queue" in state:
            axes["queue"] = dict(ring.AXES)
        return axes

    def count(self, model: Model, batch: Batch, rng: jax.Array) -> jax.Array:
        """The number of queries, float32 scalar."""
        return items(batch) * (2 if self.both_directions else 1)

    def prefill(
        self, model: Model, state: dict[str, Tree], batches: Iterable[Batch], rng: jax.Array
    ) -> dict[str, Tree]:
        """The key encoder as a copy of the parameters, and the queue full of keys from the stream's first batches.

        Raises:
          UserError: a batch without a single pair.
        """
        if "encoder" in state:
            state = state | {"encoder": averages.copied(_own(model, state))}
        if not self.queue:
            return state

        def step(
            params: Params, heads: Mapping[str, Tree], state: dict[str, Tree], batch: Batch, rng: jax.Array
        ) -> tuple[dict[str, Tree], jax.Array]:
            keys = self._keys(model.bind(params, heads), state, batch, rng)
            return state | {"queue": self._push(state["queue"], keys, batch)}, items(batch)

        # The old state's memory is reused: there is no room for two queues and two encoders.
        push = jax.jit(step, donate_argnums=2)
        # The last batch may hold more keys than fit; the ring then overwrites the oldest ones.
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
        self, model: Model, batch: Batch, state: dict[str, Tree], rng: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array], dict[str, Tree]]:
        """(summed loss, metrics, state with this step's keys pushed).

        Metrics: `accuracy`, the mean similarity of positive pairs and of all pairs, and `queue_norm`, the root mean
        square norm of the queue's keys. Raw dot products saturate when norms grow.
        """
        directions = (batch, swapped(batch)) if self.both_directions else (batch,)
        found, pushed = [], dict(state)
        for number, views in enumerate(directions):
            # (R,T) -> (N,width) for both sides, with N = R S. Each view of each direction has its own corruption.
            query_rng, key_rng = _side_keys(rng, number)
            query = self._encode(model, side(views, QUERY), query_rng, self._slots(batch))
            key = self._keys(model, state, views, key_rng)
            # The contrast reads the queue of earlier steps in `state`; this step's keys go to `pushed`. So no query
            # meets its own batch in the queue, in either direction.
            found.append(self._contrast(query, key, state, views))
            if self.queue:
                pushed["queue"] = self._push(pushed["queue"], key, views)
        sums = jax.tree.map(lambda *parts: sum(parts), *found)
        return sums.loss, self._metrics(sums, state), pushed

    def corrupted(self, model: Model, batch: Batch, rng: jax.Array) -> dict[str, jax.Array]:
        """Both sides as the first direction reads them; {} without corruption."""
        if self.corruption is None:
            return {}
        shown: dict[str, jax.Array] = {}
        for which, key in zip((QUERY, KEY), _side_keys(rng, 0), strict=True):
            found = self._corrupt(self.corruption, model, side(batch, which), key)
            shown |= {f"{which}tokens": found.tokens, f"{which}chosen": found.chosen}
        return shown

    def after_update(self, model: Model, state: dict[str, Tree]) -> dict[str, Tree]:
        """The state with the key encoder moved towards the updated parameters."""
        if self.momentum is None:
            return state
        # Once in a step, whatever the number of directions.
        share = self.momentum.at(state["updates"])
        moved = averages.moved(state["encoder"], _own(model, state), share)
        return state | {"encoder": moved, "updates": state["updates"] + 1}

    def flops(self, model: Model, batch: Batch) -> float:
        """FLOPs of queries and keys up to the level, and of the products with the batch and the queue."""
        rows, length = batch["tokens"].shape
        items_at_most = batch["group"].shape[0] * batch["group"].shape[1]
        # Keys of the momentum encoder need no backward pass.
        sides = 1 + (1.0 if self.momentum is None else FORWARD)
        passes = sides * rows * length * self.level * model.block_flops_per_token(length)
        own = 0 if self.negatives == "queue" else infonce_flops(items_at_most, model.width)
        past = 4.0 * items_at_most * self.queue * model.width  # similarities, and the queries' gradient
        return (2 if self.both_directions else 1) * (passes + own + past)

    def _slots(self, batch: Batch) -> int:
        return batch["group"].shape[1]

    def _keys(self, model: Model, state: dict[str, Tree], batch: Batch, rng: jax.Array) -> jax.Array:
        """(N,width) vectors of the key side, by the key encoder if there is one."""
        if self.momentum is not None:
            # The average follows the model; no gradient moves it.
            encoder = jax.lax.stop_gradient(state["encoder"])
            model = model.bind(encoder["model"], encoder["heads"])
        return self._encode(model, side(batch, KEY), rng, self._slots(batch))

    def _encode(self, model: Model, rows: dict[str, jax.Array], rng: jax.Array, slots: int) -> jax.Array:
        """(N,width) float32 vectors of one side's rows (R,T): corrupted, encoded, pooled, projected."""
        if self.corruption is not None:
            rows = rows | {"corrupted": self._corrupt(self.corruption, model, rows, rng).tokens}
        vectors = sentence_vectors(model, rows, slots, self.level, self.pooling)
        if self.projection:
            # (N,width) x (width,width), accumulated in float32.
            vectors = jnp.matmul(vectors, model.heads["xlco"]["projection"], preferred_element_type=jnp.float32)
        return l2_normalize(vectors) if self.cosine else vectors

    def _corrupt(
        self, corruption: Corruption, model: Model, rows: Mapping[str, jax.Array], rng: jax.Array
    ) -> Corrupted:
        """One side's rows (R,T), corrupted."""
        return corrupt(rng, rows["tokens"], rows["segment_ids"], corruption, model.special, model.mask_id)

    def _contrast(self, query: jax.Array, key: jax.Array, state: dict[str, Tree], batch: Batch) -> Contrast:
        """`infonce` of (N,width) queries with their keys and the queue (K,width)."""
        query_ids, key_ids = contrast_ids(batch)
        # Without `in_batch`, only the own key and the queue are candidates (published).
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

    def _push(self, queue: ring.Queue, keys: jax.Array, batch: Batch) -> ring.Queue:
        """The queue with keys (N,width) and their ids pushed."""
        # (R,S,P) -> (N,P).
        group = batch["group"].reshape(-1, batch["group"].shape[-1])
        # The first two of (N,2P) hashes: the texts of key and query, or where P = 2 both texts of the key.
        texts = item_texts(batch)[:, : ring.PARTS]
        return ring.push(queue, jax.lax.stop_gradient(keys), group, texts)

    def _metrics(self, sums: Contrast, state: dict[str, Tree]) -> dict[str, jax.Array]:
        # Ratios of sums over the batch, 0 where nothing is present; the norm is the queue's before this step.
        metrics = {
            "accuracy": sums.correct / jnp.maximum(sums.anchors, 1),
            "positive_similarity": sums.positive_similarity / jnp.maximum(sums.positives, 1),
            "mean_similarity": sums.similarity / jnp.maximum(sums.pairs, 1),
        }
        if self.queue:
            metrics["queue_norm"] = jnp.sqrt(jnp.mean(jnp.sum(state["queue"]["keys"] ** 2, axis=1)))
        return metrics


def _side_keys(rng: jax.Array, direction: int) -> jax.Array:
    """The random keys of the query side and of the key side in a direction."""
    return jax.random.split(jax.random.fold_in(rng, direction))


def _own(model: Model, state: dict[str, Tree]) -> dict[str, Tree]:
    """The parameters that the key encoder follows: all of the model's, and this objective's heads."""
    return {"model": model.params, "heads": {name: model.heads[name] for name in state["encoder"]["heads"]}}
