"""The word contrast (PreAlign, stage 1) on packed words against Hugging Face's LlamaModel on right-padded words.

    python benchmarks/dictionary_stage.py [--model=1m] [--concepts=128] [--rounds=12] [--dictionary=FILE.tsv.gz]
                                          [--json=FILE]

Both sides take the same step: the same words, Llama weights, levels 0..L and head, masks, AdamW; float32, --threads
each. The first losses are checked to be equal. Ours makes its batch within the time (packing, transfer). The other
side's arrays, masks included, are made beforehand. Padding is measured twice: to 30 tokens, as in PreAlign's released
loader, and to the batch's longest word. Rounds of the three alternate; a ratio is the median over rounds of (theirs /
ours), of wall and of process time. OpenMP threads wait passively: waiting actively on a busy machine made the other
side up to 17 times slower, which would have been counted in our favour.

Words come from a dictionary file (a<TAB>b). Both sides of an entry are one word of at most 8 pieces of a SentencePiece
model of 8192 that is trained on the file. Without a file, lengths are drawn from those of FreeDict English-German.
"""

from __future__ import annotations

import argparse
import gzip
import io
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

os.environ["OMP_WAIT_POLICY"] = "PASSIVE"

import gin
import jax
import numpy as np
import optax
import sentencepiece
import torch
from rows import Row, add_json, write
from torch_llama import llama_tensors
from transformers import LlamaConfig, LlamaModel

from xalign_jax.data.feeds.words import WordFeed, Words
from xalign_jax.data.lexicon.lexicon import Concepts, Word, concept_table
from xalign_jax.gin_files import gin_root
from xalign_jax.models.llama import Llama
from xalign_jax.models.model import Model, build
from xalign_jax.objectives.word_contrast import WordContrast

ROOT = Path(__file__).resolve().parents[1]
DICTIONARY = ROOT.parent / "shared" / "data" / "dict" / "freedict" / "en-de.tsv.gz"
VOCABULARY, LONGEST, PUBLISHED_PADDING, LENGTH, SLOTS, STEPS = 8192, 8, 30, 64, 32, 4
# Shares of words of 1 to 8 pieces in FreeDict English-German, for runs without the file.
LENGTHS = (0.127, 0.241, 0.267, 0.184, 0.098, 0.049, 0.024, 0.010)
RATE, DECAY = 1e-3, 0.1
Step = Callable[[], float]


def real_words(path: Path) -> list[tuple[tuple[int, ...], ...]]:
    """Pairs of words as pieces, with the first translation of each English word."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [line.rstrip("\n").split("\t")[:2] for line in file]
    # Reversed, so that the first of several translations is written last and stays.
    first = {a: b for a, b in reversed([r for r in rows if len(r) == 2]) if " " not in a and " " not in b}
    pairs = list(first.items())
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([word for pair in pairs for word in pair]),
        model_writer=model,
        vocab_size=VOCABULARY,
        minloglevel=2,
    )
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    encoded = [tuple(tuple(pieces.encode(word)) for word in pair) for pair in pairs]
    return [pair for pair in encoded if all(1 <= len(ids) <= LONGEST for ids in pair)]


def drawn_words(count: int = 20_000) -> list[tuple[tuple[int, ...], ...]]:
    """Pairs of random pieces with the lengths of real words."""
    rng = np.random.default_rng(0)
    size = rng.choice(len(LENGTHS), (count, 2), p=np.array(LENGTHS) / sum(LENGTHS)) + 1
    return [tuple(tuple(rng.integers(5, VOCABULARY, n).tolist()) for n in pair) for pair in size]


def as_concepts(pairs: list[tuple[tuple[int, ...], ...]]) -> Concepts:
    """The pairs as a table of two languages."""
    words = [Word(c, k, ids, f"{c}_{k}") for c, pair in enumerate(pairs) for k, ids in enumerate(pair)]
    return concept_table(words, ("en", "de"))


def shipped(name: str) -> Llama:
    """The shape in gin/models/llama_NAME.gin."""
    lines = (gin_root() / "models" / f"llama_{name}.gin").read_text().splitlines()
    gin.parse_config([line for line in lines if line.startswith("Llama.")])
    return Llama()


def ours(model: Model, start: dict, feed: Words, rows: int) -> Step:
    """Our step: batch, loss, gradient, AdamW."""
    objective, optimizer, key = WordContrast(), optax.adamw(RATE, weight_decay=DECAY), jax.random.key(0)

    def update(params, state, batch):
        def loss(p):
            total, metrics, _ = objective.loss(model.bind(p), batch, {}, key)
            return total / objective.count(model, batch, key), metrics

        (value, metrics), grads = jax.value_and_grad(loss, has_aux=True)(params)
        changes, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, changes), state, value, metrics

    compiled = jax.jit(update, donate_argnums=(0, 1))
    state = [jax.tree.map(jax.numpy.array, start), jax.jit(optimizer.init)(start)]
    taken = iter(range(10**9))

    def step() -> float:
        batch = feed.batch(next(taken) * rows, slice(0, rows))
        assert not batch["count_dropped"].any(), "rows too few for the words of a step"
        state[0], state[1], value, _ = compiled(*state, batch)
        return float(value)

    return step


def theirs(shape: Llama, start: dict, batches: list[dict[str, torch.Tensor]]) -> Step:
    """LlamaModel with all hidden states, sums over each word, the contrast as a dense softmax per level, AdamW."""
    network, head = hugging_face(shape, start)
    optimizer = torch.optim.AdamW([*network.parameters(), head], lr=RATE, weight_decay=DECAY)
    taken = iter(range(10**9))

    def step() -> float:
        batch = batches[next(taken) % len(batches)]
        optimizer.zero_grad(set_to_none=True)
        mask = batch["attention_mask"]
        states = network(batch["input_ids"], attention_mask=mask, output_hidden_states=True, use_cache=False)
        losses = []
        # (W, T, D) of each level, then the head's rows of the tokens.
        for h in (*states.hidden_states, head[batch["input_ids"]]):
            # (W, D) unit sums over a word's tokens, and (W, W) logits.
            z = torch.nn.functional.normalize((h * mask[..., None]).sum(1), dim=-1)
            logits = (z @ z.T / 0.1).masked_fill(~batch["candidate"], torch.finfo(torch.float32).min)
            losses.append(-logits.log_softmax(-1)[batch["positive"]].mean())
        loss = torch.stack(losses).mean()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def hugging_face(shape: Llama, start: dict) -> tuple[LlamaModel, torch.nn.Parameter]:
    """A LlamaModel with the same weights, and the head's rows."""
    network = LlamaModel(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=shape.width,
            intermediate_size=shape.mlp_width,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.kv_heads,
            rms_norm_eps=shape.norm_eps,
        )
    ).float()
    network.load_state_dict(llama_tensors(shape, start))
    return network, torch.nn.Parameter(torch.tensor(np.asarray(start["head"])))


