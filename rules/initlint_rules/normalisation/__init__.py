"""Normalisers: gains, running statistics, epsilon, axes."""
