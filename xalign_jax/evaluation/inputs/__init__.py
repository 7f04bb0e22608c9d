"""What probes read."""
