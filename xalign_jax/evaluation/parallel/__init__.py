"""Measures on the vectors of parallel text, for the probe `ParallelText`. Importing this package registers them."""

from xalign_jax.evaluation.parallel.concepts import Concepts
from xalign_jax.evaluation.parallel.geometry import Geometry
from xalign_jax.evaluation.parallel.isomorphism import Isomorphism
from xalign_jax.evaluation.parallel.languages import Identifiability
from xalign_jax.evaluation.parallel.matrix import Matrix
from xalign_jax.evaluation.parallel.mexa import Mexa, NeuronXA
from xalign_jax.evaluation.parallel.pictures import Cosines, SentenceMap
from xalign_jax.evaluation.parallel.retrieval import Retrieval
from xalign_jax.evaluation.parallel.similarity import Similarity

__all__ = [
    "Concepts",
    "Cosines",
    "Geometry",
    "Identifiability",
    "Isomorphism",
    "Matrix",
    "Mexa",
    "NeuronXA",
    "Retrieval",
    "SentenceMap",
    "Similarity",
]
