"""One module per command. `add` declares its options, `run` does its work and returns the exit code."""
