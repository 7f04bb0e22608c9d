"""Probes turn parameters into rows of `results.json`; reports turn rows into tables and plots.

Importing this package registers all of them with gin.
"""

from xalign_jax.evaluation.probes.foreign_mass import ForeignMass
from xalign_jax.evaluation.probes.gradient_cosine import GradientCosine
from xalign_jax.evaluation.probes.hidden_cosine import HiddenCosine
from xalign_jax.evaluation.probes.information_parity import InformationParity
from xalign_jax.evaluation.probes.knowledge import Knowledge
from xalign_jax.evaluation.probes.lexicon_induction import LexiconInduction
from xalign_jax.evaluation.probes.parallel_text import ParallelText
from xalign_jax.evaluation.probes.perplexity import Perplexity
from xalign_jax.evaluation.probes.pool_retrieval import PoolRetrieval
from xalign_jax.evaluation.probes.sentence_retrieval import SentenceRetrieval
from xalign_jax.evaluation.probes.word_retrieval import WordRetrieval

__all__ = [
    "ForeignMass",
    "GradientCosine",
    "HiddenCosine",
    "InformationParity",
    "Knowledge",
    "LexiconInduction",
    "ParallelText",
    "Perplexity",
    "PoolRetrieval",
    "SentenceRetrieval",
    "WordRetrieval",
]
