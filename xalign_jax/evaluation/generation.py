"""Continuations of prompts, greedy or drawn (top-p), with a key/value cache.

Shapes: B prompts of a batch in rows of S places, V token ids. Prompts are padded on the left to T tokens, so that all
rows of a batch go on at the same place.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from xalign_jax.errors import UserError
from xalign_jax.evaluation.activations import bucket, length_batches
from xalign_jax.evaluation.encode import fetch
from xalign_jax.interfaces import Inputs
from xalign_jax.models.decoding import Cache, extend, prefill
from xalign_jax.models.model import Model

TOKENS_AT_ONCE = 2**12  # of the prompts of a batch
Ended = Callable[[np.ndarray], bool]  # whether a continuation (n,) ends with its last token


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
      tokens: most tokens of a continuation.
      temperature: divides the logits before a token is drawn; 0 = take the most probable token (greedy).
      top_p: draw among the most probable tokens that together have this probability (Holtzman et al. 2020, arXiv
        1904.09751), at least one; 1 = among all.
      seed: of the draws. A draw depends on the seed, the number of the prompt and the number of the token alone.
    """

    tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise UserError(f"max_new_tokens = {self.tokens}: at least 1")
        if not 0 <= self.temperature < float("inf"):
            raise UserError(f"temperature = {self.temperature}: a number of at least 0; 0 is greedy")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p = {self.top_p}: more than 0, and at most 1")
        if self.top_p < 1 and not self.temperature:
            raise UserError(
                f"top_p = {self.top_p} has no effect on greedy decoding; set temperature = 1.0, for example"
            )


def generate(
    model: Model, prompts: Sequence[np.ndarray], sampling: Sampling, eos: int | None, ended: Ended | None = None
) -> list[np.ndarray]:
    """The ids that follow each prompt, (n,) int32, without eos, at which a continuation ends.

    Args:
      prompts: (T,) int32 ids, at least one each, as the model reads them.
      ended: called after each token with the ids (n,) of each continuation so far. True ends the continuation there.

    Raises:
      UserError: the model is bidirectional, or a prompt with its continuation is longer than the model reads.
    """
    longest = max(map(len, prompts), default=0)
    if longest + sampling.tokens > model.max_length:
        raise UserError(
            f"a prompt of {longest} tokens and max_new_tokens = {sampling.tokens}: longer together than the model's "
            f"{model.max_length} tokens"
        )
    found: list[np.ndarray] = [np.zeros(0, np.int32)] * len(prompts)
    for index, batch in length_batches(prompts, model.max_length, TOKENS_AT_ONCE, "prompts"):
        # Rows that fill the batch have the number of its last prompt.
        rows = len(batch["tokens"])
        numbers = np.pad(index, (0, rows - len(index)), mode="edge")
        made = _continue(model, _left_padded(batch), numbers, sampling, eos, ended)
        for number, row in zip(index, made, strict=False):
            found[number] = row
    return found


