"""Health of checkpoints."""