def padded(batch: dict[str, np.ndarray], width: int | None) -> dict[str, torch.Tensor]:
    """The words of one of our batches, one per row, right-padded to `width` (None = the longest), with ready masks."""
    words, group, text = [], [], []
    for row, slot in zip(*np.nonzero(batch["concept"] >= 0), strict=True):
        words.append(batch["tokens"][row][batch["segment_ids"][row] == slot + 1])
        group.append(batch["concept"][row, slot])
        text.append(batch["text_hash"][row, slot])
    group_, text_ = np.array(group), np.array(text)
    ids = np.zeros((len(words), width or max(map(len, words))), np.int64)
    mask = np.zeros_like(ids)
    for i, word in enumerate(words):
        ids[i, : len(word)], mask[i, : len(word)] = word, 1
    # (W, W) as `infonce` has them: positives share the concept. No candidate has the text of the query or of one of its
    # positives, unless it is a positive.
    other = ~np.eye(len(words), dtype=bool)
    positive = other & (group_[:, None] == group_)
    same_text = text_[:, None] == text_
    candidate = other & (positive | ~(same_text | (positive.astype(int) @ same_text > 0)))
    arrays = {"input_ids": ids, "attention_mask": mask, "positive": positive, "candidate": candidate}
    return {name: torch.tensor(array) for name, array in arrays.items()}


def seconds(step: Step) -> tuple[float, float]:
    """Wall seconds and process seconds, over all threads, per step."""
    wall, busy = time.perf_counter(), time.process_time()
    for _ in range(STEPS):
        step()
    return (time.perf_counter() - wall) / STEPS, (time.process_time() - busy) / STEPS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="1m", help="gin/models/llama_MODEL.gin")
    parser.add_argument("--concepts", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--dictionary", type=Path, default=DICTIONARY)
    parser.add_argument("--threads", type=int, default=2)
    add_json(parser)
    options = parser.parse_args()
    # JAX takes the number of its threads from this.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    torch.set_num_threads(options.threads)
    load = os.getloadavg()[0]

    pairs = real_words(options.dictionary) if options.dictionary.exists() else drawn_words()
    table = as_concepts(pairs)
    sizes = np.diff(table.starts)
    # Rows that hold the words of a step, with 15 % to spare for packing.
    rows = int(np.ceil(options.concepts * 2 * sizes.mean() / LENGTH * 1.15))
    # The contrast does not read which tokens are a language's own.
    own = np.zeros((len(table.languages), VOCABULARY), bool)
    feed = Words(WordFeed(LENGTH, SLOTS, options.concepts), table, own, rows, seed=0, pad=0)
    shape = shipped(options.model)
    model = build(shape, VOCABULARY)
    start = jax.device_get(jax.jit(model.init)(jax.random.key(0)))

    batches = [feed.batch(i * rows, slice(0, rows)) for i in range(8)]
    steps = {"packed, ours": ours(model, start, feed, rows)}
    for name, width in (("padded to 30", PUBLISHED_PADDING), ("padded to the longest", None)):
        steps[name] = theirs(shape, start, [padded(batch, width) for batch in batches])
    # The first step of each side compiles, and shows that all compute the same.
    first = {name: step() for name, step in steps.items()}
    np.testing.assert_allclose(list(first.values()), first["packed, ours"], rtol=1e-4)
    rounds = [{name: seconds(step) for name, step in steps.items()} for _ in range(options.rounds)]
    print(
        f"{options.dictionary.name if options.dictionary.exists() else 'drawn lengths'}: {len(pairs)} pairs, ", end=""
    )
    print(f"mean {sizes.mean():.2f} pieces a word; {options.concepts * 2} words a step in {rows} x {LENGTH}; {shape}")
    print(f"{options.threads} threads; load of the machine {load:.1f} before, {os.getloadavg()[0]:.1f} after")
    found = []
    for name in steps:
        for kind, clock in enumerate(("wall", "process")):
            mine = statistics.median(r[name][kind] for r in rounds) * 1e3
            ratio = statistics.median(r[name][kind] / r["packed, ours"][kind] for r in rounds)
            print(f"{name:24} {clock:8} {mine:8.1f} ms a step   ratio {ratio:.2f}")
            if name != "packed, ours":
                packed = statistics.median(r["packed, ours"][kind] for r in rounds) * 1e3
                case = f"llama_{options.model}, {options.concepts * 2} words, {clock} time"
                found.append(Row(case, packed, "ms", mine, ratio, f"other: LlamaModel, words {name}"))
    write(options.json, found)


if __name__ == "__main__":
    main()
