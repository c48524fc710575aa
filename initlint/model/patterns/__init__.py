"""Layers that exporters take apart, put together again.

Each pattern is matched from an anchor operator outwards, over a bounded neighbourhood; a pass is
linear in the graph. No search for isomorphic subgraphs takes place.
"""

from __future__ import annotations

from initlint.model.graph import LayerGraph
from initlint.model.patterns import activations, norms
from initlint.model.patterns.attention import attention
from initlint.model.patterns.draft import Draft
from initlint.model.patterns.parameters import biases, gains, operands

_PASSES = (
    operands,
    biases,
    activations.hard_swish,
    activations.clipped,
    activations.exponentials,
    activations.gelu,
    activations.silu,
    activations.mish,
    activations.chosen,
    activations.selu_from_elu,
    activations.softmax,
    norms.scaled_and_shifted,
    norms.standardised,
    norms.grouped,
    activations.squared_relu,
    gains,
    attention,
)
"""In this order: later patterns are made of what earlier ones put together (Mish of softplus, SiLU
of sigmoid, gains of norms, attention of softmax). The squares in a norm of ReLUs are the norm's."""


def fuse(graph: LayerGraph) -> LayerGraph:
    """The same network with decomposed layers as one layer each.

    Recognised: biases of linear and convolutional layers; LayerNorm, RMSNorm (with ``1 + w``
    gains), GroupNorm, InstanceNorm, batch statistics, Euclidean normalisation and their affine
    parts; GELU (both forms), QuickGELU, SiLU, Mish, hard swish and sigmoid, ReLU6, hard tanh, leaky
    and squared ReLU, ELU, SELU, sigmoid, softplus, softmax and its logarithm; attention
    (`Op.ATTENTION` with inputs query, key, value and a mask where there is one, and attributes
    ``scale``, ``heads``, ``head_dim``, ``causal``, ``softcap``, ``key_transposed``).

    A fused layer takes the module path that all its parts share when they are all of the module,
    else the id of its last part, whose output shape and location it has. Normalised parameters
    (weight standardisation) and gating products stay as they are.
    """
    draft = Draft(graph)
    for apply in _PASSES:
        apply(draft)
    return draft.graph()
