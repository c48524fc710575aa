"""Signals that a run of the model measured."""
