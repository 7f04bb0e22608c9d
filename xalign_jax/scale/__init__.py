"""Ahead-of-time reports: the memory and time that a recipe's programs need on a machine that is not here."""
