"""Tiny model files, written byte by byte."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np


def safetensors(path: Path, **tensors: np.ndarray) -> Path:
    """Write float32 tensors as a safetensors file."""
    header: dict[str, object] = {}
    body = b""
    for name, tensor in tensors.items():
        data = np.ascontiguousarray(tensor, dtype="<f4").tobytes()
        place = [len(body), len(body) + len(data)]
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": place}
        body += data
    head = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head + body)
    return path


def healthy(path: Path) -> Path:
    """Two linear layers as drawn from N(0, 0.02)."""
    rng = np.random.default_rng(0)
    weights = {f"fc{index}.weight": rng.normal(0, 0.02, (64, 64)) for index in (1, 2)}
    return safetensors(path, **weights)


def broken(path: Path) -> Path:
    """The same with one NaN."""
    rng = np.random.default_rng(0)
    weights = {f"fc{index}.weight": rng.normal(0, 0.02, (64, 64)) for index in (1, 2)}
    weights["fc1.weight"][3, 4] = np.nan
    return safetensors(path, **weights)
