"""The callback for ``transformers.Trainer``: ``Trainer(..., callbacks=[InitLint()])``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback

from initlint.integrations.watch import Watch, watch


# transformers is optional: where it is not installed its class is `Any` to mypy.
class InitLint(TrainerCallback):  # type: ignore[misc]
    """Lints the model on its first batch, watches the first steps and shows a report.

    The loss is what the model returns as ``loss``.

    Args:
        show: what is done with the report as text at the end of training; `print` by default.
        fail_on: severity from which on the report raises an `InitialisationError`; None: never.
        **options: of `initlint.watch`.

    Attributes:
        report: of the last run; None before its end.
    """

    def __init__(
        self,
        *,
        show: Callable[[str], Any] | None = print,
        fail_on: str | None = None,
        **options: Any,
    ) -> None:
        self._show, self._fail_on = show, fail_on
        self._options = options
        self._watch: Watch | None = None
        self._hook: Any = None
        self._loss: Any = None
        self._whole = True
        self.report: Any = None

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any
    ) -> None:
        """Begin to watch, on the first process only."""
        del control
        optimizer = getattr(kwargs.get("optimizer"), "optimizer", kwargs.get("optimizer"))
        if model is None or optimizer is None or not state.is_world_process_zero:
            return
        self._close()
        self._watch = watch(model, optimizer, **self._options)
        self._whole = args.gradient_accumulation_steps == 1
        self._hook = model.register_forward_hook(self._output)

    def _output(self, module: Any, inputs: Any, output: Any) -> None:
        del inputs
        loss = output.get("loss") if hasattr(output, "get") else getattr(output, "loss", None)
        if not module.training or loss is None or self._watch is None or not self._watch.active:
            return
        if self._loss is None and self._whole and self._watch.chance is None:
            from initlint.integrations.observe import guess

            self._watch.chance = guess(loss, divided=True)
        if hasattr(loss, "detach"):
            self._loss = loss.detach()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note the loss of the step."""
        del args, state, control, kwargs
        if self._watch is not None and self._loss is not None:
            self._watch.loss(self._loss)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Show the report."""
        del args, state, control, kwargs
        watched = self._watch
        self._close()
        if watched is None:
            return
        self.report = watched.report()
        if self._show is not None:
            self._show(str(self.report))
        if self._fail_on is not None:
            self.report.raise_if(self._fail_on)

    def _close(self) -> None:
        if self._watch is not None:
            self._watch.close()
        if self._hook is not None:
            self._hook.remove()
        self._watch = self._hook = self._loss = None
