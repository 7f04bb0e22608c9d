"""Stores of tokenised texts, and how they are prepared."""
