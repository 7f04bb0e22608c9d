"""Training steps on sentence pairs beside the same losses in PyTorch, which pads where we pack.

    python benchmarks/sentence_pairs.py [--pairs=64] [--rounds=8] [--json=FILE]

Three losses: translation ranking (cosines / .05, both directions), distillation (squared errors to a teacher's vectors,
for both sides) and word alignment (awesome-align's self-training and consistency). Both sides take the same step: the same
weights and sentences, forward, backward, AdamW; float32, no dropout, --threads each. The first losses are checked to be
equal. Sentences have 4 to 40 tokens. Ours packs them into rows of 64; the other side pads a batch to its longest sentence,
as sentence-transformers does. A ratio is the median over alternating rounds of (theirs / ours). OpenMP threads wait passively: waiting actively on a busy machine would count in our favour.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import Any

os.environ["OMP_WAIT_POLICY"] = "PASSIVE"

import jax
import numpy as np
import torch
from masked_lm import DECAY, ORDINARY, RATE, Step, compared, hugging_face, ours
from rows import Row, add_json, write
from torch.nn import functional

from xalign_jax.interfaces import Batch, Objective
from xalign_jax.models.model import build
from xalign_jax.models.xlm_roberta import XLMRoberta
from xalign_jax.objectives.distillation import Distillation
from xalign_jax.objectives.translation_ranking import TranslationRanking
from xalign_jax.objectives.word_alignment import WordAlignment

SHAPE, PIECES = (6, 256, 8, 1024), 32_000
LENGTH, SLOTS, BATCHES = 64, 8, 4
BOS, PAD, EOS = 0, 1, 2
# The products of a random encoder's states are far from 0, so that a threshold alone says which tokens are linked.
TEMPERATURE, THRESHOLD = 0.05, 0.2
OBJECTIVES: dict[str, Objective] = {
    "ranking": TranslationRanking(pooling="mean", temperature=TEMPERATURE, margin=0.0),
    "distillation": Distillation(pooling="mean"),
    "words": WordAlignment(level=SHAPE[0], threshold=THRESHOLD, temperature=TEMPERATURE),
}
Pair = tuple[np.ndarray, np.ndarray]


def drawn(number: int, count: int) -> list[Pair]:
    """Sentence pairs of 4 to 40 tokens with bos and eos; both sides have about the same length."""
    rng = np.random.default_rng(number)
    found = []
    for length in np.clip(rng.lognormal(2.7, 0.5, count), 4, 36).astype(int):
        lengths = (length, int(np.clip(length + rng.integers(-3, 4), 4, 40)))
        found.append(tuple(np.r_[BOS, rng.integers(ORDINARY, PIECES, n - 2), EOS].astype(np.int32) for n in lengths))
    return found


def packed_alike(batches: list[list[Pair]]) -> list[Batch]:
    """Packed batches of one shape, as a feed has them: the last rows may be empty."""
    rows = [places(pairs) for pairs in batches]
    most = max(map(len, rows))
    return [packed(pairs, [*own, *[[]] * (most - len(own))]) for pairs, own in zip(batches, rows, strict=True)]


def places(pairs: list[Pair]) -> list[list[int]]:
    """The numbers of the pairs of each row: the first row with room on both sides takes a pair."""
    rows: list[list[int]] = []
    for number, pair in enumerate(pairs):
        for row in rows:
            used = [sum(len(pairs[other][side]) for other in row) for side in (0, 1)]
            if len(row) < SLOTS and all(have + len(new) <= LENGTH for have, new in zip(used, pair, strict=True)):
                row.append(number)
                break
        else:
            rows.append([number])
    return rows


def packed(pairs: list[Pair], rows: list[list[int]]) -> Batch:
    """The batch of a ContrastFeed: the sentences of a row, and their translations in the same slots."""
    batch: dict[str, np.ndarray] = {"group": np.full((len(rows), SLOTS, 1), -1, np.int32)}
    for row, numbers in enumerate(rows):
        batch["group"][row, : len(numbers), 0] = numbers
    for side, which in enumerate(("", "key_")):
        arrays = {name: np.zeros((len(rows), LENGTH), np.int32) for name in ("tokens", "positions", "segment_ids")}
        for row, numbers in enumerate(rows):
            at = 0
            for slot, number in enumerate(numbers):
                text = pairs[number][side]
                place = slice(at, at + len(text))
                arrays["tokens"][row, place], arrays["segment_ids"][row, place] = text, slot + 1
                arrays["positions"][row, place] = np.arange(len(text))
                at += len(text)
        batch |= {which + name: array for name, array in arrays.items()}
        # Every text is another one.
        batch[which + "text"] = (2 * batch["group"] + side).astype(np.uint32)
    return batch


def states(network: Any, texts: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """(n,T,D) states, and (n,T) 1.0 at tokens that are not special."""
    ids = torch.full((len(texts), max(map(len, texts))), PAD, dtype=torch.long)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = torch.from_numpy(text.astype(np.int64))
    return network(ids, attention_mask=(ids != PAD).long()).last_hidden_state, (ids >= ORDINARY).float()


def mean(found: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """(n,D) means over tokens that are not special."""
    h, own = found
    return (h * own[..., None]).sum(1) / own.sum(1, keepdim=True)


def ranking(network: Any, teacher: Any, source: list[np.ndarray], target: list[np.ndarray]) -> torch.Tensor:
    """The mean cross-entropy of rows, plus that of columns."""
    x, y = (functional.normalize(mean(states(network, side)), dim=1) for side in (source, target))
    scores, right = x @ y.T / TEMPERATURE, torch.arange(len(source))
    return functional.cross_entropy(scores, right) + functional.cross_entropy(scores.T, right)


def distillation(network: Any, teacher: Any, source: list[np.ndarray], target: list[np.ndarray]) -> torch.Tensor:
    """The squared errors of both sides' vectors to the teacher's of the source."""
    with torch.no_grad():
        wanted = mean(states(teacher, source))
    return sum((functional.mse_loss(mean(states(network, side)), wanted) for side in (source, target)), torch.zeros(()))


def words(network: Any, teacher: Any, source: list[np.ndarray], target: list[np.ndarray]) -> torch.Tensor:
    """awesome-align's two losses: means over sentence pairs."""
    (x, own_x), (y, own_y) = (states(network, side) for side in (source, target))
    x, y = functional.normalize(x, dim=2), functional.normalize(y, dim=2)
    scores = x @ y.transpose(1, 2) / TEMPERATURE
    both = own_x[:, :, None] * own_y[:, None, :]
    scores = scores - 1e4 * (1 - both)
    p, q = scores.softmax(2) * both, scores.softmax(1) * both
    links = ((p > THRESHOLD) & (q > THRESHOLD)).float().detach()
    m, n = own_x.sum(1), own_y.sum(1)
    training = (p * links).sum((1, 2)) / m + (q * links).sum((1, 2)) / n
    return -(training + (p * q).sum((1, 2)) / torch.minimum(m, n)).mean()


