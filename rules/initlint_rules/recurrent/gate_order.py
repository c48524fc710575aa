"""gate-order: the forget bias was written into another gate's slice."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from initlint.api import (
    Context,
    Finding,
    Fix,
    Layer,
    Moments,
    Op,
    Role,
    Rule,
    Severity,
    Stage,
)

FORGET_VALUES = (1.0, 2.0)
"""What people add to the forget gate: 1 (Gers et al., Jozefowicz et al., Keras), 2 for longer
memories; both biases of PyTorch together may hold twice 1."""

TOLERANCE = 0.05
"""How near a slice's mean must come to such a value, and the other slices' to 0."""

SPREAD = 0.02
"""Standard deviation a slice may have: it was filled, not drawn. PyTorch's own biases have
0.58/sqrt(hidden), which is less only above 800 units, and then their mean is 0."""


class GateOrder(Rule):
    """One gate other than the forget gate holds a bias of 1, as the forget gate should.

    What it does
    ------------
    Adds up the biases of each gate of a freshly initialised LSTM and looks for exactly one gate
    that was filled with 1 or 2 while all others are at 0.

    Why is this bad
    ---------------
    A positive forget bias keeps the cell's memory open at the start. Frameworks pack the gates in
    different orders: input, forget, cell, output in PyTorch and Keras; input, output, forget, cell
    in ONNX; input, cell, forget, output in TensorFlow 1. Filled in the wrong place it opens the
    input or output gate or shifts the cell, and the memory still halves at every step.

    How it decides
    --------------
    Exactly one gate has a mean within 0.05 of 1 or 2 and a spread below 0.02, the other three are
    within 0.05 of 0 and as narrow, and the one is not the forget gate. Constants do not fall into
    place by accident. Warning: the layer trains, with the memory of a zero bias.

    What it does not flag
    ---------------------
    GRU layers, whose update gate people bias in both directions. Drawn biases. Peephole cells.
    Trained layers. Several filled gates.

    Example
    -------
    ::

        from torch import nn

        def model():
            lstm = nn.LSTM(32, 64, batch_first=True)
            for gate in lstm.weight_hh_l0.chunk(4):
                nn.init.orthogonal_(gate)
            nn.init.zeros_(lstm.bias_ih_l0)
            nn.init.zeros_(lstm.bias_hh_l0)
            nn.init.ones_(lstm.bias_ih_l0[128:192])
            return lstm

    Use instead
    -----------
    ::

        from torch import nn

        def model():
            lstm = nn.LSTM(32, 64, batch_first=True)
            for gate in lstm.weight_hh_l0.chunk(4):
                nn.init.orthogonal_(gate)
            nn.init.zeros_(lstm.bias_ih_l0)
            nn.init.zeros_(lstm.bias_hh_l0)
            nn.init.ones_(lstm.bias_ih_l0[64:128])
            return lstm

    References
    ----------
    - Gers, Schmidhuber, Cummins 2000, Learning to forget.
    - Jozefowicz, Zaremba, Sutskever 2015, An empirical exploration of recurrent network
      architectures.
    - torch/nn/modules/rnn.py (gate order i, f, g, o); ONNX operator LSTM (i, o, f, c).
    """

    code = "REC404"
    name = "gate-order"
    formula = "mean(b_g) in {1, 2} for exactly one g that is not the forget gate"
    stages = frozenset({Stage.FRESH, Stage.MIXED, Stage.UNKNOWN})
    folds = ("forget-gate-memory",)

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding per LSTM direction with a misplaced bias."""
        for layer in context.model.graph:
            if layer.op is not Op.LSTM or layer.with_role(Role.PEEPHOLE):
                continue
            weights = layer.with_role(Role.RECURRENT_WEIGHT)
            if any(context.measures.stage(weight) is Stage.TRAINED for weight in weights):
                continue
            for direction, gates in _biases(context, layer).items():
                filled = _only_filled(gates)
                if filled is not None and filled != "forget":
                    yield _finding(layer, direction, filled, gates)


def _biases(context: Context, layer: Layer) -> dict[int, dict[str, tuple[float, float]]]:
    """Mean and spread of each gate's summed biases, by direction."""
    parts: dict[tuple[int, str], list[Moments]] = defaultdict(list)
    for bias in layer.with_role(Role.BIAS, Role.RECURRENT_BIAS):
        moments = context.measures.moments(bias)
        if bias.gate is not None and bias.trainable and moments is not None:
            parts[bias.direction, bias.gate].append(moments)
    found: dict[int, dict[str, tuple[float, float]]] = defaultdict(dict)
    for (direction, gate), pieces in parts.items():
        mean = sum(piece.mean for piece in pieces)
        found[direction][gate] = (mean, max(piece.std for piece in pieces))
    return found


def _only_filled(gates: dict[str, tuple[float, float]]) -> str | None:
    """The one gate that holds a forget bias while the others hold none."""
    if len(gates) != 4 or any(spread > SPREAD for _, spread in gates.values()):
        return None
    away = [gate for gate, (mean, _) in gates.items() if abs(mean) > TOLERANCE]
    if len(away) != 1:
        return None
    mean = gates[away[0]][0]
    return away[0] if any(abs(mean - value) < TOLERANCE for value in FORGET_VALUES) else None


def _finding(
    layer: Layer, direction: int, filled: str, gates: dict[str, tuple[float, float]]
) -> Finding:
    biases = [
        param
        for param in layer.with_role(Role.BIAS, Role.RECURRENT_BIAS)
        if param.direction == direction
    ]
    means = ", ".join(f"{gate} {mean:+.2g}" for gate, (mean, _) in gates.items())
    return Finding(
        severity=Severity.WARNING,
        layer=layer.id,
        param=biases[0].name,
        message=f"the bias of {gates[filled][0]:.2g} of {layer.id} sits in the {filled} gate, not "
        "in the forget gate",
        evidence={gate: mean for gate, (mean, _) in gates.items()},
        why="frameworks pack the gates in different orders; the forget gate starts at 1/2, so the "
        "memory halves at every step",
        measured=f"mean bias per gate: {means}",
        expected=f"{gates[filled][0]:.2g} in the forget gate, 0 elsewhere",
        fix=Fix(
            "forget_bias",
            params=tuple(param.key for param in biases),
            code="fill the forget slice: bias[hidden:2*hidden] in PyTorch (i, f, g, o) and Keras, "
            "bias[2*hidden:3*hidden] in ONNX (i, o, f, c)",
        ),
    )
