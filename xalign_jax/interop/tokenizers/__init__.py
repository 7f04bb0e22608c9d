"""Tokenizers of other libraries: written for exported models, and compared with ours."""
