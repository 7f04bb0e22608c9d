"""Stores: texts tokenised once, and their preparation."""
