"""Repair: schemes, plans, and files changed in nothing but the planned tensors."""
