"""One table an architecture: how its tensors and settings are called."""
