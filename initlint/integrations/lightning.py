"""The Lightning callback: ``Trainer(callbacks=[InitLint()])``.

`InitLint` is for the package ``lightning``, or for ``pytorch_lightning`` where that one alone is
installed; `callback` makes it for either.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from initlint.integrations.watch import Watch, watch


class _Watching:
    """Lints the model on the first batch, watches the first steps and shows a report.

    Args:
        show: what is done with the report as text at the end of the watch; `print` by default.
        fail_on: severity from which on the report raises an `InitialisationError`; None: never.
        **options: of `initlint.watch`.

    Attributes:
        report: of the last fit; None before its end.
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
        self._step, self._first = 0, True
        self.report: Any = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin to watch, on the first process only."""
        if trainer.is_global_zero:
            self._watch = watch(pl_module, trainer.optimizers, **self._options)
            self._step, self._first = trainer.global_step, True

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Any) -> None:
        """Read from the first loss what a guess would cost."""
        del trainer, pl_module
        if self._watch is not None and self._watch.chance is None and self._first:
            from initlint.integrations.observe import guess

            self._watch.chance = guess(loss, divided=True)
        self._first = False

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note the loss of a batch that ended in a step."""
        del pl_module, batch, batch_idx
        if self._watch is None or trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if loss is not None:
            self._watch.loss(loss * trainer.accumulate_grad_batches)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Show the report."""
        del trainer, pl_module
        self._close(report=True)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Leave no hook behind."""
        del trainer, pl_module, exception
        self._close(report=False)

    def _close(self, *, report: bool) -> None:
        watched, self._watch = self._watch, None
        if watched is None:
            return
        watched.close()
        self.report = watched.report()
        if self._show is not None and report:
            self._show(str(self.report))
        if self._fail_on is not None and report:
            self.report.raise_if(self._fail_on)


def callback(package: str) -> type[Any]:
    """The callback's class for one of the packages that Lightning comes in.

    Their trainers take only callbacks of their own package.

    Args:
        package: ``lightning.pytorch`` or ``pytorch_lightning``.

    Raises:
        ImportError: when it is not installed.
    """
    base = import_module(f"{package}.callbacks").Callback
    return type("InitLint", (_Watching, base), {"__doc__": _Watching.__doc__})


def _installed() -> type[Any]:
    try:
        return callback("lightning.pytorch")
    except ImportError:
        return callback("pytorch_lightning")


InitLint: Any = _installed()
