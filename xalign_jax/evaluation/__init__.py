"""Probes turn parameters into rows of `results.json`; reports turn rows into tables and plots."""
