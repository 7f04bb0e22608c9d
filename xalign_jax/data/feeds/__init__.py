"""Feeds: batches as pure functions of row numbers."""
