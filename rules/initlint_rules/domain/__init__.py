"""Faults that only one kind of network has, recognised by its structure."""
