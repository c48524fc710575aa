"""PyTorch modules: specs on the command line, and modules already in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from initlint.load import LoadOptions
from initlint.model import LoadError

if TYPE_CHECKING:
    from initlint.model import Model


def _need_torch() -> None:
    try:
        import torch  # noqa: F401 - only whether it is there
    except ImportError as error:
        raise LoadError("PyTorch is not installed; install initlint[torch]") from error


def load_spec(spec: str, options: LoadOptions | None = None) -> Model:
    """The model behind ``pkg.module:attr`` or ``path/file.py:attr``.

    Args:
        spec: a module class, an instance, or a factory.
        options: arguments, example inputs and seed.

    Raises:
        LoadError: the spec cannot be imported, built or run; one line, with the user's own frame.
    """
    _need_torch()
    from initlint.load.torch_spec import load_module_spec

    return load_module_spec(spec, options or LoadOptions())


def capture(module: Any, *inputs: Any, **kwargs: Any) -> Model:
    """The model of a module that is already built, by its inputs alone: see `capture_with`."""
    return capture_with(module, inputs, kwargs, LoadOptions())


def capture_with(
    module: Any, inputs: tuple[Any, ...], kwargs: dict[str, Any], options: LoadOptions
) -> Model:
    """The model of a module that is already built; it is left bit for bit as it was.

    Args:
        module: a ``torch.nn.Module``.
        inputs: what forward is called with; without any, what ``options`` say, else worked out
            from the first layers.
        kwargs: likewise, by name.
        options: inputs in other forms, the seed, and the road.

    Raises:
        LoadError: not a module, no inputs that fit, or a forward that raises.
    """
    _need_torch()
    from initlint.load.torch_spec import capture_module

    return capture_module(module, inputs, kwargs, options)
