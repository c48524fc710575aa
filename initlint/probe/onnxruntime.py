"""Running a graph with onnxruntime and measuring every layer's output, inside the child process."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any

import numpy as np

from initlint.probe.graph_suffix import added, output
from initlint.probe.inputs import (
    Array,
    Sizes,
    attempts,
    describe,
    has_batch,
    synthesise,
)
from initlint.probe.meter import Meter, grown_axis
from initlint.probe.onnx_runs import Second, in_order
from initlint.probe.request import CARRIERS, NUMPY_TYPES, External, Observed, Request
from initlint.probe.result import Activations, OutputStats, ProbeStatus
from initlint.probe.sampled import (
    SECOND_PILOT,
    Sample,
    may_pay,
    plan_samples,
    sampled_blocks,
)
from initlint.probe.schedule import FEW_SAMPLES, Plan, plan_runs

MAX_GROUPS = 16
"""Sessions tried when the outputs of one sample do not fit into memory together."""

_left: list[Any] = []
"""What the last session held: giving it back page by page takes as long as the statistics, and the
process, which the probe has for itself, ends when it has told them."""

_FLOATS = frozenset({"tensor(float)", "tensor(double)", "tensor(float16)"})

_PREFIX = re.compile(
    r"^(\[ONNXRuntimeError\] : )?(\d+ : [A-Z_]+ : )?(Exception during initiali\S+: )?"
    r"(/onnxruntime_src/.* was false\. )?",
    re.DOTALL,
)
"""Codes and places in onnxruntime's own source that tell the user nothing."""


class _OutOfMemoryError(Exception):
    """The outputs of one run did not fit."""


class _InvalidGraphError(Exception):
    """The graph, as the file states it, breaks the rules of ONNX."""


_INCONSISTENT = re.compile(
    r"INVALID_GRAPH|\[(Type|Shape)InferenceError\]|Type Error:|/core/graph/graph\w*\.cc"
)
_NOT_KNOWN_HERE = re.compile(r"No Op registered|not a registered|opset|IR version|not supported")
"""Told apart by onnxruntime's words only: a graph that is wrong, and one that it is too old for."""


def observe(request: Request) -> Activations:
    """Run the graph on one or several batches and measure.

    Never raises for what a model does: a graph that cannot be run gives a status and a reason.
    """
    import onnxruntime

    try:
        return _observe(request, onnxruntime)
    except (_OutOfMemoryError, MemoryError):
        return Activations(ProbeStatus.FAILED, "the activations do not fit into the memory limit")
    except _InvalidGraphError as error:
        return Activations(ProbeStatus.FAILED, str(error), invalid=True)
    except Exception as error:  # onnxruntime raises classes of its own, Python's and pybind11's
        return Activations(ProbeStatus.FAILED, _one_line(error))


def _observe(request: Request, onnxruntime: Any) -> Activations:
    observed = request.observed
    groups = 1
    while True:
        try:
            parts = []
            for start in range(groups):
                part = observed[start::groups]
                parts.append(_measure(onnxruntime, request, part))
            return _joined(parts)
        except _OutOfMemoryError:
            groups *= 2
            if groups > min(MAX_GROUPS, len(observed)):
                raise


