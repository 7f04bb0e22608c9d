"""`python tests/mutation/mutate.py FILE[:LINE] ... [--count=100] [--seed=0]`: break the library; do the tests see it?

Draws mutants of the files (`mutants.py`), puts one after another into a copy of the repository and runs the tests that
belong to the file until one fails. Prints each survivor with its line before and after. A survivor wants a test, or is
the same program. Exit code 1 if any survived.

Each mutant is tried in a process forked from one that has imported JAX but started none of its threads; compiled
programs are shared. FILE:LINE draws from that line alone.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import importlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from mutation.mutants import Mutant, mutants

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("xalign_jax", "gin", "tasks", "tests", "study", "docs", "benchmarks", "tpu_scripts")
COPIED_FILES = ("pyproject.toml", "setup.py", "README.md", "Makefile", "constraints.txt")
IMPORTED = (
    "jax",
    "jax.numpy",
    "flax.linen",
    "optax",
    "orbax.checkpoint",
    "numpy",
    "scipy",
    "pytest",
    "gin",
    "absl.logging",
)

# Module or room -> the tests that belong to it, those that see the most first. A module's own entry goes before its room's.
TESTS = {
    "objectives/parts/contrast.py": (
        "objectives/test_contrast.py",
        "objectives/test_primitives.py::test_contrast_and_gradient_equal_a_dense_float64_reference",
        "objectives/test_primitives.py::test_words_spelt_like_an_anchor_or_its_positive_are_no_negatives",
        "objectives/test_primitives.py::test_order_and_absent_rows_change_nothing",
        "objectives/test_primitives.py::test_retrieval_counts_strict_winners_only",
        "objectives/test_primitives.py::test_separate_queries_and_keys",
        "objectives/test_xlco.py::test_settings_that_mean_nothing_are_refused",
    ),
    "objectives/parts/candidates.py": ("objectives/test_contrast.py", "objectives/test_primitives.py"),
    "objectives/parts/primitives.py": (
        "objectives/test_primitives.py",
        "objectives/test_causal_lm.py::test_one_device_equals_eight",
    ),
    "objectives/masked_lm.py": ("objectives/test_masked_lm.py",),
    "objectives/parts/corruption.py": ("objectives/test_masked_lm.py",),
    "objectives/causal_lm.py": ("objectives/test_causal_lm.py",),
    "objectives/word_alignment.py": ("objectives/test_word_alignment.py",),
    "objectives/aligned_words.py": ("objectives/test_aligned_words.py",),
    "objectives/denoising_alignment.py": ("objectives/test_denoising_alignment.py",),
    "objectives/parts/links.py": ("objectives/test_word_alignment.py", "objectives/test_denoising_alignment.py"),
    "objectives/word_contrast.py": ("objectives/test_word_contrast.py",),
    "objectives/word_distance.py": ("objectives/test_word_distance.py",),
    "objectives/parts/momentum.py": (
        "objectives/test_xlco.py::test_the_key_encoder_follows_the_optimised_parameters",
        "objectives/test_xlco.py::test_shares_of_momentum_lie_between_0_and_1",
    ),
    "objectives/parts/queue.py": (
        "objectives/test_xlco.py::test_the_queue_is_a_ring_of_present_keys",
        "objectives/test_xlco.py::test_mixup_rows_carry_two_groups",
        "objectives/test_xlco.py::test_group_and_text_take_a_key_out_of_batch_and_queue",
        "objectives/test_xlco.py::test_metrics_are_of_all_pairs_of_the_batch_and_cosines_are_of_unit_vectors",
    ),
    "objectives/translation_ranking.py": (
        "objectives/test_translation_ranking.py::test_translation_ranking_is_labse_s_formula",
        "objectives/test_xlco.py::test_the_first_token_of_a_causal_model_is_refused",
    ),
    "objectives": ("objectives/test_xlco.py",),
    "training/step.py": ("training/test_step.py",),
    "training/optimizers.py": ("training/test_optimizers.py",),
    "parametrizations/tied_rows.py": ("parametrizations/test_tied_rows.py",),
    "parametrizations/low_rank.py": ("parametrizations/test_parametrizations.py",),
    "evaluation/encode.py": (
        "evaluation/test_encoding.py",
        "evaluation/test_retrieval.py",
        "evaluation/test_similarity.py",
        "evaluation/test_sentence_retrieval.py",
    ),
    "evaluation/inputs/windows.py": ("evaluation/test_perplexity.py",),
    "evaluation/probes/perplexity.py": ("evaluation/test_perplexity.py",),
    "evaluation/probes/foreign_mass.py": ("evaluation/test_perplexity.py",),
    "evaluation/probes/hidden_cosine.py": ("evaluation/test_similarity.py",),
    "evaluation/probes/gradient_cosine.py": ("evaluation/test_similarity.py",),
    "evaluation/probes/knowledge.py": ("evaluation/test_similarity.py",),
    "evaluation/inputs/parallel_text.py": ("evaluation/test_sentence_retrieval.py", "evaluation/test_retrieval.py"),
    "evaluation/inputs/char_ngrams.py": ("evaluation/test_sentence_retrieval.py",),
    "evaluation/probes/sentence_retrieval.py": ("evaluation/test_sentence_retrieval.py", "evaluation/test_retrieval.py"),
    "evaluation/probes/word_retrieval.py": ("evaluation/test_retrieval.py",),
    "reports/tables.py": ("evaluation/test_report.py",),
    "reports/report.py": ("evaluation/test_report.py",),
    "interop/mapping.py": ("interop/test_mapping.py",),
    "interop/architectures/rope.py": ("interop/test_rope.py",),
    "interop/tokenizers/sentencepieces.py": ("interop/test_tokenizers.py",),
    "interop/tokenizers/tokenizers.py": ("interop/test_tokenizers.py",),
    "interop": ("interop/test_import_export.py", "interop/test_tokenizers.py", "models/test_hugging_face.py"),
    "data/feeds/packing.py": ("data/test_packing.py", "data/test_sentences.py"),
    "data/feeds/pieces.py": ("data/test_sentences.py",),
    "data/feeds/pairs.py": ("data/test_sentences.py",),
    "data/feeds/pair_items.py": ("data/test_sentences.py",),
    "data/feeds/members.py": ("data/test_feeds.py", "data/test_sentences.py"),
    "data/sampling/mixing.py": ("data/test_rates.py", "data/test_schedules.py", "data/test_feeds.py"),
    "data/sampling/rates.py": ("data/test_rates.py", "data/test_schedules.py"),
    "data/sampling/schedules.py": ("data/test_schedules.py",),
    "data/sampling/hashing.py": ("data/test_hashing.py",),
    "data/feeds/codeswitch.py": ("data/test_codeswitch.py",),
    "data/feeds/windows.py": ("data/test_feeds.py",),
    "data/feeds/words.py": ("data/test_feeds.py", "data/test_piece_pairs.py"),
    "data/lexicon/subword_pairs.py": ("data/test_piece_pairs.py",),
    "data/token_ties.py": ("data/test_feeds.py",),
    "data/feeds/packed.py": ("data/test_sentences.py",),
    "data/store/store.py": ("data/test_store.py",),
}  # fmt: skip


def belonging(path: str) -> list[str]:
    """Test files of a module, as paths from the repository's root."""
    module = path.removeprefix("xalign_jax/")
    found = TESTS.get(module) or TESTS.get(module.split("/")[0])
    if not found:
        sys.exit(f"{path}: no tests belong to it; add them to TESTS of {__file__}")
    missing = [name for name in found if not (ROOT / "tests" / name.split("::")[0]).exists()]
    if missing:
        sys.exit(f"TESTS[{path!r}]: {missing[0]} is missing")
    return [f"tests/{name}" for name in found]


