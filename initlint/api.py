"""All that a rule pack may import: the public names of the core, in one place.

Built-in and third-party rules see the same names. A name that is not here is not public.
"""

from initlint.lint.attribution import Share, drift_share, segment_makers
from initlint.lint.finding import Confidence, Finding, Fix, Severity
from initlint.lint.harm import backward_severity, drift_severity, makers, severity_of
from initlint.lint.rule import Context, Need, Option, Rule
from initlint.lint.trunk import is_spared, on_branches
from initlint.measure.fan_mistakes import FanMistake, fan_mistakes
from initlint.measure.precision import distinct, median
from initlint.measure.result import Family, Identification, Match, Moments, Stage
from initlint.measure.symmetry import STREAM_MOST, SharedStream, content_key, same_stream
from initlint.model import (
    ACTIVATIONS,
    BUFFERS,
    NORMALISERS,
    RECURRENT,
    RELU_FAMILY,
    SATURATING,
    TRANSPARENT,
    WEIGHTED,
    Draws,
    Edge,
    Fans,
    GradientMemory,
    Kind,
    Layer,
    LayerGraph,
    Model,
    Op,
    OptimiserState,
    Param,
    Redrawn,
    Role,
    SeedScales,
    Tensor,
    Where,
    WidthScaling,
    fans,
)
from initlint.model.bypass import gate_layers, is_bypassed
from initlint.model.masks import masked
from initlint.model.structure import (
    Gate,
    Residual,
    blocks,
    dominators,
    gates,
    glu_products,
    heads,
    post_dominators,
    residual_branches,
)
from initlint.model.unrolled import Unrolled, reads_all_steps, unrolled_recurrences
from initlint.model.written_cells import KeepingGate, keeping_gates
from initlint.probe.profile import (
    hidden_layers,
    input_rms,
    measured_drift,
    saturates,
    signal_rms,
    stretches,
)
from initlint.probe.result import Activations, GradientStats, OutputStats, ProbeStatus
from initlint.theory.activations import forward_gain, standardised_gain
from initlint.theory.activations import slope as variance_slope
from initlint.theory.harm import (
    blocked_harm,
    correlation_harm,
    excess_loss,
    excess_loss_harm,
    recurrent_harm,
    saturation_harm,
)
from initlint.theory.partition import SymmetricGroup, symmetric_units
from initlint.theory.recurrent import (
    RecurrentResponse,
    RecurrentWeights,
    recurrent_weights,
    unrolled_weights,
)
from initlint.theory.recurrent import simulate as simulate_recurrent
from initlint.theory.result import Prediction, ResidualBranch, Segment, Signal, Sink
from initlint.theory.unlock import unlocking

__all__ = [
    "ACTIVATIONS",
    "BUFFERS",
    "NORMALISERS",
    "RECURRENT",
    "RELU_FAMILY",
    "SATURATING",
    "STREAM_MOST",
    "TRANSPARENT",
    "WEIGHTED",
    "Activations",
    "Confidence",
    "Context",
    "Draws",
    "Edge",
    "Family",
    "FanMistake",
    "Fans",
    "Finding",
    "Fix",
    "Gate",
    "GradientMemory",
    "GradientStats",
    "Identification",
    "KeepingGate",
    "Kind",
    "Layer",
    "LayerGraph",
    "Match",
    "Model",
    "Moments",
    "Need",
    "Op",
    "OptimiserState",
    "Option",
    "OutputStats",
    "Param",
    "Prediction",
    "ProbeStatus",
    "RecurrentResponse",
    "RecurrentWeights",
    "Redrawn",
    "Residual",
    "ResidualBranch",
    "Role",
    "Rule",
    "SeedScales",
    "Segment",
    "Severity",
    "Share",
    "SharedStream",
    "Signal",
    "Sink",
    "Stage",
    "SymmetricGroup",
    "Tensor",
    "Unrolled",
    "Where",
    "WidthScaling",
    "backward_severity",
    "blocked_harm",
    "blocks",
    "content_key",
    "correlation_harm",
    "distinct",
    "dominators",
    "drift_severity",
    "drift_share",
    "excess_loss",
    "excess_loss_harm",
    "fan_mistakes",
    "fans",
    "forward_gain",
    "gate_layers",
    "gates",
    "glu_products",
    "heads",
    "hidden_layers",
    "input_rms",
    "is_bypassed",
    "is_spared",
    "keeping_gates",
    "makers",
    "masked",
    "measured_drift",
    "median",
    "on_branches",
    "post_dominators",
    "reads_all_steps",
    "recurrent_harm",
    "recurrent_weights",
    "residual_branches",
    "same_stream",
    "saturates",
    "saturation_harm",
    "segment_makers",
    "severity_of",
    "signal_rms",
    "simulate_recurrent",
    "standardised_gain",
    "stretches",
    "symmetric_units",
    "unlocking",
    "unrolled_recurrences",
    "unrolled_weights",
    "variance_slope",
]
