"""Sharding, processes, checkpoints and logs, which everything that runs is built on."""
