"""The cure of cells that forget: biases that keep the state, and weights that write to it."""

from __future__ import annotations

import math
from typing import Any

from initlint.fix.branches import FAR
from initlint.fix.plan import Planner, Record
from initlint.fix.slot import WEIGHT_ROLES
from initlint.fix.textbook import SHORT, long_memory, written_memory
from initlint.model import Layer, Role
from initlint.model.written_cells import KeepingGate

CHURNING = 2.1
"""Standard deviation of what inputs of unit scale do to a gate, from which its bias does not tell
the memory. The gate loses ln(1 + exp(-b - s z)) a step, on average exp(s^2/2) times what the bias b
alone loses (the mean of a log-normal). Memories of a whole sequence then fall below the tenth of it
that `forget-gate-memory` asks for: s = sqrt(2 ln 9.7), 9.7 e-folds being its 4.2 decades."""


def open_memory(planner: Planner, finding: Record, arguments: dict[str, Any]) -> None:
    """The biases of gated cells: spread over the time scales of a sequence of known length.

    One value for every unit, where the length is only assumed.
    """
    evidence = finding.get("evidence") or {}
    steps = int(evidence.get("steps") or 0) if evidence.get("steps_known") else 0
    value = float(arguments.get("value", 1.0))
    for key in finding["layers"]:
        for layer in planner.weighted(key):
            gates = [gate for gate in planner.network.keeping.values() if gate.layer == layer.id]
            for gate in gates:
                _open_written(planner, finding, gate)
            for param in () if gates else layer.with_role(Role.BIAS, Role.RECURRENT_BIAS):
                if not param.trainable:
                    continue
                if steps > SHORT:
                    planner.keep(finding, long_memory(planner.network, layer, param, steps))
                    continue
                keeps = param.gate in ("forget", "update") and param.role is Role.BIAS
                planner.draw(finding, layer, param, "constant", value=value if keeps else 0.0)
            _wake(planner, finding, layer)
            planner.calm(finding, layer, CHURNING)


def _open_written(planner: Planner, finding: Record, gate: KeepingGate) -> None:
    """The biases of one gate of a cell in a loop; rows of other gates stay what they are."""
    keys = {bias.key for bias in (gate.bias, *gate.further)}
    for layer, param in planner.model.graph.params:
        if param.key in keys and param.tied_to is None and param.trainable:
            held = planner.measures.read(param)
            planner.keep(finding, written_memory(planner.network, layer, param, gate, held))


def _wake(planner: Planner, finding: Record, layer: Layer) -> None:
    """Weights of a cell that are far too small: a memory that opens has nothing to keep.

    Its input and its state then are two small factors in a row (`residual-branch-faint`).
    """
    for param in layer.with_role(*WEIGHT_ROLES):
        std = planner.measures.effective_std(param) if param.trainable else None
        slot = planner.network.slot(layer, param)
        wanted = 1 / math.sqrt(slot.fan_in)
        if not std or FAR * std >= wanted or param.tied_to is not None:
            continue
        if param.role is Role.RECURRENT_WEIGHT:
            planner.draw(finding, layer, param, "orthogonal", gain=1.0)
        else:
            planner.rescale(finding, layer, param, wanted / std, "lecun")
