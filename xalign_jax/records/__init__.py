"""What a model directory records, read back: plain values that every room may read."""
