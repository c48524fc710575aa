"""The rule API: what a rule declares, what it is given, what it yields."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar

from initlint.lint.finding import Finding
from initlint.measure.result import Stage

if TYPE_CHECKING:
    from initlint.measure.measures import Measures
    from initlint.model.model import Model
    from initlint.probe.result import Activations
    from initlint.theory.result import Prediction


class Need(str, Enum):
    """Evidence that a rule asks for. The engine computes only what some selected rule needs."""

    WEIGHTS = "weights"
    GRAPH = "graph"
    THEORY = "theory"
    PROBE = "probe"
    BACKWARD = "backward"


@dataclass(frozen=True, slots=True)
class Option:
    """A number or word the user may set under ``[tool.initlint.rules.<name>]``.

    Attributes:
        default: value when unset; its type is the option's type.
        why: the derivation of the default, printed by ``initlint explain``.
    """

    default: float | int | str | bool
    why: str


@dataclass(frozen=True, slots=True)
class Context:
    """Everything a rule may look at.

    Attributes:
        model: the layer graph and its tensors.
        measures: moments, schemes, stages, symmetry and spectra, computed once when asked.
        stage: stage of the whole model.
        theory: the mean-field prediction, or None when no selected rule needs it.
        probe: what a run measured, or None when it did not run (the rule then says nothing
            that only a run could tell).
        options: this rule's options, defaults filled in.
        sequence_length: assumed sequence length for recurrent layers, and
        sequence_length_known: whether the graph or the user gave it.
    """

    model: Model
    measures: Measures
    stage: Stage
    theory: Prediction | None = None
    probe: Activations | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    sequence_length: int = 50
    sequence_length_known: bool = False


class Rule(ABC):
    """One check. One file, one class, one docstring that ``initlint explain`` prints.

    The docstring's headings are fixed: *What it does*, *Why is this bad*, *How it decides*,
    *What it does not flag*, *Example*, *Use instead*, *References*. The first Python block under
    *Example* must make the rule fire, the one under *Use instead* must give no finding; tests run
    both. Each defines ``model()`` that returns a `LayerGraph` built with `initlint.testing`, or a
    torch module.

    Class attributes:
        code: short alias, three capital letters and three digits.
        name: the rule's identity, kebab-case; also the file's name with underscores.
        since: version of initlint that introduced it.
        needs: evidence it uses. Without it the rule does not run and the summary says so.
        stages: stages of a *model* it runs on. Rules look at the stage of single tensors through
            ``context.measures.stage(param)`` themselves.
        preview: True while new; runs only with ``--preview`` or when selected by name.
        folds: names of rules whose findings on the same or later layers are consequences of this
            one; the engine folds them into it. A worse one only where the layers of this one
            answer for most of it; this one then takes its severity.
        local: True where the findings are about the weights of their own layers alone, so that
            only a cause in the same layers explains them.
        about_scale: True where the findings are about the scale of weights. Where none of them is
            trained the scale is their maker's choice, as in reservoirs, random features and base
            networks of adapters, and the finding is one level milder.
        options: what users may set.
    """

    code: ClassVar[str]
    name: ClassVar[str]
    since: ClassVar[str] = "0.1"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.WEIGHTS})
    optional: ClassVar[frozenset[Need]] = frozenset()
    """Evidence it uses when there, and works without."""
    stages: ClassVar[frozenset[Stage]] = frozenset({Stage.FRESH, Stage.MIXED, Stage.UNKNOWN})
    preview: ClassVar[bool] = False
    folds: ClassVar[tuple[str, ...]] = ()
    local: ClassVar[bool] = False
    about_scale: ClassVar[bool] = False
    options: ClassVar[Mapping[str, Option]] = {}
    formula: ClassVar[str] = ""
    """What it computes, in plain text; printed by ``initlint explain`` and on the rule's page."""

    @abstractmethod
    def check(self, context: Context) -> Iterable[Finding]:
        """Yield findings. Must not keep state between calls, and must be deterministic."""
