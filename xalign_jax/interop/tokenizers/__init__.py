"""Tokenizers, in and out."""
