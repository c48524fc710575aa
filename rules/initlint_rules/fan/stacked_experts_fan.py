"""stacked-experts-fan: a stack of matrices drawn as if it were one convolution kernel."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from initlint.api import Context, FanMistake, Finding, Need, Rule, Severity, Stage, drift_share
from initlint.api import fan_mistakes as mistakes_of

from ._report import CONSEQUENCES, causes, report, subject

_FANS = frozenset({"stacked", "batch_axis"})
"""The helper's reading of ``(count, rows, columns)``, and a scheme that counts the stack axis."""


class StackedExpertsFan(Rule):
    """A stack of matrices (experts, heads) was drawn as if it were one convolution kernel.

    What it does
    ------------
    Finds parameters ``(count, rows, columns)`` that are used as ``count`` separate matrices and
    whose scale fits a scheme only with the fans that ``torch.nn.init`` computes for that shape.

    Why is this bad
    ---------------
    The helpers take every axis behind the second for a kernel: fan_in becomes rows times columns
    and fan_out count times columns, where each expert has rows (or columns) inputs. He weights of
    an expert 64 x 256 then start 16 times too narrow, those of its way back 8 times, 128 in a
    row: the experts add next to nothing, and the router has nothing to choose from.

    How it decides
    --------------
    The standard deviation of every matrix of the stack agrees with a scheme over the helper's fans
    (4 standard errors) and with no scheme over the true ones. An info; more through the layers'
    share of the predicted drift.

    What it does not flag
    ---------------------
    Real convolution kernels, stacks drawn one by one or with a fixed scale, packed query, key and
    value matrices (packed-projection-fan), trained weights.

    Example
    -------
    ::

        import torch
        from torch import nn

        class Experts(nn.Module):
            def __init__(self, count, width, hidden):
                super().__init__()
                self.up = nn.Parameter(torch.empty(count, width, hidden))
                self.down = nn.Parameter(torch.empty(count, hidden, width))
                nn.init.kaiming_normal_(self.up)
                nn.init.kaiming_normal_(self.down)

            def forward(self, x):
                hidden = torch.relu(torch.einsum("bd,edh->ebh", x, self.up))
                return torch.einsum("ebh,ehd->ebd", hidden, self.down).mean(0)

        def model():
            return nn.Sequential(nn.Linear(32, 32), Experts(4, 32, 64), nn.Linear(32, 10))

    Use instead
    -----------
    ::

        import torch
        from torch import nn

        class Experts(nn.Module):
            def __init__(self, count, width, hidden):
                super().__init__()
                self.up = nn.Parameter(torch.empty(count, width, hidden))
                self.down = nn.Parameter(torch.empty(count, hidden, width))
                for stack in (self.up, self.down):
                    for matrix in stack.data:
                        nn.init.kaiming_normal_(matrix.T)

            def forward(self, x):
                hidden = torch.relu(torch.einsum("bd,edh->ebh", x, self.up))
                return torch.einsum("ebh,ehd->ebd", hidden, self.down).mean(0)

        def model():
            return nn.Sequential(nn.Linear(32, 32), Experts(4, 32, 64), nn.Linear(32, 10))

    References
    ----------
    - torch.nn.init._calculate_fan_in_and_fan_out: every axis behind the second is a kernel's.
    - keras issue 22789: the same for the kernels of attention and EinsumDense.
    """

    code = "FAN306"
    name = "stacked-experts-fan"
    formula = "[N, out, in] read as a kernel: fan = size(1) * size(2) instead of in"
    needs = frozenset({Need.WEIGHTS, Need.GRAPH, Need.THEORY})
    optional = frozenset({Need.PROBE})
    stages = frozenset({Stage.FRESH, Stage.MIXED})
    folds = (*CONSEQUENCES, "wrong-fan")

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding per scheme."""
        groups: dict[str, list[FanMistake]] = defaultdict(list)
        for mistake in mistakes_of(context.model, context.measures):
            if mistake.match.fan in _FANS:
                groups[mistake.match.scheme].append(mistake)
        for scheme, mistakes in groups.items():
            share = drift_share(context, causes(mistakes))
            first = mistakes[0]
            base = scheme.partition("_")[0]
            helper = {"he": "kaiming_normal_", "xavier": "xavier_normal_"}.get(base, "")
            yield report(
                mistakes,
                share,
                share.severity or Severity.INFO,
                message=f"{scheme} of {subject(mistakes)} takes the stack of "
                f"{_count(first)} matrices for a convolution kernel: std {first.ratio:.2g} "
                "times the right one",
                why="torch.nn.init counts every axis behind the second as a kernel's; each matrix "
                "of the stack is a layer of its own",
                code=f"for matrix in {first.param.name}.data: torch.nn.init."
                f"{helper or 'kaiming_normal_'}(matrix.T)  # .T where it is stored (in, out)",
            )


def _count(mistake: FanMistake) -> int:
    tensor = mistake.param.tensor
    return tensor.stored_shape[0] if tensor is not None else mistake.param.packed
