"""Many processes as one run: start, failure, locks, preemption, hangs."""
