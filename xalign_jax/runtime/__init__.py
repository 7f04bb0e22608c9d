"""Sharding, processes, checkpoints and logs: below everything that runs."""
