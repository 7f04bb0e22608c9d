"""Measures of cross-lingual alignment: pure functions of arrays that work with any model, and without one."""