def in_fork(tree: Path, tests: list[str], seconds: float) -> int | None:
    """pytest's exit code in a child, None after too long; everything that the child started ends with it."""
    child = os.fork()
    if child == 0:
        _child(tree, tests)
    ended = time.monotonic() + seconds
    while time.monotonic() < ended:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            break
        time.sleep(0.05)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    if not found:
        os.waitpid(child, 0)
        return None
    return os.waitstatus_to_exitcode(status)


def _child(tree: Path, tests: list[str]) -> None:
    """Run pytest in the tree, in a process group of its own, and end."""
    code = 1
    try:
        os.setsid()
        os.chdir(tree)
        output = os.open("pytest.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        shutil.rmtree(tree / "cache", ignore_errors=True)
        os.environ.update(PYTHONPATH=str(tree), XALIGN_CACHE=str(tree / "cache"), PYTHONDONTWRITEBYTECODE="1")
        sys.path[:] = [str(tree), *(path for path in sys.path if not path.startswith(str(ROOT / "tests")))]
        sys.dont_write_bytecode = True
        pytest = importlib.import_module("pytest")
        code = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", f"--rootdir={tree}", *tests]))
    finally:
        os._exit(code)


def drawn(wanted: list[str], count: int, seed: int) -> list[tuple[str, Mutant]]:
    """(file, mutant), at most `count` of all files together, in the order of files and lines."""
    found = []
    for entry in wanted:
        name, _, line = entry.partition(":")
        path = (ROOT / name).resolve()
        if not path.exists():
            sys.exit(f"{name}: no such file in {ROOT}")
        for each in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            found += [
                (str(each.relative_to(ROOT)), m) for m in mutants(each.read_bytes()) if not line or m.line == int(line)
            ]
    chosen = random.Random(seed).sample(range(len(found)), min(count, len(found)))
    print(f"{len(chosen)} of {len(found)} mutants", flush=True)
    return [found[i] for i in sorted(chosen)]


def tried(tree: Path, path: str, mutant: Mutant, seconds: float) -> str:
    """One of "caught", "timed out" and "survived"."""
    source = (ROOT / path).read_bytes()
    (tree / path).write_bytes(mutant.of(source))
    code = in_fork(tree, belonging(path), seconds)
    (tree / path).write_bytes(source)
    if code is None:
        return "timed out"
    return "caught" if code else "survived"


def shown(path: str, mutant: Mutant) -> str:
    """file:line, the old lines and the new ones."""
    source = (ROOT / path).read_bytes()
    first = source.rfind(b"\n", 0, mutant.start) + 1
    last = source.find(b"\n", mutant.end)
    old = source[first:last].decode()
    new = (source[first : mutant.start] + mutant.text.encode() + source[mutant.end : last]).decode()
    return f"{path}:{mutant.line}\n" + "\n".join(
        [f"  - {line.strip()}" for line in old.split("\n")] + [f"  + {line.strip()}" for line in new.split("\n")]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "files", nargs="+", metavar="FILE[:LINE]", help="modules or folders, from the repository's root"
    )
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="mutation-"))
    os.environ |= {"JAX_COMPILATION_CACHE_DIR": str(work / "xla"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    for name in IMPORTED:
        importlib.import_module(name)
    tree, least, tally = work / "tree", {}, collections.defaultdict(collections.Counter)
    try:
        tree.mkdir()
        for name in COPIED:
            shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in COPIED_FILES:
            shutil.copy(ROOT / name, tree / name)
        for path, mutant in drawn(options.files, options.count, options.seed):
            if path not in least:
                started = time.monotonic()
                if in_fork(tree, belonging(path), 600) != 0:
                    sys.exit(f"{path}: its tests fail without a mutant:\n{(tree / 'pytest.log').read_text()}")
                least[path] = time.monotonic() - started
                print(f"{path}: its tests take {least[path]:.0f} s", flush=True)
            result = tried(tree, path, mutant, 30 + 3 * least[path])
            tally[path][result] += 1
            if result != "caught":
                print(f"{result}: {shown(path, mutant)}", flush=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    for path, counts in tally.items():
        print(
            f"{path}: {counts.total()} tried, {counts['caught']} caught, {counts['timed out']} timed out, {counts['survived']} survived"
        )
    sys.exit(any(counts["survived"] for counts in tally.values()))


if __name__ == "__main__":
    main()
