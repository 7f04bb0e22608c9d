"""Many processes as one run: their start, failures, locks, preemption and hangs."""
