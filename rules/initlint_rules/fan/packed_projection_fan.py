"""packed-projection-fan: projections stacked in one matrix and drawn as if they were one layer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from initlint.api import (
    Context,
    FanMistake,
    Finding,
    Need,
    Rule,
    Severity,
    Stage,
    drift_share,
    fan_mistakes,
)
from initlint_rules.fan._report import CONSEQUENCES, causes, report, subject


class PackedProjectionFan(Rule):
    """Several projections share one matrix and were drawn with its side as their fan_out.

    What it does
    ------------
    Finds blocks of stacked matrices (query, key and value in one, gates in one) whose scale fits
    Xavier only when the outputs of all blocks are counted.

    Why is this bad
    ---------------
    Each block is a layer of its own with its own number of outputs. With k square blocks Xavier
    over the whole matrix is sqrt(2 / (1 + k)) times too narrow: 0.71 for query, key and value,
    which halves their variances and leaves a quarter of that of the attention logits.

    How it decides
    --------------
    The standard deviation agrees with Xavier over the packed shape and with no scheme over one
    block. An info; more through the share of the predicted drift.

    What it does not flag
    ---------------------
    ``torch.nn.MultiheadAttention`` as it is drawn by default, fixed scales, LeCun and He scales,
    which count inputs only, trained weights.

    Example
    -------
    ::

        import torch
        from torch import nn
        from torch.nn.functional import scaled_dot_product_attention

        class Attention(nn.Module):
            def __init__(self, width):
                super().__init__()
                self.norm = nn.LayerNorm(width)
                self.qkv = nn.Linear(width, 3 * width, bias=False)
                self.out = nn.Linear(width, width)
                nn.init.xavier_uniform_(self.qkv.weight)

            def forward(self, x):
                q, k, v = self.qkv(self.norm(x)).chunk(3, dim=-1)
                return x + self.out(scaled_dot_product_attention(q, k, v))

        def model():
            return nn.Sequential(nn.Embedding(100, 96), Attention(96), Attention(96))

    Use instead
    -----------
    ::

        import torch
        from torch import nn
        from torch.nn.functional import scaled_dot_product_attention

        class Attention(nn.Module):
            def __init__(self, width):
                super().__init__()
                self.norm = nn.LayerNorm(width)
                self.qkv = nn.Linear(width, 3 * width, bias=False)
                self.out = nn.Linear(width, width)
                for block in self.qkv.weight.chunk(3):
                    nn.init.xavier_uniform_(block)

            def forward(self, x):
                q, k, v = self.qkv(self.norm(x)).chunk(3, dim=-1)
                return x + self.out(scaled_dot_product_attention(q, k, v))

        def model():
            return nn.Sequential(nn.Embedding(100, 96), Attention(96), Attention(96))

    References
    ----------
    - pytorch issue 166378: Xavier over the packed in_proj_weight.
    - Huang, Perez, Ba, Volkovs 2020, T-Fixup: its code multiplies values by sqrt(2) for this.
    """

    code = "FAN305"
    name = "packed-projection-fan"
    formula = "Xavier over k packed blocks:  std off by sqrt(2 / (1 + k)),  k = 3: 0.71"
    needs = frozenset({Need.WEIGHTS, Need.GRAPH, Need.THEORY})
    optional = frozenset({Need.PROBE})
    stages = frozenset({Stage.FRESH, Stage.MIXED})
    folds = CONSEQUENCES

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding per scheme."""
        groups: dict[str, list[FanMistake]] = defaultdict(list)
        for mistake in fan_mistakes(context.model, context.measures):
            match = mistake.match
            if match.fan == "packed" and match.scheme != "torch_default":
                groups[match.scheme].append(mistake)
        for scheme, mistakes in groups.items():
            share = drift_share(context, causes(mistakes))
            first = mistakes[0]
            yield report(
                mistakes,
                share,
                share.severity or Severity.INFO,
                message=f"{scheme} of {subject(mistakes)} counts the outputs of all "
                f"{first.param.packed} stacked projections: std {first.ratio:.2g} times the "
                "right one",
                why="each block is a layer of its own; the packed shape is how it is stored",
                code=f"draw the {first.param.packed} blocks of {first.param.name} one by one",
            )
