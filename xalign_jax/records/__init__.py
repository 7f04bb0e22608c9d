"""What a model directory records, read back as plain values that every room may read."""
