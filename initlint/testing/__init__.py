"""Public harness for rule authors: networks made by hand, and running one rule on them.

A network is built from arrays with `Network`, run in NumPy with `Network.run`, and given to a rule
with `run_rule`, `assert_fires` or `assert_silent`. No framework is needed.
"""

from initlint.model import from_array
from initlint.testing.builder import Value
from initlint.testing.forward import compute, evaluate
from initlint.testing.harness import as_model, assert_fires, assert_silent, drawn, run_rule
from initlint.testing.initialisers import (
    full,
    he_normal,
    he_uniform,
    lecun_normal,
    normal,
    ones,
    orthogonal,
    torch_default,
    uniform,
    xavier_normal,
    xavier_uniform,
    zeros,
)
from initlint.testing.network import Network
from initlint.testing.observe import observe

__all__ = [
    "Network",
    "Value",
    "as_model",
    "assert_fires",
    "assert_silent",
    "compute",
    "drawn",
    "evaluate",
    "from_array",
    "full",
    "he_normal",
    "he_uniform",
    "lecun_normal",
    "normal",
    "observe",
    "ones",
    "orthogonal",
    "run_rule",
    "torch_default",
    "uniform",
    "xavier_normal",
    "xavier_uniform",
    "zeros",
]
