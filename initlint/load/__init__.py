"""Where a model comes from: one loader per kind of target, chosen here, imported when used."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from initlint.model.errors import LoadError

if TYPE_CHECKING:
    from initlint.model import Model

SPEC = re.compile(
    r"(?P<module>[A-Za-z_]\w*(\.[A-Za-z_]\w*)*|.*\.py):(?P<attr>[A-Za-z_]\w*(\.\w+)*)"
)


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """What a user may say about a target.

    Attributes:
        arguments: keyword arguments for the class or factory of a module target.
        input_shape: shape of the one example input of a module target.
        input_dtype: its dtype (``float32``, ``int64``…).
        input_file: an ``.npz`` with example inputs.
        model: module spec that gives a checkpoint its architecture.
        via: ``onnx`` to export a module and take the ONNX road.
        folder: where such an export is written; it must outlive the model.
        seed: seed for constructing a module and for its example inputs.
        structure_only: build a module on meta tensors: structure without weights.
    """

    arguments: Mapping[str, Any] = field(default_factory=dict)
    input_shape: tuple[int, ...] | None = None
    input_dtype: str | None = None
    input_file: str | None = None
    model: str | None = None
    via: str | None = None
    folder: str | None = None
    seed: int = 0
    structure_only: bool = False


def is_spec(target: str) -> bool:
    """True for ``pkg.module:attr`` and ``path/file.py:attr``."""
    return SPEC.fullmatch(target) is not None and not os.path.exists(target)


def load(target: str, options: LoadOptions | None = None) -> Model:
    """Load one target by the road that its form and first bytes tell.

    Raises:
        LoadError: with one line for the user when the target cannot be read.
    """
    options = options or LoadOptions()
    if is_spec(target):
        from initlint.load.torch_module import load_spec

        return load_spec(target, options)
    if target.lower().endswith(".onnx"):
        from initlint.load.onnx import load_onnx

        return load_onnx(target)
    from initlint.load.checkpoint import load_checkpoint

    if options.via is not None:
        raise LoadError(f"--via {options.via} exports a module (pkg.module:Net), not a checkpoint")
    model = load_checkpoint(target)
    if options.model is None:
        return model
    from initlint.load.checkpoint import bind
    from initlint.load.torch_module import load_spec

    return bind(model, load_spec(options.model, options))
