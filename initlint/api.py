"""All that a rule pack may import: the public names of the core, in one place.

Built-in and third-party rules see the same names. A name that is not here is not public.
"""

from initlint.lint.finding import Confidence, Finding, Fix, Severity
from initlint.lint.harm import backward_severity, drift_severity, severity_of
from initlint.lint.rule import Context, Need, Option, Rule
from initlint.measure.result import Family, Identification, Match, Moments, Stage
from initlint.model import (
    ACTIVATIONS,
    BUFFERS,
    NORMALISERS,
    RECURRENT,
    RELU_FAMILY,
    SATURATING,
    TRANSPARENT,
    WEIGHTED,
    Edge,
    Fans,
    Kind,
    Layer,
    LayerGraph,
    Model,
    Op,
    Param,
    Role,
    Tensor,
    Where,
    fans,
)
from initlint.model.structure import dominators
from initlint.probe.profile import input_rms, measured_drift, saturates, stretches
from initlint.probe.result import Activations, GradientStats, OutputStats, ProbeStatus
from initlint.theory.activations import forward_gain
from initlint.theory.partition import SymmetricGroup, symmetric_units
from initlint.theory.recurrent import RecurrentResponse, recurrent_weights
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
    "TRANSPARENT",
    "WEIGHTED",
    "Activations",
    "Confidence",
    "Context",
    "Edge",
    "Family",
    "Fans",
    "Finding",
    "Fix",
    "GradientStats",
    "Identification",
    "Kind",
    "Layer",
    "LayerGraph",
    "Match",
    "Model",
    "Moments",
    "Need",
    "Op",
    "Option",
    "OutputStats",
    "Param",
    "Prediction",
    "ProbeStatus",
    "RecurrentResponse",
    "ResidualBranch",
    "Role",
    "Rule",
    "Segment",
    "Severity",
    "Signal",
    "Sink",
    "Stage",
    "SymmetricGroup",
    "Tensor",
    "Where",
    "backward_severity",
    "dominators",
    "drift_severity",
    "fans",
    "forward_gain",
    "input_rms",
    "measured_drift",
    "recurrent_weights",
    "saturates",
    "severity_of",
    "simulate_recurrent",
    "stretches",
    "symmetric_units",
    "unlocking",
]
