"""Tokenizer backends, the vocabulary, and what a word is."""
