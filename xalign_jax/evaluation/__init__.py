"""Probes turn parameters into rows of `results.json`; reports turn rows into tables and plots."""

from xalign_jax.evaluation.cosine import HiddenCosine
from xalign_jax.evaluation.foreign_mass import ForeignMass
from xalign_jax.evaluation.gradient_cosine import GradientCosine
from xalign_jax.evaluation.knowledge import Knowledge
from xalign_jax.evaluation.perplexity import Perplexity
from xalign_jax.evaluation.sentence_retrieval import SentenceRetrieval
from xalign_jax.evaluation.word_retrieval import WordRetrieval

__all__ = [
    "ForeignMass",
    "GradientCosine",
    "HiddenCosine",
    "Knowledge",
    "Perplexity",
    "SentenceRetrieval",
    "WordRetrieval",
]
