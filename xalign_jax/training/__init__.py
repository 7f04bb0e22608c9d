"""The training loop, the sharded step and its state."""
