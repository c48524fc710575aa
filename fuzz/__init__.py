"""Fuzzing; see `fuzz.fuzz`."""
