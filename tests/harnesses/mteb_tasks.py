"""Tasks of mteb on a few sentences of our own: retrieval, bitext mining and sentence similarity."""

from __future__ import annotations

from typing import Any

from datasets import Dataset, DatasetDict
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
from mteb.abstasks.sts import AbsTaskSTS
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.abstasks.text.bitext_mining import AbsTaskBitextMining

LOCAL = {
    "description": "A few sentences of the package's own.",
    "dataset": {"path": "local", "revision": "1"},
    "category": "t2t",
    "eval_langs": ["eng-Latn", "deu-Latn"],
}
PAIRS = [
    ("The cat sleeps on the sofa.", "Die Katze schläft auf dem Sofa."),
    ("It rained all day yesterday.", "Gestern hat es den ganzen Tag geregnet."),
    ("The train leaves at seven.", "Der Zug fährt um sieben Uhr ab."),
    ("She reads a book about birds.", "Sie liest ein Buch über Vögel."),
    ("The price of bread has doubled.", "Der Brotpreis hat sich verdoppelt."),
    ("He forgot his keys again.", "Er hat schon wieder seine Schlüssel vergessen."),
    ("The river is frozen in January.", "Der Fluss ist im Januar zugefroren."),
    ("We planted two apple trees.", "Wir haben zwei Apfelbäume gepflanzt."),
]
SIMILAR = [
    ("The cat sleeps.", "A cat is sleeping.", 5.0),
    ("The cat sleeps.", "The dog sleeps.", 3.0),
    ("The cat sleeps.", "The train is late.", 0.0),
    ("She reads a book.", "She is reading a novel.", 4.5),
    ("She reads a book.", "He sold his bicycle.", 0.5),
    ("It rains.", "It is raining heavily.", 4.0),
]
QUESTIONS = {
    "When does the train leave?": "The train leaves at seven.",
    "What is she reading?": "She reads a book about birds.",
    "What did we plant?": "We planted two apple trees.",
}


class LocalBitext(AbsTaskBitextMining):
    """The German translation of each English sentence."""

    metadata = TaskMetadata(type="BitextMining", name="LocalBitext", main_score="f1", **LOCAL)

    def load_data(self, **_: Any) -> None:
        english, german = zip(*PAIRS, strict=True)
        self.dataset = DatasetDict({"test": Dataset.from_dict({"sentence1": english, "sentence2": german})})
        self.data_loaded = True


class LocalSTS(AbsTaskSTS):
    """How similar two sentences are, from 0 to 5."""

    metadata = TaskMetadata(type="STS", name="LocalSTS", main_score="cosine_spearman", **LOCAL)
    min_score, max_score = 0, 5

    def load_data(self, **_: Any) -> None:
        columns = zip(("sentence1", "sentence2", "score"), zip(*SIMILAR, strict=True), strict=True)
        self.dataset = DatasetDict({"test": Dataset.from_dict({name: list(values) for name, values in columns})})
        self.data_loaded = True


class LocalRetrieval(AbsTaskRetrieval):
    """The answer to each question, among all English sentences and an empty one."""

    metadata = TaskMetadata(type="Retrieval", name="LocalRetrieval", main_score="ndcg_at_10", **LOCAL)

    def load_data(self, **_: Any) -> None:
        answers = [english for english, _ in PAIRS]
        corpus = [{"id": f"a{n}", "text": text, "title": ""} for n, text in enumerate([*answers, ""])]
        queries = [{"id": f"q{n}", "text": text} for n, text in enumerate(QUESTIONS)]
        gold = {f"q{n}": {f"a{answers.index(text)}": 1} for n, text in enumerate(QUESTIONS.values())}
        data = RetrievalSplitData(
            queries=Dataset.from_list(queries), corpus=Dataset.from_list(corpus), relevant_docs=gold, top_ranked=None
        )
        self.dataset = {"default": {"test": data}}
        self.data_loaded = True
