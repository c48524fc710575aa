"""What the page says of its numbers: the terms of its glossary."""

from __future__ import annotations

from initlint.report.html.markup import Markup, element

TERMS = {
    "stage": (
        "Fresh: the weights still fit the distribution they were drawn from. Trained: they no "
        "longer do. Rules about initialisation look at fresh weights only."
    ),
    "parameters": "Elements of all weights, shared ones counted once.",
    "probe": (
        "The model was run once on a small batch, to measure what the weights alone cannot "
        "tell. Without it the findings rest on the weights and on theory."
    ),
    "accepted": (
        "Findings that an allow entry, a comment or the baseline accepts. They do not count."
    ),
    "risk": (
        "Predicted probability that training from these weights is harmed. Red from 50 %, amber "
        "from 20 %; with no sign of harm it is 12 %."
    ),
    "signal drift": "Decades by which the signal changes over the depth; 0 is ideal.",
    "gradient drift": "The same for the gradient on its way back.",
    "spread": "Standard deviation of the signal's drift between draws, in decades.",
    "dead": "Share of units that were zero on every sample.",
    "distance of inputs": (
        "1 minus the mean cosine between the outputs for different inputs; near 0 they are told "
        "apart no more."
    ),
    "rests on": "The evidence that was there for the risk; with more of it the risk is surer.",
    "confidence": "How sure the rule is of what it saw, apart from how bad that is.",
    "measured": "What the weights or the run show.",
    "expected": "What an initialisation that fits this place would show.",
    "rms": "Root mean square of the layer's output: the size of the signal.",
    "gradient": (
        "Root mean square of the gradient at the layer's output, for the loss that was measured; "
        "without one, for a gradient of 1 at the model's outputs."
    ),
    "predicted": (
        "From mean-field theory: the moments of the weights, carried from layer to layer."
    ),
    "healthy": "Range around the intended size within which trained networks lost no progress.",
    "dead units": "Units that were zero on every sample. They get no gradient and cannot learn.",
    "dead by chance": "Share of units expected to be zero on every sample by chance.",
    "saturated": "Share of outputs where the activation's slope is below 6 % of its peak.",
    "zeros": "Share of outputs that are exactly zero.",
    "likeness of inputs": (
        "Mean cosine between the outputs for different inputs; near 1 they are told apart no more."
    ),
    "mean": "Mean of the elements.",
    "std": "Standard deviation of the elements.",
    "scheme": "Initialisation schemes that the numbers do not contradict.",
    "shape": "Output units, input units, then the kernel.",
    "fan in/out": "Inputs per output unit, and outputs per input unit: what schemes scale by.",
    "values": "Elements by value; the line is the density of the scheme that was identified.",
    "singular values": (
        "Singular values, largest first; the band is where independent random weights have theirs."
    ),
    "elements": (
        "Elements evenly spaced over the weight: red positive, blue negative, full shade at 3 rms."
    ),
    "outputs": "Outputs of the layer, behind its activation, over the probe's batch.",
    "safe": "Applying it leaves what the model computes as it is.",
    "unsafe": "Applying it draws new weights, so the model computes something else.",
}
"""Text by term."""


def term(text: str, name: str, class_: str = "") -> Markup:
    """A word or number that leads to what it means, and says it when pointed at or focused."""
    return element("a", text, class_=f"tip {class_}".strip(), href=f"#{slug(name)}")


def slug(name: str) -> str:
    """The id of a term's entry in the glossary."""
    return "term-" + name.replace(" ", "-").replace("/", "-")


def glossary() -> Markup:
    """Every term with its text."""
    rows: list[str] = []
    for name, text in sorted(TERMS.items()):
        rows += [element("dt", name), element("dd", text, id=slug(name))]
    return element(
        "section", element("h2", "What the words mean"), element("dl", *rows), class_="glossary"
    )
