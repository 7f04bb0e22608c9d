"""One table per architecture: the names of its tensors and settings in transformers."""
