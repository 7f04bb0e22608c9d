"""Objectives: mathematics on a batch, one small file each."""
