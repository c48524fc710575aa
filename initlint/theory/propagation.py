"""Mean-field prediction over a layer graph: signal forward, gradient backward."""

from __future__ import annotations

from initlint.model.model import Model
from initlint.theory.backward import backward_pass, final_outputs
from initlint.theory.forward import forward_pass
from initlint.theory.node import Context, Weights
from initlint.theory.residual import residual_branches
from initlint.theory.result import Prediction, Signal
from initlint.theory.segments import flow_of, segments, silent_heads

SEQUENCE_LENGTH = 50
"""Steps assumed where neither the graph nor the user tells a length."""


def predict(
    model: Model,
    measures: Weights,
    *,
    input_q: float = 1.0,
    sequence_length: int = SEQUENCE_LENGTH,
) -> Prediction:
    """Predict signal and gradient at every layer from the weights as they are.

    Weights enter by their measured moments, so a wrong fan or gain shows at once; what is assumed
    is that they are independent of the signal (true when fresh) and layers are wide.

    Args:
        model: the layer graph.
        measures: moments of its parameters.
        input_q: second moment of every floating-point input; inputs are taken as centred, and
            independent between samples and positions.
        sequence_length: steps of a recurrent layer, or keys of an attention, of unknown length.
    """
    context = Context(model.graph, measures, sequence_length, input_q)
    forward = forward_pass(context)
    outputs = final_outputs(model.graph)
    backward = backward_pass(forward, outputs)
    flow = flow_of(forward)
    zero = silent_heads(flow, outputs)
    # a head of zeros lets no gradient through at first: scale is then judged as if it did
    judged = backward_pass(forward, outputs, through_zero=zero) if zero else backward
    signals = {
        key: Signal(state.log_q, state.mean**2, state.samples, state.log_variance)
        for key, state in forward.states.items()
        if state is not None and not state.side
    }
    return Prediction(
        forward=signals,
        backward={key: item.log_g for key, item in backward.items() if item is not None},
        ended_at=forward.ended_at,
        segments=segments(forward, flow, judged),
        residuals=residual_branches(forward),
    )
