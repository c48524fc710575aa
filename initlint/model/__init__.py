"""What a network is: layers, tensors, fans and the graph between them. Imports no framework."""

from initlint.model.draws import Draws, Redrawn, SeedScales
from initlint.model.errors import LoadError
from initlint.model.fans import Fans, fans
from initlint.model.graph import Edge, LayerGraph
from initlint.model.layer import BUFFERS, Layer, Param, Role, Where
from initlint.model.model import Kind, Model
from initlint.model.op import (
    ACTIVATIONS,
    NORMALISERS,
    RECURRENT,
    RELU_FAMILY,
    SATURATING,
    TRANSPARENT,
    WEIGHTED,
    Op,
)
from initlint.model.optimiser import GradientMemory, OptimiserState
from initlint.model.tensor import (
    ArraySource,
    ConstantSource,
    InFile,
    Source,
    StoredSource,
    Tensor,
    View,
    from_array,
)
from initlint.model.widths import WidthScaling

__all__ = [
    "ACTIVATIONS",
    "BUFFERS",
    "NORMALISERS",
    "RECURRENT",
    "RELU_FAMILY",
    "SATURATING",
    "TRANSPARENT",
    "WEIGHTED",
    "ArraySource",
    "ConstantSource",
    "Draws",
    "Edge",
    "Fans",
    "GradientMemory",
    "InFile",
    "Kind",
    "Layer",
    "LayerGraph",
    "LoadError",
    "Model",
    "Op",
    "OptimiserState",
    "Param",
    "Redrawn",
    "Role",
    "SeedScales",
    "Source",
    "StoredSource",
    "Tensor",
    "View",
    "Where",
    "WidthScaling",
    "fans",
    "from_array",
]
