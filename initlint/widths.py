"""Several widths of one module: its model with what they have told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from initlint.model import Model
from initlint.settings import Settings

ONE_WIDTH = "--widths: a file holds one width; only modules are built again"


def with_widths(
    load: Callable[[Mapping[str, Any]], Model], settings: Settings, *, is_spec: bool
) -> Model:
    """The model of the first of ``settings.widths``, with a `WidthScaling` over all of them.

    Args:
        load: the model with these arguments for its constructor.
        settings: with ``widths``.
        is_spec: whether the target is code that can be built again.

    Raises:
        LoadError: a width with which the module cannot be built or run.
    """
    ((argument, widths),) = (settings.widths or {}).items()
    if not is_spec:
        model = load({})
        return replace(model, notices=(*model.notices, ONE_WIDTH))
    from initlint.probe.torch_widths import measure_widths

    found = measure_widths(
        lambda width: load({argument: width}),
        argument,
        widths,
        seed=settings.seed,
        loss=settings.loss,
    )
    model = load({argument: widths[0]})
    return replace(model, metadata={**model.metadata, "widths": found})
