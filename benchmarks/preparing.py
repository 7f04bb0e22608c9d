"""Preparing text: ratios to live seqio, of two cores to one, and to `datasets` with a fast tokenizer; or a large corpus.

    python -m benchmarks.preparing --text=en=en.txt --text=de=de.txt --model=spm.model
    python -m benchmarks.preparing --text=en=en.txt --model=spm.model --tokens=1e9 --cache=FOLDER

`--text` names files of lines. The first command compares, in one run: each way of tokenising gets the same texts, and
a ratio is that of tokens a CPU second. CPU seconds of all processes count, imports do not. Wall times tell what further
cores bring: they mean something on an idle machine only. Two cores of a virtual machine are often slower than twice one.
So the ceiling is measured too: two preparations at once, with one process each, which have nothing in common. The second
command repeats the texts until there are so many
tokens (each repetition is made distinct by a number), prepares them, and prints the rate and the largest memory.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import itertools
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from xalign_jax.data.store.store import Texts, Vocabulary, prepare, store_info
from xalign_jax.data.store.workers import JOBS

HERE = Path(__file__).parents[1]


def cpu() -> float:
    """CPU seconds of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def timed(what: str, call: Callable[[], int]) -> tuple[float, float]:
    """Tokens a CPU second and a second of a call that returns its number of tokens."""
    start, used = time.perf_counter(), cpu()
    tokens = call()
    wall, used = time.perf_counter() - start, cpu() - used
    print(f"{what:<34} {tokens:>12,} tokens {tokens / used:>12,.0f} a CPU second {tokens / wall:>12,.0f} a second")
    return tokens / used, tokens / wall


def prepared(task: str, model: str, cache: Path, jobs: int) -> int:
    """Prepare a task with a number of processes; the tokens of its store."""
    shutil.rmtree(cache, ignore_errors=True)
    os.environ[JOBS] = str(jobs)
    texts = Texts(Vocabulary(path=model), [task], cache)
    prepare(texts)
    counts = store_info(texts, task)["counts"].values()
    return sum(count["tokens"] for languages in counts for count in languages.values())


def at_once(task: str, model: str, cache: Path) -> int:
    """Prepare a task twice at once, in two caches, with one process each; the tokens of both."""
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        return sum(pool.map(lambda name: prepared(task, model, cache / name, 1), ("first", "second")))


def seqio_rate(files: dict[str, str], model: str, cache: Path, most: int) -> tuple[float, float]:
    """The live pipeline of seqio, one example after another, over at most `most` of them."""
    from xalign_jax.tasks import register_text
    from xalign_jax.tasks.reading import seqio_task

    register_text("preparing_benchmark", files, document="line")
    task = seqio_task("preparing_benchmark", Vocabulary(path=model), cache=cache)

    def read() -> int:
        rows = task.get_dataset(None, split="train", shuffle=False, num_epochs=1).as_numpy_iterator()
        return sum(len(row["targets"]) for row in itertools.islice(rows, most))

    return timed("live seqio", read)


def datasets_rate(files: dict[str, str], cache: Path) -> tuple[float, float]:
    """`datasets.map` with a fast tokenizer in batches: byte-level BPE of as many pieces, trained on the texts."""
    import datasets
    import pyarrow.compute as pc
    from tokenizers import ByteLevelBPETokenizer

    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train([*files.values()], vocab_size=8192, show_progress=False)
    datasets.disable_progress_bars()
    rows = datasets.load_dataset("text", data_files=[*files.values()], cache_dir=str(cache / "hf"), split="train")

    def encode(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        return {"ids": [found.ids for found in tokenizer.encode_batch(batch["text"])]}

    def read() -> int:
        found = rows.map(encode, batched=True, remove_columns=["text"], load_from_cache_file=False)
        return pc.sum(pc.list_value_length(found.data.column("ids"))).as_py()

    return timed("datasets.map, fast BPE", read)


def compare(files: dict[str, str], model: str, cache: Path, most: int) -> None:
    """Print the ratios."""
    task = "lines:" + ",".join(f"{language}={path}" for language, path in files.items())
    one = timed("prepare, one process", lambda: prepared(task, model, cache / "one", 1))
    two = timed("prepare, two processes", lambda: prepared(task, model, cache / "two", 2))
    both = timed("two preparations at once", lambda: at_once(task, model, cache))
    print(f"two processes: {two[1] / one[1]:.2f} times one a second, {two[0] / one[0]:.2f} times a CPU second")
    print(f"the ceiling, two preparations: {both[1] / one[1]:.2f} times one a second")
    for name, rate in (
        ("datasets", lambda: datasets_rate(files, cache)),
        ("seqio", lambda: seqio_rate(files, model, cache, most)),
    ):
        try:
            found = rate()
            print(f"one process: {one[0] / found[0]:.1f} times {name} a CPU second")
        except ImportError as error:
            print(f"{name}: left out ({error})")


def large(files: dict[str, str], model: str, cache: Path, tokens: int) -> None:
    """Prepare a corpus of about `tokens` tokens, and print its rate and the largest memory of a process."""
    folder = cache / "text"
    folder.mkdir(parents=True, exist_ok=True)
    wanted = tokens * 3.6 / len(files)  # bytes of each file; a token has about 3.6 here
    repeated = {}
    for language, path in files.items():
        lines = Path(path).read_text(encoding="utf-8").splitlines()
        repeated[language] = str(folder / f"{language}.txt")
        with open(repeated[language], "w", encoding="utf-8") as file:
            for number in itertools.count():
                file.writelines(f"{line} {number}\n" if number else f"{line}\n" for line in lines)
                if file.tell() >= wanted:
                    break
    task = "lines:" + ",".join(f"{language}={path}" for language, path in repeated.items())
    jobs = len(os.sched_getaffinity(0))
    timed(f"prepare, {jobs} processes", lambda: prepared(task, model, cache / "large", jobs))
    # Linux gives kilobytes: of the largest process among the children, which is the one that prepares.
    print(f"largest memory of a process: {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20:.2f} GiB")
    used = subprocess.run(["du", "-sh", cache / "large"], capture_output=True, text=True).stdout.split()[0]
    print(f"on disk: {used}")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", action="append", required=True, help="LANGUAGE=FILE of lines; may be repeated")
    parser.add_argument("--model", required=True, help="a SentencePiece model")
    parser.add_argument("--tokens", type=float, help="prepare a repeated corpus of so many tokens")
    parser.add_argument("--cache", help="a folder for what is made; the default is a temporary one")
    parser.add_argument("--examples", type=int, default=20_000, help="that seqio reads")
    options = parser.parse_args()
    files = dict(text.split("=", 1) for text in options.text)
    cache = Path(options.cache or tempfile.mkdtemp(prefix="xalign-preparing-"))
    try:
        if options.tokens:
            large(files, options.model, cache, int(options.tokens))
        else:
            compare(files, options.model, cache, options.examples)
    finally:
        if not options.cache:
            shutil.rmtree(cache, ignore_errors=True)


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    main()
