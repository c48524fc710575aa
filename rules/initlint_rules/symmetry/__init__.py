"""Symmetry and degenerate weights."""