def _left_padded(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The batch with each row's tokens at its end. Positions still count from 0 at the first token."""
    # (B,1) places that move from the end of a row to its beginning.
    room = (batch["segment_ids"] == 0).sum(1, keepdims=True)
    at = np.arange(batch["tokens"].shape[1]) - room
    tokens = np.where(at >= 0, np.take_along_axis(batch["tokens"], at.clip(0), 1), 0)
    return {"tokens": tokens, "room": room}


def _continue(
    model: Model,
    batch: dict[str, np.ndarray],
    numbers: np.ndarray,
    sampling: Sampling,
    eos: int | None,
    ended: Ended | None,
) -> list[np.ndarray]:
    """The continuations of one batch (B,T), a row each."""
    count, length = batch["tokens"].shape
    # A few numbers of places, as there are few lengths. The model may have no position for the last ones.
    places = min(bucket(length + sampling.tokens), model.max_length)
    # A bucket's padding may reach beyond the model; it is all on the left.
    if extra := max(0, length + sampling.tokens - places):
        batch = {"tokens": batch["tokens"][:, extra:], "room": batch["room"] - extra}
        length -= extra
    at = np.arange(places) - batch["room"]
    tokens = np.zeros((count, places), np.int32)
    tokens[:, :length] = batch["tokens"]
    positions, segment_ids = at.clip(0).astype(np.int32), (at >= 0).astype(np.int32)
    inputs = Inputs.of({"tokens": tokens, "positions": positions, "segment_ids": segment_ids})
    keys = jax.vmap(functools.partial(jax.random.fold_in, jax.random.key(sampling.seed)))(numbers)
    how = (sampling.temperature, sampling.top_p)
    end = -1 if eos is None else eos
    chosen, cache, done = _start(model, inputs, keys, length, *how, end)
    made = [fetch(chosen)]
    for step in range(1, sampling.tokens):
        if ended is not None:
            # Rows that end here repeat eos from now on, as if the model had chosen it.
            done = done | np.array([ended(row) for row in _until(made, end)])
        if fetch(done).all():
            break
        chosen, cache, done = _step(
            model, inputs, chosen, cache, done, keys, np.int32(length), np.int32(step), *how, end
        )
        made.append(fetch(chosen))
    return _until(made, end)


def _until(made: Sequence[np.ndarray], end: int) -> list[np.ndarray]:
    """The ids of each row, (n,) int32, up to the first `end`; `made` holds the ids (B,) of each step."""
    ids = np.stack(made, axis=1)
    ends = np.where((ids == end).any(1), (ids == end).argmax(1), ids.shape[1])
    return [row[:stop].astype(np.int32) for row, stop in zip(ids, ends, strict=True)]


@functools.partial(jax.jit, static_argnames=("length", "temperature", "top_p", "eos"))
def _start(
    model: Model, inputs: Inputs, keys: jax.Array, length: int, temperature: float, top_p: float, eos: int
) -> tuple[jax.Array, Cache, jax.Array]:
    """Read the prompts; returns the first chosen ids (B,) int32, the cache, and which rows have ended (B,) bool."""
    prompt = jax.tree.map(lambda array: array[:, :length], inputs)
    states, cache = prefill(model, prompt, inputs.tokens.shape[1])
    chosen = _choose(model, states[:, -1], keys, 0, temperature, top_p)
    return chosen, cache, chosen == eos


@functools.partial(jax.jit, static_argnames=("temperature", "top_p", "eos"), donate_argnames="cache")
def _step(
    model: Model,
    inputs: Inputs,
    last: jax.Array,
    cache: Cache,
    done: jax.Array,
    keys: jax.Array,
    length: jax.Array,
    step: jax.Array,
    temperature: float,
    top_p: float,
    eos: int,
) -> tuple[jax.Array, Cache, jax.Array]:
    """Read the ids `last` (B,) that step - 1 chose, and choose the next ones."""
    at = length + step - 1
    tokens = jax.lax.dynamic_update_slice(inputs.tokens, last[:, None], (0, at))
    states, cache = extend(model, inputs._replace(tokens=tokens), cache, at)
    chosen = _choose(model, states[:, 0], keys, step, temperature, top_p)
    # Rows that have ended repeat eos.
    chosen = jnp.where(done, eos, chosen)
    return chosen, cache, done | (chosen == eos)


def _choose(
    model: Model, states: jax.Array, keys: jax.Array, step: jax.Array | int, temperature: float, top_p: float
) -> jax.Array:
    """The next ids (B,) int32, from states (B,D) of level L and a key for each row."""
    logits = model.head_input(states).astype(jnp.float32) @ model.head_weight().astype(jnp.float32).T
    bias = model.head_bias()
    logits = logits if bias is None else logits + bias
    if not temperature:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    logits = logits / temperature
    if top_p < 1:
        # (B,V) in falling order. An id stays if those before it have less than `top_p` together.
        order = jnp.argsort(-logits, axis=-1)
        ordered = jnp.take_along_axis(jax.nn.softmax(logits, axis=-1), order, axis=-1)
        kept = jnp.cumsum(ordered, axis=-1) - ordered < top_p
        logits = jnp.where(kept, jnp.take_along_axis(logits, order, axis=-1), -jnp.inf)
    drawn = jax.vmap(lambda key, row: jax.random.categorical(jax.random.fold_in(key, step), row))(keys, logits)
    drawn = drawn[:, None]
    return (jnp.take_along_axis(order, drawn, axis=-1) if top_p < 1 else drawn)[:, 0].astype(jnp.int32)
