"""What `initlint.watch` may find, for ``initlint explain`` and the reports."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Text:
    """One kind of finding about a run.

    Attributes:
        code: short alias.
        summary: what was seen, in one sentence.
        why: the mechanism, in one line.
        remedy: what to do.
    """

    code: str
    summary: str
    why: str
    remedy: str

    @property
    def help(self) -> str:
        """The documentation, in Markdown."""
        return f"{self.summary}\n\nWhy: {self.why}.\n\nWhat to do: {self.remedy}"


TEXTS = {
    "training-not-finite": Text(
        "TRN001",
        "A loss or a gradient is infinite or not a number.",
        "one such number makes every weight it reaches NaN at the next step",
        "Look at the scale findings of step 0; lower the rate; check the data for NaN.",
    ),
    "first-loss-above-chance": Text(
        "TRN002",
        "The first loss is well above that of an uninformed guess.",
        "the head starts out sure of wrong answers, and the first steps only undo that",
        "Start the last layer at a smaller scale, or at zero.",
    ),
    "loss-not-falling": Text(
        "TRN003",
        "The loss of the last watched steps is not below that of the first.",
        "nothing that the optimizer changes helps yet",
        "Look at the other findings first; a long warm-up, or labels that do not belong to the "
        "inputs, do the same.",
    ),
    "not-in-optimizer": Text(
        "TRN004",
        "A parameter asks for gradients, but no watched optimizer holds it.",
        "its gradient is computed and never used",
        "Give it to the optimizer, or set requires_grad to False.",
    ),
    "layer-not-moving": Text(
        "TRN005",
        "No gradient reached a parameter in any measured step.",
        "what gets no gradient stays as it was drawn",
        "Check that the loss depends on it: a dead unit, a zero factor, or a detach() cuts it off.",
    ),
    "update-too-large": Text(
        "TRN006",
        "A step changes the weights by more than a tenth of their size.",
        "the weights forget their scale within ten steps, and the initialisation with it",
        "Lower the learning rate, or warm it up; check that the layer's weights are not tiny.",
    ),
    "update-too-small": Text(
        "TRN007",
        "A step changes the weights by less than a millionth of their size.",
        "at this pace the weights stay where they started",
        "Raise the learning rate; where only some layers are slow, look for a vanishing gradient.",
    ),
    "units-without-gradient": Text(
        "TRN008",
        "At least half of a layer's units got no gradient in any measured step.",
        "a unit that is off for every input gets no gradient and never comes back",
        "Lower the bias or the scale in front of the ReLU, or the learning rate.",
    ),
    "activation-saturated": Text(
        "TRN009",
        "At least half of the outputs of a bounded activation sit at its bounds.",
        "there the slope is near zero, and the gradient with it",
        "Lower the scale of the layer in front.",
    ),
    "gradients-apart": Text(
        "TRN010",
        "Gradients of two layers are further apart than one learning rate can serve.",
        "plain SGD moves both with the same rate, so one of them stands still",
        "Look at the scale findings of step 0; normalise, or use an adaptive optimizer.",
    ),
}
"""By name. The names are no rules: they can be neither selected nor ignored."""
