"""Which numbers an optimiser moves, and how a model's parameters follow from them."""
