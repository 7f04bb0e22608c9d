"""Dictionaries, their concepts, word frequencies and planted facts."""
