"""Cross-lingual alignment before and during pretraining, in JAX."""

__version__ = "0.1.0"
