"""Hashing, mixing rates, ranges: pure functions of a seed and a number."""
