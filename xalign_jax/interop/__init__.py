"""Models in and out of Hugging Face's formats: one table of names and shapes for each architecture, read both ways."""
