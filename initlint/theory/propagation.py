"""Mean-field prediction over a layer graph: signal forward, gradient backward."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from initlint.model.graph import LayerGraph
from initlint.model.model import Model
from initlint.theory.backward import backward_pass, final_outputs
from initlint.theory.flow import flow_of, silent_heads
from initlint.theory.forward import ForwardPass, forward_pass
from initlint.theory.node import Context, Weights
from initlint.theory.residual import residual_branches
from initlint.theory.result import Prediction, Segment, Signal
from initlint.theory.segments import segments
from initlint.theory.state import Gradient

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
    forward = forward_pass(Context(model.graph, measures, sequence_length, input_q))
    found = _Consequences(forward, model.graph)
    return Prediction(
        forward.ended_at,
        forward=found.signals,
        backward=found.backward,
        segments=found.segments,
        residuals=lambda: residual_branches(forward),
    )


class _Consequences:
    """What follows from a forward pass; what several parts need is worked out once."""

    def __init__(self, forward: ForwardPass, graph: LayerGraph) -> None:
        self._forward = forward
        self._graph = graph

    @cached_property
    def _outputs(self) -> tuple[str, ...]:
        return final_outputs(self._graph)

    @cached_property
    def _gradients(self) -> Mapping[str, Gradient | None]:
        return backward_pass(self._forward, self._outputs)

    def signals(self) -> dict[str, Signal]:
        """The state of each layer's first output, where it is a known signal."""
        return {
            key: Signal(state.log_q, state.mean**2, state.samples, state.log_variance)
            for key, state in self._forward.states.items()
            if state is not None and not state.side
        }

    def backward(self) -> dict[str, float]:
        """The known gradients."""
        return {key: item.log_g for key, item in self._gradients.items() if item is not None}

    def segments(self) -> tuple[Segment, ...]:
        """Stretches between resets.

        A head of zeros lets no gradient through at first: scale is then judged as if it did.
        """
        flow, judged = flow_of(self._forward), self._gradients
        zero = silent_heads(flow, self._outputs)
        if zero:
            judged = backward_pass(self._forward, self._outputs, through_zero=zero)
        return segments(self._forward, flow, judged)