class _Session:
    """An inference session whose outputs are the observed values.

    Of those in ``samples`` it gives samples.
    """

    def __init__(
        self,
        onnxruntime: Any,
        request: Request,
        observed: Sequence[Observed],
        samples: Sequence[Sample] = (),
    ) -> None:
        options = session_options(onnxruntime)
        self._weights = _external(onnxruntime, options, request.external)  # not copied
        sampled = {sample.item.value for sample in samples}
        names = sorted(
            {item.value for item in observed} - sampled - {spec.name for spec in request.inputs}
        )
        fields = [field for sample in samples for field in sample.fields()]
        data = request.model + added([*map(output, names), *fields])
        try:
            self._session = onnxruntime.InferenceSession(
                data, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            if not request.batch_norms and _breaks(onnxruntime, request.model, options):
                raise _InvalidGraphError(_one_line(error)) from error
            raise _translated(error) from error
        types = {item.name: item.type for item in self._session.get_outputs()}
        self.names = [name for name in names if types.get(name) in _FLOATS]
        self.names += [name for sample in samples for name in sample.names]
        self._any = self.names or [item.name for item in self._session.get_outputs()][:1]

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """The observed values for these inputs."""
        try:
            values = self._session.run(self._any, dict(feeds))
        except Exception as error:
            raise _translated(error) from error
        found = dict(zip(self._any, values, strict=True))
        return {name: found[name] for name in self.names}


def _breaks(onnxruntime: Any, model: bytes, options: Any) -> bool:
    """True when a graph is refused as inconsistent even without the outputs that are observed."""
    try:
        onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # as in `observe`
        text = str(error)
        return bool(_INCONSISTENT.search(text)) and not _NOT_KNOWN_HERE.search(text)
    return False


def session_options(onnxruntime: Any) -> Any:
    """Options under which a session does what the file says and nothing else.

    No optimisation: constant folding would run parts of an untrusted graph at load, and fusion
    would hide the layers that are measured. Weights are not packed anew, which copies them to save
    time in many runs. One thread: results do not depend on the machine.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.use_deterministic_compute = True
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    options.log_severity_level = 4
    options.add_session_config_entry("session.disable_prepacking", "1")
    options.add_session_config_entry("session.load_model_format", "ONNX")
    return options


def _external(onnxruntime: Any, options: Any, weights: Sequence[External]) -> list[Any]:
    """Hand weights over in memory, so that onnxruntime opens no file."""
    values = []
    for item in weights:
        carrier = CARRIERS.get(item.data_type)
        array = np.frombuffer(item.read(), carrier or NUMPY_TYPES[item.data_type])
        array = array.reshape(item.dims)
        make = onnxruntime.OrtValue
        values.append(
            make.ortvalue_from_numpy_with_onnx_type(array, item.data_type)
            if carrier
            else make.ortvalue_from_numpy(array)
        )
    if values:
        options.add_external_initializers([item.name for item in weights], values)
        for item, value in zip(weights, values, strict=True):
            options.add_initializer(item.name, value)  # else the session copies what is external
    return values


@dataclass
class _Measurement:
    """What one session measured."""

    samples: int
    runs: int
    outputs: dict[str, OutputStats]
    inputs: dict[str, str]
    batch_norms: int


def _measure(onnxruntime: Any, request: Request, observed: Sequence[Observed]) -> _Measurement:
    _left.clear()
    session = _Session(onnxruntime, request, observed)
    if request.given:
        meter = Meter(observed, request.seed, runs=1)
        pilot = session.run(request.given)
        samples = _given_samples(request)
        meter.add({**pilot, **request.given}, samples, {})
        inputs = {
            name: f"{array.dtype}[{','.join(map(str, array.shape))}] given"
            for name, array in request.given.items()
        }
        return _Measurement(samples, 1, meter.finish(), inputs, request.batch_norms)
    sizes, feeds, pilot, second = _pilot(request, session)
    shapes = {name: value.shape for name, value in {**pilot, **feeds}.items()}
    plan = plan_runs(request, observed, sizes, shapes)
    held = sum(value.nbytes for value in pilot.values())
    if plan.sizes != sizes:
        second.result()  # and let go of it
        grown = None
        if plan.per_run >= SECOND_PILOT * sizes.batch:
            grown = _grown(request, session, sizes, shapes)
            if not grown:
                return _repeat(request, session, observed, sizes, plan, held)
        if may_pay(request, pilot, sizes, plan):
            sampled = plan_samples(request, observed, pilot, sizes, plan, grown)
            if sampled:
                del session
                found = _sampled(onnxruntime, request, observed, plan, sampled, shapes)
                if found is not None:
                    return found
                session = _Session(onnxruntime, request, observed)
    meter = Meter(observed, request.seed, plan.runs)
    run = partial(_run, request, session, plan.sizes)
    known: list[Mapping[str, Array]] = []
    first = 0
    if plan.sizes == sizes:
        known.append({**pilot, **feeds})
        first = 2 if second.begun and plan.runs > 1 else 1
    planned = in_order(
        run,
        range(first, plan.runs),
        held=held * plan.per_run // sizes.batch,
        most=request.activation_bytes,
    )
    try:
        for values in chain(known, _second(second, run, first), planned):
            meter.add(values, plan.per_run, {} if plan.sizes == sizes else shapes)
    except _OutOfMemoryError:
        raise
    except RuntimeError:
        if plan.sizes == sizes:
            raise
        return _repeat(request, session, observed, sizes, plan, held)
    _left.extend((session, pilot, values))
    return _told(request, plan.per_run, plan.runs, meter, values)


def _second(
    second: Second[dict[str, Array]], run: Callable[[int], dict[str, Array]], first: int
) -> Iterator[dict[str, Array]]:
    """The run beside the pilot, where the plan has it; made again if it failed there."""
    if first == 2:
        found = second.result()
        yield run(1) if found is None else found


def _run(request: Request, session: _Session, sizes: Sizes, run: int) -> dict[str, Array]:
    """Inputs and outputs of one run."""
    feeds = synthesise(request.inputs, sizes, seed=request.seed, run=run)
    return {**session.run(feeds), **feeds}


def _told(
    request: Request, per_run: int, runs: int, meter: Meter, values: Mapping[str, Array]
) -> _Measurement:
    """What was measured in so many runs, the last of which had these inputs."""
    return _Measurement(
        runs * per_run,
        runs,
        meter.finish(),
        {spec.name: describe(spec, values[spec.name]) for spec in request.inputs},
        request.batch_norms,
    )


def _grown(
    request: Request, session: _Session, sizes: Sizes, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, int | None]:
    """The axis of each value that holds the samples; empty where the graph runs on no more."""
    more = replace(sizes, batch=2 * sizes.batch)
    try:
        values = session.run(synthesise(request.inputs, more, seed=request.seed))
    except Exception:  # told again by the run that was planned
        return {}
    return {name: grown_axis(shapes.get(name), value.shape) for name, value in values.items()}


def _sampled(
    onnxruntime: Any,
    request: Request,
    observed: Sequence[Observed],
    plan: Plan,
    samples: Sequence[Sample],
    shapes: Mapping[str, tuple[int, ...]],
) -> _Measurement | None:
    """The plan's runs with some outputs sampled; None where they have to be taken whole."""
    meter = Meter(observed, request.seed, plan.runs)
    values: Mapping[str, Array] = {}
    try:
        session = _Session(onnxruntime, request, observed, samples)
        for number in range(plan.runs):
            values = _run(request, session, plan.sizes, number)
            blocks = sampled_blocks(samples, values)
            if blocks is None:
                return None
            meter.add(values, plan.per_run, shapes, blocks)
        _left.extend((session, values))
    except Exception:  # told again by the run that takes them whole
        return None
    return _told(request, plan.per_run, plan.runs, meter, values)


def _repeat(
    request: Request,
    session: _Session,
    observed: Sequence[Observed],
    sizes: Sizes,
    plan: Plan,
    held: int,
) -> _Measurement:
    """One run per sample: a batch of the pilot's size is written into the graph."""
    runs = min(plan.runs * plan.per_run, FEW_SAMPLES)
    meter = Meter(observed, request.seed, runs)
    values: Mapping[str, Array] = {}
    run = partial(_run, request, session, sizes)
    for values in in_order(run, range(runs), held=held, most=request.activation_bytes):
        meter.add(values, sizes.batch, {})
    return _told(request, sizes.batch, runs, meter, values)


def _pilot(
    request: Request, session: _Session
) -> tuple[Sizes, dict[str, Array], dict[str, Array], Second[dict[str, Array]]]:
    """The first sizes with which the graph runs on one sample (on two, where one does not do).

    Returns:
        The sizes, inputs and outputs, and a second run that may have begun meanwhile.
    """
    first: Exception | None = None
    for batch in (1, 2) if has_batch(request.inputs) else (1,):
        for sizes in attempts(request.inputs, batch):
            feeds = synthesise(request.inputs, sizes, seed=request.seed)
            second = Second(partial(_run, request, session, sizes, 1))
            try:
                found = session.run(feeds)
            except _OutOfMemoryError:
                if not second.begun:
                    raise
                second.result()  # both together wanted too much
                found = session.run(feeds)
            except RuntimeError as error:
                first = first or error
                second.result()
                continue
            second.first_is_done()
            return sizes, feeds, found, second
    raise first or RuntimeError("no size of its inputs is small enough")


def _given_samples(request: Request) -> int:
    """Samples in the user's batch: the first side that all given arrays share, else one."""
    firsts = {array.shape[0] for array in request.given.values() if array.ndim > 1}
    return firsts.pop() if len(firsts) == 1 else 1


def _joined(parts: Sequence[_Measurement]) -> Activations:
    outputs = {layer: stats for part in parts for layer, stats in part.outputs.items()}
    first = parts[0]
    runs = "one run" if first.runs == 1 else f"{first.runs} runs"
    samples = "one sample" if first.samples == 1 else f"{first.samples} samples"
    return Activations(
        ProbeStatus.OK,
        f"{samples} in {runs}",
        samples=first.samples,
        outputs=outputs,
        train_mode=first.batch_norms > 0,
        inputs=first.inputs,
    )


def _translated(error: Exception) -> Exception:
    text = str(error)
    if isinstance(error, MemoryError) or "alloc" in text.lower():
        return _OutOfMemoryError(text)
    return RuntimeError(_one_line(error))


def _one_line(error: BaseException) -> str:
    """An error's text on one line, without onnxruntime's prefixes."""
    text = (str(error) or type(error).__name__).split("Status Message: ", 1)[-1]
    text = _PREFIX.sub("", text)
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= 200 else line[:199] + "…"
