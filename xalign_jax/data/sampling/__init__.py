"""Hashing and mixing: pure functions of a seed and a number."""
