"""Residual branches and depth."""
