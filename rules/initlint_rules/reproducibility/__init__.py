"""Rules about what weights owe to the seed."""
