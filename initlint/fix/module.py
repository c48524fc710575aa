"""``initlint.fix(module)``: repair a PyTorch module in place, in the caller's process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from initlint.fix.changes import merged, set_module
from initlint.fix.repair import FixOptions, doubts, repair
from initlint.fix.report import repair_record


@dataclass(frozen=True, slots=True)
class FixReport:
    """What a repair did.

    Attributes:
        record: the object that ``initlint fix --format json`` prints.
    """

    record: Mapping[str, Any]

    @property
    def status(self) -> str:
        """``nothing``, ``fixed``, ``improved``, ``unverified`` or ``failed``."""
        return str(self.record["verdict"]["status"])

    @property
    def verified(self) -> bool:
        """True when a fresh lint and a run of the changed module bear the repair out."""
        return self.status in ("fixed", "improved")

    @property
    def changes(self) -> list[dict[str, Any]]:
        """One object per changed parameter block."""
        return list(self.record["changes"])

    def to_dict(self) -> dict[str, Any]:
        """The record."""
        return dict(self.record)

    def __str__(self) -> str:
        from initlint.report.repair import render
        from initlint.report.style import Style

        return render(self.record, Style(), planned=False)


def fix(
    module: Any,
    *example_inputs: Any,
    scheme: str | None = None,
    include_trained: bool = False,
    **options: Any,
) -> FixReport:
    """Repair a ``torch.nn.Module`` in place.

    Args:
        module: what to repair. Parameters keep their identity, so an optimiser that already holds
            them goes on; its state is not touched.
        *example_inputs: what the module's forward is called with; worked out when left out.
        scheme: put the whole network under this scheme; None: cure the findings.
        include_trained: change trained weights as well.
        **options: those of `initlint.check`.

    Raises:
        LoadError: the module cannot be run.
        TypeError: an option that does not exist.
        ValueError: a scheme that does not exist.
    """
    from initlint.linting import settings_from
    from initlint.load.torch_module import capture

    settings = settings_from(options)
    model = capture(module, *example_inputs)
    chosen = FixOptions(scheme, settings.seed, include_trained)
    result = repair(model, settings, chosen)
    record = repair_record(model, result, doubts(result, model) if result.changes else [])
    if result.changes:
        set_module(model, merged(result.changes))
    return FixReport(record)
