"""Ahead of time: what a recipe's compiled programs need on a machine that is not there."""
