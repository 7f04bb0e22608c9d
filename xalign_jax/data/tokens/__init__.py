"""Tokenizer backends, the vocabulary, and the words of token rows."""
