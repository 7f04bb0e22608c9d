"""Readers: where text comes from."""