def theirs(loss: Callable[..., torch.Tensor], network: Any, teacher: Any, batches: list[list[Pair]]) -> Step:
    """The other side's step."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=DECAY)
    taken = iter(range(10**9))

    def step() -> float:
        source, target = zip(*batches[next(taken) % BATCHES], strict=True)
        optimizer.zero_grad(set_to_none=True)
        value = loss(network, teacher, list(source), list(target))
        value.backward()
        optimizer.step()
        return value.item()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    add_json(parser)
    options = parser.parse_args()
    # JAX takes the number of its threads from this.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    torch.set_num_threads(options.threads)
    shape = XLMRoberta(*SHAPE, max_length=LENGTH)
    model = build(shape, PIECES, special=np.arange(PIECES) < ORDINARY, mask_id=4)
    start = jax.device_get(jax.jit(model.init)(jax.random.key(0)))
    batches = [drawn(number, options.pairs) for number in range(BATCHES)]
    print(f"{options.pairs} pairs a step; {shape}; load of the machine {os.getloadavg()[0]:.1f}")
    rows: list[Row] = []
    same = packed_alike(batches)
    for name, loss in (("ranking", ranking), ("distillation", distillation), ("words", words)):
        held = {"teacher": start} if name == "distillation" else {}
        network, teacher = (hugging_face(shape, PIECES, start).roberta for _ in range(2))
        steps = {
            "ours": ours(model, OBJECTIVES[name], start, same, held),
            "theirs": theirs(loss, network, teacher, batches),
        }
        case, notes = f"{name}, {options.pairs} pairs", "other: the same loss in PyTorch, padded"
        rows += compared(case, steps, options.rounds, 1e-3, notes)
    write(options.json, rows)


if __name__ == "__main__":
    main()
