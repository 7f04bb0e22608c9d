"""Word alignment of parallel files: sentence pairs in, links with probabilities and dictionaries out."""
