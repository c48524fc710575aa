"""Watching the first steps of any training loop.

with initlint.watch(model, optimizer) as watch:
for inputs, labels in loader:
loss = criterion(model(inputs), labels)
optimizer.zero_grad()
loss.backward()
optimizer.step()
watch.loss(loss)
print(watch.report())
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from initlint.integrations.history import History
    from initlint.linting import Report

ADAPTIVE = ("adam", "ada", "rms", "lion", "lamb", "prop", "muon", "sophia", "soap", "shampoo")
"""Parts of the names of optimizers that divide a gradient by its own size."""


class Watch:
    """A model and its optimizers under observation; see `initlint.watch`.

    Everything it adds (hooks on the model and on the optimizers) goes with `close`, which a
    ``with`` block calls also after an exception, and which happens by itself after the last watched
    step.

    Attributes:
        active: hooks are in place.
        chance: loss of an uninformed guess; None while it is not known.
    """

    def __init__(
        self,
        model: Any,
        optimizers: Sequence[Any],
        *,
        steps: int,
        every: int,
        chance: float | None,
        lint: bool,
        example_inputs: Sequence[Any],
        options: dict[str, Any],
    ) -> None:
        from initlint.integrations.observe import BOUNDS, watched_parameters

        self._model = model
        self._optimizers = optimizers
        self._limit, self._every = steps, every
        self.chance = chance
        self._options = options
        self._parameters = watched_parameters(model, optimizers)
        self._losses: list[Any] = []
        self._saturated: dict[str, list[Any]] = {}
        self._steps = 0
        self._measured: list[int] = []
        self._handles: list[Any] = []
        self._entrances: list[Any] = []
        self._record: dict[str, Any] | None = None
        self._problem = "" if lint else "the lint at step 0 was not asked for"
        self.active = True
        try:
            if lint and example_inputs:
                self._lint(model, tuple(example_inputs), {})
            elif lint:
                self._problem = "the lint at step 0 did not run: the model was not called"
                for module in _callable_roots(model):
                    hook = module.register_forward_pre_hook(self._first_forward, with_kwargs=True)
                    self._entrances.append(hook)
            for path, module in model.named_modules():
                if type(module) in BOUNDS:
                    self._handles.append(module.register_forward_hook(self._activation(path)))
            for optimizer in optimizers:
                self._handles.append(optimizer.register_step_pre_hook(self._before_step))
                self._handles.append(optimizer.register_step_post_hook(self._after_step))
        except BaseException:  # an interrupt, too, must leave no hook on the user's model
            self.close()
            raise

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove every hook. What was seen stays for `report`."""
        for handle in (*self._handles, *self._entrances):
            handle.remove()
        self._handles.clear()
        self._entrances.clear()
        for parameter in self._parameters:
            parameter.forget()
        self.active = False

    def loss(self, value: Any) -> None:
        """Note the loss of a step (a number or a tensor, unscaled); nothing waits for the device.

        With gradient accumulation call it once for each optimizer step.
        """
        if not self.active and self._steps != len(self._losses) + 1:
            return
        if len(self._losses) >= self._limit:
            return
        if self.chance is None and not self._losses:
            from initlint.integrations.observe import guess

            self.chance = guess(value)
        self._losses.append(value.detach().clone() if hasattr(value, "detach") else float(value))

    def history(self) -> History:
        """The numbers seen so far."""
        from initlint.integrations.history import History

        return History(
            steps=self._steps,
            measured=tuple(self._measured),
            losses=tuple(float(value) for value in self._losses),
            chance=self.chance,
            parameters=tuple(parameter.history() for parameter in self._parameters),
            saturated={
                path: [float(share) for share in shares] for path, shares in self._saturated.items()
            },
            adaptive=all(
                any(part in type(optimizer).__name__.lower() for part in ADAPTIVE)
                for optimizer in self._optimizers
            ),
        )

    def report(self) -> Report:
        """The findings of step 0 and those of the run, in one report."""
        from initlint.integrations.summary import report

        return report(self._record, self._problem, type(self._model).__name__, self.history())

    @property
    def _measuring(self) -> bool:
        return self.active and self._steps % self._every == 0

    def _first_forward(self, module: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        for handle in self._entrances:
            handle.remove()
        self._entrances.clear()
        self._lint(module, inputs, named)

    def _lint(self, module: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        import torch

        from initlint.linting import check

        if type(module).__name__ in ("DistributedDataParallel", "DataParallel"):
            module = module.module
        active, self.active = self.active, False  # the capture runs the module: not a step
        try:
            tensors = {name: value for name, value in named.items() if hasattr(value, "dtype")}
            kinds = {value.device.type for value in module.parameters()} or {"cpu"}
            with torch.autocast(kinds.pop(), enabled=False):
                self._record = dict(check(module, *inputs, **tensors, **self._options).record)
            self._problem = ""
        except Exception as error:  # a model that cannot be linted can still be trained
            self._problem = f"the lint at step 0 failed: {error}"
        finally:
            self.active = active

    def _activation(self, path: str) -> Any:
        from initlint.integrations.observe import saturation

        def hook(module: Any, inputs: Any, output: Any) -> None:
            if self._measuring and module.training:
                self._saturated.setdefault(path, []).append(saturation(module, output))

        return hook

    def _held(self, optimizer: Any) -> Iterable[Any]:
        if len(self._optimizers) == 1:
            return self._parameters
        ids = {id(p) for group in optimizer.param_groups for p in group["params"]}
        return [watch for watch in self._parameters if id(watch.parameter) in ids]

    def _before_step(self, optimizer: Any, *_: Any) -> None:
        if self._measuring:
            for parameter in self._held(optimizer):
                parameter.before()

    def _after_step(self, optimizer: Any, *_: Any) -> None:
        if self._measuring:
            for parameter in self._held(optimizer):
                parameter.after()
        if optimizer is not self._optimizers[0]:
            return
        if self._measuring:
            self._measured.append(self._steps)
        self._steps += 1
        if self._steps >= self._limit and len(self._optimizers) == 1:
            self.close()


def _callable_roots(model: Any) -> list[Any]:
    """The model, and the child that a training step may call in its stead: one that holds it all.

    A Lightning module is often no more than a wrapper whose own forward nobody calls.
    """
    roots = [model]
    count = sum(1 for _ in model.parameters())
    for child in model.children():
        if count and sum(1 for _ in child.parameters()) == count:
            roots.append(child)
    return roots


def watch(
    model: Any,
    optimizer: Any,
    *,
    steps: int = 100,
    every: int = 10,
    chance: float | None = None,
    lint: bool = True,
    example_inputs: Sequence[Any] = (),
    **options: Any,
) -> Watch:
    """Lint a model at step 0 and watch its first training steps.

    Works with any loop that calls ``optimizer.step()``: gradient accumulation, automatic mixed
    precision (a step that the scaler skips is not counted) and ``zero_grad(set_to_none=True)``
    change nothing. The model, the optimizer and the random numbers stay as they were.

    Args:
        model: a ``torch.nn.Module``.
        optimizer: its optimizer, or a list of them; steps of the first are counted.
        steps: optimizer steps to watch; the hooks go after the last.
        every: steps from one measured step to the next.
        chance: loss of an uninformed guess; worked out where the loss is a mean cross-entropy.
        lint: run `initlint.check` on the inputs of the first forward pass.
        example_inputs: inputs to lint with at once instead.
        **options: of `initlint.check`.

    Raises:
        ValueError: when ``steps`` or ``every`` is not positive.
    """
    if steps < 1 or every < 1:
        raise ValueError("steps and every must be at least 1")
    optimizers = tuple(optimizer) if isinstance(optimizer, (list, tuple)) else (optimizer,)
    return Watch(
        model,
        optimizers,
        steps=steps,
        every=every,
        chance=chance,
        lint=lint,
        example_inputs=example_inputs,
        options={"profile": True, **options},
    )
