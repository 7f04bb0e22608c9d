"""Cleaning of a recipe's texts: duplicates, lengths, languages; and texts that training should not have seen."""
