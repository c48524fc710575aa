"""latent-variance: the log-variance head of a variational autoencoder starts far from zero."""

from __future__ import annotations

from collections.abc import Iterator
from math import exp

from initlint.api import (
    Context,
    Finding,
    Fix,
    Layer,
    LayerGraph,
    Need,
    Op,
    Rule,
    Severity,
    Stage,
    excess_loss_harm,
    severity_of,
)

LARGEST_EXPONENT = 60.0
"""exp of more is far beyond any float16 number; the divergence is said to be at least this."""

NARROWEST = -5.0
"""Mean of v down to which a narrow start is a choice (a bias of -2 to -5 makes the first samples
nearly their means): the divergence is linear there, its gradient at most 1/2 per unit, and 2 nats.
What spreads around the mean counts all the same."""


class LatentVariance(Rule):
    """The log-variance of a latent Gaussian starts so wide that the divergence dominates the loss.

    What it does
    ------------
    Finds the reparametrisation z = mu + exp(v/2) * noise, measures v on the probe, and computes the
    divergence from N(0, 1) that v alone costs.

    Why is this bad
    ---------------
    The divergence holds (exp(v) - 1 - v)/2 per latent unit: v of standard deviation 2 costs three
    nats each, and one large v costs exp(v). The first steps are spent on pulling v to 0, with
    gradients that grow exponentially, and often end with all latents collapsed to the prior.

    How it decides
    --------------
    Expected nats per latent unit for a Gaussian v with the measured mean m and standard deviation
    s: (exp(m + s^2/2) - 1 - m)/2, without what a mean from -5 to 0 costs by itself: a narrow start.
    Above 0.5 info, 1 warning, 3 error.

    What it does not flag
    ---------------------
    Heads near zero, biases that start the latents narrow (down to -5), deterministic autoencoders,
    exponentials that do not scale noise, a learned log-standard-deviation without an input, trained
    models.

    Example
    -------
    ::

        import torch
        from torch import nn

        class Autoencoder(nn.Module):
            def __init__(self):
                super().__init__()
                self.encoder = nn.Linear(32, 64)
                self.mean = nn.Linear(64, 8)
                self.log_variance = nn.Linear(64, 8)
                self.decoder = nn.Linear(8, 32)

            def forward(self, x):
                hidden = torch.tanh(self.encoder(x))
                mean, log_variance = self.mean(hidden), self.log_variance(hidden)
                noise = torch.randn_like(mean)
                return self.decoder(mean + torch.exp(0.5 * log_variance) * noise)

        def model():
            net = Autoencoder()
            nn.init.normal_(net.log_variance.weight, std=0.5)
            return net

    Use instead
    -----------
    ::

        import torch
        from torch import nn

        class Autoencoder(nn.Module):
            def __init__(self):
                super().__init__()
                self.encoder = nn.Linear(32, 64)
                self.mean = nn.Linear(64, 8)
                self.log_variance = nn.Linear(64, 8)
                self.decoder = nn.Linear(8, 32)

            def forward(self, x):
                hidden = torch.tanh(self.encoder(x))
                mean, log_variance = self.mean(hidden), self.log_variance(hidden)
                noise = torch.randn_like(mean)
                return self.decoder(mean + torch.exp(0.5 * log_variance) * noise)

        def model():
            return Autoencoder()

    References
    ----------
    - Kingma, Welling 2014, Auto-encoding variational Bayes, appendix B.
    """

    code = "DOM104"
    name = "latent-variance"
    formula = "KL of v per unit = (exp(m + s^2/2) - 1 - m) / 2,  v ~ N(m, s^2)"
    needs = frozenset({Need.GRAPH, Need.PROBE})
    stages = frozenset({Stage.FRESH})
    folds = ("variance-profile", "forward-drift", "saturation", "gradient-profile")

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding per latent Gaussian."""
        if context.probe is None:
            return
        graph = context.model.graph
        for layer in graph.order:
            head = _log_variance(graph, layer) if layer.op is Op.EXP else None
            stats = context.probe.outputs.get(head.id) if head is not None else None
            if head is None or stats is None or stats.non_finite:
                continue
            nats = _nats(stats.mean, stats.std)
            severity = severity_of(excess_loss_harm(nats))
            if severity is not None:
                yield _finding(head, stats.mean, stats.std, nats, severity)


def _nats(mean: float, std: float) -> float:
    """Divergence per unit that is no choice of a narrow start."""
    spread = exp(min(mean + 0.5 * std**2, LARGEST_EXPONENT))
    chosen = exp(mean) if NARROWEST <= mean <= 0.0 else 1.0 + mean
    return 0.5 * (spread - chosen)


def _log_variance(graph: LayerGraph, root: Layer) -> Layer | None:
    """The head v of mu + exp(v/2) * noise, given the exponential.

    The mean and the log-variance come from one layer, or from two that read the same tensor, and
    what the exponential multiplies is not computed from them: noise.
    """
    halved = graph.effective_producers(root.id)
    if len(halved) != 1 or not _is_half(halved[0]):
        return None
    above = graph.effective_producers(halved[0].id)
    if len(above) != 1 or above[0].op not in (Op.LINEAR, Op.CONV):
        return None
    head = above[0]
    for product in graph.effective_consumers(root.id):
        if product.op is not Op.MUL:
            continue
        factors = [other for other in graph.effective_producers(product.id) if other.id != root.id]
        if any(graph.producers(other.id) for other in factors):
            continue
        for total in graph.effective_consumers(product.id):
            if total.op is Op.ADD and _has_mean(graph, total, product, head):
                return head
    return None


def _is_half(layer: Layer) -> bool:
    constant = layer.attrs.get("constant")
    if isinstance(constant, bool) or not isinstance(constant, (int, float)):
        return False
    return (layer.op is Op.MUL and constant == 0.5) or (layer.op is Op.DIV and constant == 2)


def _has_mean(graph: LayerGraph, total: Layer, product: Layer, head: Layer) -> bool:
    sources = {layer.id for layer in graph.effective_producers(head.id)}
    for mean in graph.effective_producers(total.id):
        if mean.id == head.id:
            return True
        if mean.id != product.id and mean.op is head.op:
            return {layer.id for layer in graph.effective_producers(mean.id)} == sources
    return False


def _finding(head: Layer, mean: float, std: float, nats: float, severity: Severity) -> Finding:
    weight = head.weight
    return Finding(
        severity=severity,
        layer=head.id,
        param=weight.name if weight is not None else None,
        message=f"the log-variance from {head.id} starts at {mean:.1f} +- {std:.1f}: "
        f"{nats:.3g} nats of divergence per latent unit",
        evidence={"mean": mean, "std": std, "nats_per_unit": nats},
        why="the divergence grows with exp of the log-variance and dominates the first steps",
        measured=f"log-variance {mean:.2f} +- {std:.2f}",
        expected="0 +- 0.5",
        fix=_fix(head, by_bias=abs(mean) > std),
    )


def _fix(head: Layer, *, by_bias: bool) -> Fix:
    weight, bias = head.weight, head.bias
    if by_bias and bias is not None:
        return Fix("zeros", params=(bias.key,), code=f"torch.nn.init.zeros_({bias.name})")
    return Fix(
        "rescale",
        params=(weight.key,) if weight is not None else (),
        code="zero the head's bias and scale its weights by 0.1",
        arguments={"factor": 0.1},
    )
