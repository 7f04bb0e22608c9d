"""XlCo: InfoXLM's cross-lingual contrast with a momentum encoder and a queue (Chi et al. 2021, arXiv 2007.07834).

    loss_i = - q_i.k_i / temperature + log sum_{c in candidates} exp(q_i.c / temperature)

As in the released code, not the paper's wording: raw dot products of projected first-token states of a middle block,
candidates are the own key and the queue. Both views are corrupted as for masked language modelling.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import gin
import jax
import jax.numpy as jnp

from xalign_jax.errors import UserError
from xalign_jax.objectives.parts import momentum as averages
from xalign_jax.objectives.parts import queue as ring
from xalign_jax.objectives.parts.contrast import Contrast, infonce
from xalign_jax.objectives.parts.corruption import Corruption, corrupt
from xalign_jax.objectives.parts.momentum import ConstantMomentum
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


@gin.configurable
@dataclasses.dataclass(frozen=True)
class XlCo:
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
        if not (self.momentum is None or hasattr(self.momentum, "at")):
            raise UserError(f"XlCo.momentum = {self.momentum!r}: a schedule, as @ConstantMomentum(), or None")
        if not (self.corruption is None or isinstance(self.corruption, Corruption)):
            raise UserError(f"XlCo.corruption = {self.corruption!r}: @Corruption(), or None")

    def check(self, slots: int) -> None:
        """Raise UserError if a step of `slots` items does not fit the queue."""
        needed = slots * (2 if self.both_directions else 1)
        if self.queue and self.queue < needed:
            raise UserError(f"XlCo.queue = {self.queue}: smaller than the {needed} keys that one step may push")

    def init(self, rng: jax.Array, model: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Head "xlco" (the projection); memory: the key encoder, the queue and the number of updates.

        Raises:
          UserError: no such level or pooling, or views are corrupted and the vocabulary has no mask piece.
        """
        check_encoder("XlCo", model, self.level, self.pooling)
        if self.corruption is not None and model.mask_id is None:
            raise UserError("XlCo.corruption: the vocabulary has no mask piece; set it to None")
        heads: dict[str, Any] = {}
        if self.projection:
            heads["xlco"] = {"projection": 0.02 * jax.random.normal(rng, (model.width, model.width))}
        memory: dict[str, Any] = {}
        if self.momentum is not None:  # becomes a copy of the parameters in `prefill`
            zeros = jax.tree.map(lambda array: jnp.zeros(array.shape, jnp.float32), (model.shapes, heads))
            memory |= {"encoder": {"model": zeros[0], "heads": zeros[1]}, "updates": jnp.zeros((), jnp.int32)}
        if self.queue:
            memory["queue"] = ring.empty(self.queue, model.width)
        return heads, memory

    def memory_axes(self, model: Any, memory: Any) -> Any:
        """Logical axes of the memory: the key encoder lies like the model, the queue by its rows."""
        axes = jax.tree.map(lambda array: (None,) * len(array.shape), memory)
        if "encoder" in memory:
            axes["encoder"]["model"] = model.logical_axes()
        if "queue" in memory:
            axes["queue"] = dict(ring.AXES)
        return axes

    def count(self, model: Any, batch: Mapping[str, jax.Array], rng: jax.Array) -> jax.Array:
        """Queries of the batch."""
        return items(batch) * (2 if self.both_directions else 1)

    def prefill(self, model: Any, params: Any, memory: Any, batches: Iterable[Any], rng: jax.Array) -> Any:
        """The key encoder as a copy of the parameters, and the queue full of keys of the stream's own first batches.

        Raises:
          UserError: a batch without a single pair.
        """
        if "encoder" in memory:
            heads = {name: params["heads"][name] for name in memory["encoder"]["heads"]}
            own = {"model": params["model"], "heads": heads}
            memory = memory | {"encoder": jax.tree.map(lambda x: x.astype(jnp.float32) + 0.0, own)}
        if not self.queue:
            return memory

        def step(params: Any, memory: Any, batch: Any, rng: jax.Array) -> tuple[Any, jax.Array]:
            keys = self._keys(model, params, memory, batch, rng, train=False)
            return memory | {"queue": self._push(memory["queue"], keys, batch)}, items(batch)

        push = jax.jit(step, donate_argnums=1)
        pushed = 0
        for number, batch in enumerate(batches):
            memory, found = push(params, memory, batch, jax.random.fold_in(rng, number))
            if not int(found):
                raise UserError("XlCo.queue: a batch of the stream holds no pair; see its feed's length and slots")
            pushed += int(found)
            if pushed >= self.queue:
                break
        return memory

    def loss(
        self,
        model: Any,
        params: Any,
        memory: dict[str, Any],
        batch: Mapping[str, jax.Array],
        rng: jax.Array,
        train: bool = True,
    ) -> tuple[jax.Array, dict[str, jax.Array], dict[str, Any]]:
        """(summed loss, metrics, memory with this step's keys pushed)."""
        directions = (batch, swapped(batch)) if self.both_directions else (batch,)
        found, pushed = [], dict(memory)
        for number, views in enumerate(directions):
            query_rng, key_rng = jax.random.split(jax.random.fold_in(rng, number))
            query = self._encode(model, params, side(views, QUERY), query_rng, self._slots(batch), train)
            key = self._keys(model, params, memory, views, key_rng, train)
            found.append(self._contrast(query, key, memory, views))
            if self.queue:
                pushed["queue"] = self._push(pushed["queue"], key, views)
        sums = jax.tree.map(lambda *parts: sum(parts), *found)
        return sums.loss, self._metrics(sums, memory), pushed

    def after_update(self, params: Any, memory: dict[str, Any]) -> dict[str, Any]:
        """The key encoder moves towards the parameters that the optimiser has just left."""
        if self.momentum is None:
            return memory
        share = self.momentum.at(memory["updates"])
        old = memory["encoder"]
        own = {"model": params["model"], "heads": {name: params["heads"][name] for name in old["heads"]}}
        return memory | {"encoder": averages.moved(old, own, share), "updates": memory["updates"] + 1}

    def _slots(self, batch: Mapping[str, jax.Array]) -> int:
        return batch["group"].shape[1]

    def _keys(self, model: Any, params: Any, memory: Any, batch: Any, rng: jax.Array, train: bool) -> jax.Array:
        encoder = params if self.momentum is None else jax.lax.stop_gradient(memory["encoder"])
        return self._encode(model, encoder, side(batch, KEY), rng, self._slots(batch), train)

    def _encode(self, model: Any, params: Any, rows: Any, rng: jax.Array, slots: int, train: bool) -> jax.Array:
        if self.corruption is not None:
            tokens, segment_ids = rows["tokens"], rows["segment_ids"]
            found = corrupt(rng, tokens, segment_ids, self.corruption, model.special, model.mask_id)
            rows = rows | {"corrupted": found.tokens}
        vectors = sentence_vectors(model, params["model"], rows, slots, self.level, self.pooling, train)
        if self.projection:
            vectors = jnp.matmul(vectors, params["heads"]["xlco"]["projection"], preferred_element_type=jnp.float32)
        return l2_normalize(vectors) if self.cosine else vectors

    def _contrast(self, query: jax.Array, key: jax.Array, memory: Any, batch: Any) -> Contrast:
        query_ids, key_ids = contrast_ids(batch)
        past = memory.get("queue")
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

    def _metrics(self, sums: Contrast, memory: Any) -> dict[str, jax.Array]:
        metrics = {
            "accuracy": sums.correct / jnp.maximum(sums.anchors, 1),
            "positive_similarity": sums.positive_similarity / jnp.maximum(sums.positives, 1),
            "mean_similarity": sums.similarity / jnp.maximum(sums.pairs, 1),
        }
        if self.queue:
            metrics["queue_norm"] = jnp.sqrt(jnp.mean(jnp.sum(memory["queue"]["keys"] ** 2, axis=1)))
        return metrics
