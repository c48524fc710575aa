"""Fans counted over the wrong axes of a weight."""
