"""What measuring one tensor or one model yields: plain frozen records."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from initlint.model.record import record


@record(frozen=True, slots=True)
class Moments:
    """One-pass statistics of a tensor's finite elements.

    Attributes:
        count: elements, non-finite ones included.
        mean, std: over finite elements (population standard deviation, float64 accumulation).
        skew, kurtosis: standardised third and fourth moments (a normal has kurtosis 3).
        min, max: over finite elements.
        zeros: exact zeros.
        subnormals: non-zero magnitudes below the storage dtype's smallest normal number.
        nan, inf: non-finite elements.
    """

    count: int
    mean: float
    std: float
    skew: float
    kurtosis: float
    min: float
    max: float
    zeros: int
    subnormals: int
    nan: int
    inf: int

    @property
    def non_finite(self) -> int:
        """NaN and infinite elements together."""
        return self.nan + self.inf

    @property
    def second_moment(self) -> float:
        """Mean square of the finite elements."""
        return self.mean * self.mean + self.std * self.std

    @property
    def max_abs(self) -> float:
        """Largest finite magnitude."""
        return max(abs(self.min), abs(self.max))

    @property
    def constant(self) -> bool:
        """True when all finite elements are equal."""
        return self.min == self.max


class Stage(str, Enum):
    """Whether weights still fit the distribution they were drawn from."""

    FRESH = "fresh"
    TRAINED = "trained"
    MIXED = "mixed"
    UNKNOWN = "unknown"

    def __str__(self) -> str:
        return self.value


class Family(str, Enum):
    """Shape of a distribution, or an exact structure."""

    ZEROS = "zeros"
    ONES = "ones"
    CONSTANT = "constant"
    IDENTITY = "identity"
    DIRAC = "dirac"
    ORTHOGONAL = "orthogonal"
    DELTA_ORTHOGONAL = "delta_orthogonal"
    SPARSE = "sparse"
    UNIFORM = "uniform"
    NORMAL = "normal"
    TRUNCATED_NORMAL = "truncated_normal"
    HADAMARD = "hadamard"
    DETERMINISTIC = "deterministic"
    """An analytic table: sinusoid, A_log, RoPE frequencies, filter bank."""
    UNKNOWN = "unknown"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class Match:
    """A named scheme that the numbers do not contradict.

    Attributes:
        scheme: the field's name: ``he_normal``, ``xavier_uniform``, ``lecun_normal``,
            ``torch_default``, ``normal(0.02)``, ``orthogonal``, ``zeros``…
        gain: the gain that goes with it (1 where none applies).
        std: the standard deviation the scheme predicts for this tensor.
        fan: which fan the prediction used: ``fan_in``, ``fan_out``, ``fan_avg`` or ``""``; wrong
            fans carry their variant: ``missing_kernel``, ``swapped``, ``packed``, ``ungrouped``…
        true_fan: False when ``fan`` is one of the known mistakes.
    """

    scheme: str
    gain: float = 1.0
    std: float = 0.0
    fan: str = ""
    true_fan: bool = True


@record(frozen=True, slots=True)
class Identification:
    """Which initialisation schemes a tensor is compatible with.

    Attributes:
        family: shape of the distribution; UNKNOWN when it fits none, or n is too small.
        matches: every named scheme within sampling error, the most specific first; two schemes
            that n cannot tell apart are both here.
        n: elements the decision rests on.
        std_error: relative standard error of the measured std, ``sqrt((kurtosis-1)/(4n))``.
        std: measured std.
        bound: for a uniform, the bound ``max|w|``; else 0.
        independent: True for a matrix that fits no family and still looks like independent draws.
    """

    family: Family
    matches: tuple[Match, ...] = ()
    n: int = 0
    std_error: float = 0.0
    std: float = 0.0
    bound: float = 0.0
    independent: bool = False

    @property
    def scheme(self) -> str:
        """Names of all matching schemes joined by `` | ``, or the family where none matches."""
        names = dict.fromkeys(match.scheme for match in self.matches)
        return " | ".join(names) if names else str(self.family)

    def names(self) -> frozenset[str]:
        """The scheme names that fit."""
        return frozenset(match.scheme for match in self.matches)
