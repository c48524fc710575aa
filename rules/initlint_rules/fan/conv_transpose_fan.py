"""conv-transpose-fan: a transposed convolution whose fan_in is really its fan_out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from math import prod

from initlint.api import (
    Context,
    FanMistake,
    Finding,
    Need,
    Rule,
    Stage,
    drift_share,
    fan_mistakes,
)
from initlint_rules.fan._report import CONSEQUENCES, causes, report, subject


class ConvTransposeFan(Rule):
    """Transposed convolutions start at a scale that shrinks or inflates the signal.

    What it does
    ------------
    Finds transposed convolutions drawn with the fans that the framework computes for them, where
    this costs the signal its scale.

    Why is this bad
    ---------------
    The kernel of a transposed convolution is stored input channels first, so the helpers' fan_in
    is (out / groups) * kernel, the fan of the backward pass. The products that reach one output
    number (in / groups) * kernel / stride. With stride 2 on both axes and equal channels the signal
    comes out half as large as meant, stage after stage.

    How it decides
    --------------
    The standard deviation agrees with a scheme under the exchanged fan and with none under the true
    one, and these layers' share of the predicted drift does harm. Without harm it says nothing,
    because this is what PyTorch draws by default.

    What it does not flag
    ---------------------
    Layers that a normaliser follows (DCGAN, U-Net with batch normalisation), fixed scales such as
    DCGAN's 0.02, bilinear upsampling kernels, single layers, trained weights.

    Example
    -------
    ::

        import torch
        from torch import nn

        def model():
            layers = []
            for inputs, outputs in [(256, 256), (256, 256), (256, 192), (192, 128), (128, 96)]:
                conv = nn.ConvTranspose2d(inputs, outputs, 2, stride=2)
                nn.init.kaiming_uniform_(conv.weight, nonlinearity="relu")
                nn.init.zeros_(conv.bias)
                layers += [conv, nn.ReLU()]
            return nn.Sequential(*layers)

    Use instead
    -----------
    ::

        import torch
        from torch import nn

        def model():
            layers = []
            for inputs, outputs in [(256, 256), (256, 256), (256, 192), (192, 128), (128, 96)]:
                conv = nn.ConvTranspose2d(inputs, outputs, 2, stride=2)
                nn.init.normal_(conv.weight, std=(2 / inputs) ** 0.5)
                nn.init.zeros_(conv.bias)
                layers += [conv, nn.ReLU()]
            return nn.Sequential(*layers)

    References
    ----------
    - torch/nn/modules/conv.py: weight of shape (in, out / groups, *kernel).
    - tensorflow issue 31192.
    """

    code = "FAN303"
    name = "conv-transpose-fan"
    formula = (
        "true fan_in = (C_in / groups) prod(k) / prod(stride);  the helper uses (C_out / "
        "groups) prod(k)"
    )
    needs = frozenset({Need.WEIGHTS, Need.GRAPH, Need.THEORY})
    optional = frozenset({Need.PROBE})
    stages = frozenset({Stage.FRESH, Stage.MIXED})
    folds = CONSEQUENCES

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding per scheme that does harm."""
        groups: dict[str, list[FanMistake]] = defaultdict(list)
        for mistake in fan_mistakes(context.model, context.measures):
            if mistake.match.fan == "conv_transpose":
                groups[mistake.match.scheme].append(mistake)
        for scheme, mistakes in groups.items():
            share = drift_share(context, causes(mistakes))
            if share.severity is None:
                continue
            first = mistakes[0]
            stride = prod(int(step) for step in first.layer.attrs.get("stride", ())) or 1
            yield report(
                mistakes,
                share,
                share.severity,
                message=f"{scheme} of {subject(mistakes)} counts the outputs for fan_in: "
                f"std {first.ratio:.2g} times the right one",
                why="the kernel is stored input channels first, so the helper's fan_in is the "
                f"backward fan; the true one is in / groups * kernel / {stride}",
                code=f"torch.nn.init.normal_({first.param.name}, std={first.expected_std:.3g})",
            )
