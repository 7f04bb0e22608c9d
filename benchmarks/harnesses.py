"""Scores under lm-evaluation-harness and mteb, of models loaded by this package and by transformers.

    python benchmarks/harnesses.py [--decoder=smollm2-135m/] [--encoder=e5-small/] [--data=DATA] [--limit=100]
                                   [--json=FILE]

A folder is one of Hugging Face. Tasks are those of tests/harnesses. With --data also XCOPA (tasks/xcopa) for a decoder;
Tatoeba (retrieval/tatoeba), PAWS-X (tasks/pawsx) and XQuAD (multiway/xquad), all German, for an encoder. --limit cuts
each of them. Prints the main score both ways, the largest difference of any score of the task (of perplexities: relative),
and the CPU seconds of all threads.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import math
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from rows import Row, add_json, write

HERE = Path(__file__).parent.parent / "tests" / "harnesses"
PROMPTS = {"query": "query: ", "document": "passage: ", **dict.fromkeys(("STS", "BitextMining"), "query: ")}
# What stands between a premise and its effect or cause.
XCOPA = {"it": ("quindi", "perché"), "tr": ("bu yüzden", "çünkü"), "id": ("maka", "karena")}


def lines(file: Path) -> list[str]:
    """The lines of a file, which may be compressed."""
    raw = file.read_bytes()
    return (gzip.decompress(raw) if file.suffix == ".gz" else raw).decode("utf-8").removesuffix("\n").split("\n")


def compare(tasks: Iterable[tuple[str, str, Callable[[str], dict[str, float]]]]) -> list[Row]:
    """Run (task, main score, run) with both models and print a row each; returns their CPU seconds."""
    rows = []
    print(
        "| task | score | native | transformers | largest difference | CPU s | transformers |\n|---|---|--:|--:|--:|--:|--:|"
    )
    for name, main, run in tasks:
        found, seconds = {}, {}
        for which in ("native", "transformers"):
            start = time.process_time()
            found[which] = run(which)
            seconds[which] = time.process_time() - start
        ours, theirs = found["native"], found["transformers"]
        largest = max(
            abs(ours[key] - theirs[key]) / (max(1.0, abs(theirs[key])) if "perplexity" in key else 1.0)
            for key in theirs
            if not math.isnan(theirs[key])
        )
        cells = (f"{ours[main]:.5f}", f"{theirs[main]:.5f}", f"{largest:.1e}", *(f"{s:.0f}" for s in seconds.values()))
        print(f"| {name} | {main} | {' | '.join(cells)} |", flush=True)
        notes = f"other: transformers; {main} {ours[main]:.5f} and {theirs[main]:.5f}; largest difference {largest:.1e}"
        own, other = seconds["native"], seconds["transformers"]
        rows.append(Row(f"{name}, CPU time", own, "s", other, other / own, notes))
    return rows


def decoder(folder: str, data: Path | None, limit: int) -> list[Row]:
    """Tasks of lm-evaluation-harness."""
    import lm_eval
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    from xalign_jax.harnesses.lm_eval import XalignLM

    models = {
        "native": XalignLM(folder),
        "transformers": HFLM(pretrained=folder, device="cpu", dtype="float32", batch_size=8),
    }
    manager = TaskManager(include_path=str(HERE / "lm_eval_tasks"), include_defaults=False)

    def run(task: Any, which: str) -> dict[str, float]:
        out = lm_eval.simple_evaluate(models[which], tasks=[task], task_manager=manager, bootstrap_iters=0, limit=limit)
        (scores,) = out["results"].values()
        return {
            key: float(value) for key, value in scores.items() if key.endswith(",none") and not isinstance(value, str)
        }

    def xcopa(language: str) -> Any:
        from datasets import Dataset

        assert data is not None
        rows = [json.loads(line) for line in lines(data / "tasks" / "xcopa" / f"val.{language}.jsonl")]
        effect, cause = XCOPA[language]
        return ConfigurableTask(
            config={
                "task": f"xcopa_{language}",
                "custom_dataset": lambda **_: {"validation": Dataset.from_list(rows)},
                "validation_split": "validation",
                "output_type": "multiple_choice",
                "doc_to_text": lambda row: (
                    f"{row['premise'].strip(' .')} {effect if row['question'] == 'effect' else cause}"
                ),
                "doc_to_choice": lambda row: [row[f"choice{n}"][0].lower() + row[f"choice{n}"][1:] for n in (1, 2)],
                "doc_to_target": "label",
                "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
            }
        )

    main = {"local_choice": "acc_norm", "local_text": "bits_per_byte", "local_continue": "exact_match"}
    tasks: list[tuple[str, str, Callable[[str], dict[str, float]]]]
    tasks = [(name, f"{score},none", partial(run, name)) for name, score in main.items()]
    if data is not None:
        tasks += [(f"XCOPA {code}", "acc,none", partial(run, xcopa(code))) for code in XCOPA]
    return compare(tasks)


def encoder(folder: str, data: Path | None, limit: int) -> list[Row]:
    """Tasks of mteb, with the prompts and the pooling of e5."""
    sys.path.insert(0, str(HERE))
    import mteb
    import mteb_tasks
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer

    from xalign_jax.harnesses.mteb import XalignEncoder

    native = XalignEncoder(folder, specials=True, prompts=PROMPTS)
    modules = [Transformer(folder), Pooling(native.loaded.model.width, "mean")]
    models = {
        "native": native,
        "transformers": SentenceTransformer(modules=modules, prompts=PROMPTS, device="cpu"),
    }

    def run(task: Any, which: str) -> dict[str, float]:
        (result,) = mteb.evaluate(models[which], task, cache=None, show_progress_bar=False).task_results
        return {key: value for key, value in result.scores["test"][0].items() if isinstance(value, float)}

    tasks: list[Any] = [mteb_tasks.LocalBitext(), mteb_tasks.LocalSTS(), mteb_tasks.LocalRetrieval()]
    if data is not None:
        tasks += german(mteb_tasks, data, limit)
    return compare((task.metadata.name, "main_score", partial(run, task)) for task in tasks)


def german(local: Any, data: Path, limit: int) -> list[Any]:
    """Tatoeba, PAWS-X and XQuAD as tasks, each of at most `limit` lines, pairs or questions."""
    from datasets import Dataset, DatasetDict
    from mteb.abstasks.pair_classification import AbsTaskPairClassification
    from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
    from mteb.abstasks.task_metadata import TaskMetadata

    class PawsX(AbsTaskPairClassification):
        metadata = TaskMetadata(type="PairClassification", name="PawsX", main_score="max_ap", **local.LOCAL)

    def with_data(task: Any, name: str, dataset: Any) -> Any:
        task.metadata = task.metadata.model_copy(update={"name": name})
        task.dataset, task.data_loaded = dataset, True
        return task

    def split(columns: dict[str, Any]) -> Any:
        return DatasetDict({"test": Dataset.from_dict(columns)})

    place = data / "retrieval" / "tatoeba"
    pairs = [lines(file)[:limit] for file in (place / "tatoeba.deu-eng.deu.gz", place / "tatoeba.deu-eng.eng")]
    paws = list(
        csv.reader(lines(data / "tasks" / "pawsx" / "de.dev_2k.tsv.gz"), delimiter="\t", quoting=csv.QUOTE_NONE)
    )
    _, first, second, label = zip(*paws[1 : limit + 1], strict=True)
    xquad = dict(line.split("\t", 1) for line in lines(data / "multiway" / "xquad" / "de.tsv.gz"))
    contexts = [key for key in xquad if key.endswith(".context")]
    questions = [key for key in xquad if not key.endswith(".context")][:limit]
    asked = RetrievalSplitData(
        queries=Dataset.from_list([{"id": key, "text": xquad[key]} for key in questions]),
        corpus=Dataset.from_list([{"id": key, "text": xquad[key], "title": ""} for key in contexts]),
        relevant_docs={key: {f"{key.rpartition('.')[0]}.context": 1} for key in questions},
        top_ranked=None,
    )
    return [
        with_data(local.LocalBitext(), "Tatoeba", split({"sentence1": pairs[0], "sentence2": pairs[1]})),
        with_data(
            PawsX(), "PawsX", split({"sentence1": first, "sentence2": second, "labels": [int(x) for x in label]})
        ),
        with_data(local.LocalRetrieval(), "XQuAD", {"default": {"test": asked}}),
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("decoder", "encoder"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--limit", type=int, default=100)
    add_json(parser)
    given = parser.parse_args()
    rows = []
    if given.decoder:
        rows += decoder(given.decoder, given.data, given.limit)
    if given.encoder:
        rows += encoder(given.encoder, given.data, given.limit)
    write(given.json, rows)


if __name__ == "__main__":
    main()
