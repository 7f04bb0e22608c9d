"""Feeds: batches as pure functions of a row number."""
