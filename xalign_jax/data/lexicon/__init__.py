"""Dictionaries, concepts, word frequencies, facts."""
