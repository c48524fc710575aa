"""The one exception that bad input raises."""

from __future__ import annotations


class LoadError(Exception):
    """A target that could not be read.

    The message is one line for the user: what is wrong, where, and what to do.
    """
