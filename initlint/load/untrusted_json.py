"""JSON from files that may be hostile."""

from __future__ import annotations

import json
from typing import Any

from initlint.load.files import shown
from initlint.model import LoadError

MAX_VALUES = 4_000_000
"""Commas in a document: the JSON of 200,000 tensors has a tenth of them. A few bytes of JSON can
take a hundred of memory, so the size of the file alone bounds nothing."""


def parse_json(raw: bytes, name: str) -> Any:
    """The value of a JSON document.

    Raises:
        LoadError: not JSON, nested too deeply, or with too many values.
    """
    if raw.count(b",") > MAX_VALUES:
        raise LoadError(f"{shown(name)}: JSON of more than {MAX_VALUES} values")
    try:
        return json.loads(raw.decode("utf-8"))
    except RecursionError:
        raise LoadError(f"{shown(name)}: JSON nested too deeply") from None
    except ValueError as error:
        raise LoadError(f"{shown(name)}: not valid JSON: {shown(error)}") from None
