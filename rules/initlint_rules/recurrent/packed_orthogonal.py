"""packed-orthogonal: all gates orthogonal together, none of them by itself."""

from __future__ import annotations

from collections.abc import Iterator
from math import sqrt

from initlint.api import Context, Finding, Fix, Op, Role, Rule, Severity, Stage

ORTHOGONAL = 5e-3
"""Largest ||W W^T - g^2 I|| / g^2 of a matrix that counts as orthogonal: 4e-7 in float32, up to
8e-4 after rounding to bfloat16."""

RANDOM = 0.1
"""Smallest residual of a block that is not: 0.18 and more for independent draws."""


class PackedOrthogonal(Rule):
    """The recurrent weights of all gates form one orthogonal matrix; no gate's block is orthogonal.

    What it does
    ------------
    Looks for an LSTM or GRU whose packed recurrent weight, gates stacked, has orthonormal columns
    while each gate's own square block is far from orthogonal.

    Why is this bad
    ---------------
    Orthogonal recurrent weights are chosen because they keep the length of the state. With G gates
    stacked, each block has only 1/G of the energy: singular values from 0 to about 0.87 and a mean
    square of 1/G. Per gate nothing is kept, and half the strength is lost for G = 4.

    How it decides
    --------------
    Residual of the packed matrix below 0.005, of each block above 0.1. Always an info: gates decide
    over memory, and Keras initialises its layers this way.

    What it does not flag
    ---------------------
    Blocks that are orthogonal each, plain RNNs, frozen or trained layers.

    Example
    -------
    ::

        from torch import nn

        def model():
            lstm = nn.LSTM(32, 64, batch_first=True)
            nn.init.orthogonal_(lstm.weight_hh_l0)
            return lstm

    Use instead
    -----------
    ::

        from torch import nn

        def model():
            lstm = nn.LSTM(32, 64, batch_first=True)
            for gate in lstm.weight_hh_l0.chunk(4):
                nn.init.orthogonal_(gate)
            return lstm

    References
    ----------
    - Saxe, McClelland, Ganguli 2013, Exact solutions to the nonlinear dynamics of learning.
    - keras/src/layers/rnn/lstm.py: recurrent_initializer="orthogonal" on (units, 4 * units).
    """

    code = "REC402"
    name = "packed-orthogonal"
    formula = "[W_1; ...; W_G]^T [W_1; ...; W_G] = 1  =>  |W_g|_F^2 / h = 1 / G"
    stages = frozenset({Stage.FRESH, Stage.MIXED, Stage.UNKNOWN})

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding per recurrent layer."""
        for layer in context.model.graph:
            if layer.op not in (Op.LSTM, Op.GRU):
                continue
            blocks = [
                param
                for param in layer.with_role(Role.RECURRENT_WEIGHT)
                if param.trainable and param.packed > 1 and not param.quantised
            ]
            if not blocks:
                continue
            packed = context.measures.packed_orthogonality(blocks[0])
            if packed is None or packed.residual > ORTHOGONAL:
                continue
            own = [context.measures.orthogonality(block) for block in blocks]
            worst = [measured for measured in own if measured and measured.residual > RANDOM]
            if len(worst) < len(own):
                continue
            gates = len({block.gate for block in blocks})
            yield Finding(
                severity=Severity.INFO,
                layer=layer.id,
                param=blocks[0].name,
                message=f"the recurrent weights of {layer.id} are orthogonal packed, not per gate",
                evidence={
                    "packed_residual": packed.residual,
                    "gate_residual": max(measured.residual for measured in worst),
                    "gate_gain": max(measured.gain for measured in worst),
                    "gates": gates,
                },
                why=f"each of {gates} gates gets 1/{gates} of the energy, spread over singular "
                "values from 0 to 1",
                measured=f"rms singular value {worst[0].gain:.2f} per gate",
                expected=f"1 per gate, {sqrt(gates):.2g} times as much",
                fix=Fix(
                    "orthogonal",
                    params=tuple(block.key for block in blocks),
                    code=f"for gate in {blocks[0].name}.chunk({gates}): "
                    "torch.nn.init.orthogonal_(gate)",
                ),
            )
