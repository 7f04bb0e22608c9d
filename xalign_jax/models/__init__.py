"""Models behind one interface: hidden states by level, and the rows of the output head."""
