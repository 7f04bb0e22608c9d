"""Measures on the vectors of parallel text, for the probe `ParallelText`. Importing this package registers them."""

from xalign_jax.evaluation.parallel.mexa import Mexa, NeuronXA
from xalign_jax.evaluation.parallel.retrieval import Retrieval

__all__ = ["Mexa", "NeuronXA", "Retrieval"]
