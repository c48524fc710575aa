"""The child process that reads, measures and runs one model, and reports over a pipe.

Started by `initlint.supervisor`. Imports come first, so that they overlap with the parent's own
work and are done before any limit holds; then one job is read, the probe's process is started,
limits are set and the wall of `initlint.sandbox` is raised, and only then is the target touched.
The last record is ``done`` or ``error``; without one nothing was checked.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from initlint.remote import is_remote
from initlint.wire import Decoder, Record, encode

Emit = Callable[[Record], None]


def main() -> None:
    """Serve one job, then leave without waiting for anybody's exit handlers."""
    records = guard_records()
    gc.disable()  # what is imported stays; collecting meanwhile walks it in vain
    preload(sys.argv[1:])
    gc.freeze()
    work(records)


def guard_records() -> int:
    """The pipe for records, out of reach of whatever a library or the user's code prints."""
    records = os.dup(1)
    os.dup2(2, 1)
    return records


def work(records: int, *, forked: bool = False) -> None:
    """Serve one job with the modules that are there; does not return.

    Args:
        records: the pipe for records.
        forked: this process is the fork of one that has imported what a probe needs, too.
    """
    emit = _emitter(records)
    job = _read_job()
    if job is None:
        os._exit(0)
    if job.get("folder") and not _enter_folder(job["folder"], emit):
        os._exit(0)
    if job.get("isolated"):
        emit({"type": "wall", "missing": isolate(job, forked=forked)})
    else:
        gc.enable()  # one data file leaves little to collect, and the process ends with it
        apply_limits(job.get("limits") or {})
    if is_remote(job["target"]):
        _connect(emit)
    else:
        _follow_parent()
    serve(job, emit)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _emitter(descriptor: int) -> Emit:
    def emit(record: Record) -> None:
        data = memoryview(encode(record))
        while data:
            data = data[os.write(descriptor, data) :]

    return emit


def preload(modules: list[str]) -> None:
    """Import what most jobs need; a failure shows again, with a name, when the job needs it."""
    from importlib import import_module

    try:
        if "torch" in modules:
            from initlint.torch_library import open_ahead

            open_ahead()
        for module in modules:
            import_module(module)
            if module == "initlint.engine":
                from initlint.lint.registry import all_rules

                all_rules()
    except Exception:
        return


def _read_job() -> Record | None:
    """The one job from standard input; None when the parent changed its mind."""
    decoder = Decoder()
    while True:
        data = os.read(0, 1 << 16)
        if not data:
            return None
        for record in decoder.feed(data):
            return record


def _enter_folder(folder: str, emit: Emit) -> bool:
    """Work where the command was called, on a machine that should see the same files."""
    try:
        os.chdir(folder)
    except OSError:
        from socket import gethostname

        message = f"the folder {folder} is not there on {gethostname()}: files must be shared"
        emit({"type": "error", "stage": "start", "message": message})
        return False
    return True


def _connect(emit: Emit) -> None:
    """Read URLs through the parent; its end of the pipe closes when it ends."""
    from initlint.load.files import connect
    from initlint.load.remote import Link

    connect(Link(emit, lambda most: os.read(0, most), lambda: os._exit(1)).ask)


def _follow_parent() -> None:
    """End when the parent ends, however it ended: its end of the pipe then closes."""
    from threading import Thread

    def watch() -> None:
        while os.read(0, 1):
            pass
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def isolate(job: Record, *, forked: bool = False) -> list[str]:
    """Raise the wall around this process for a data file; the parts that the system lacks.

    The probe's process is started before, because no process can be started after.
    """
    from initlint.load.files import reach
    from initlint.sandbox import lock_down

    settings = job.get("settings") or {}
    child = None
    if job["task"] == "lint" and settings.get("probe", True) and _may_run(job["target"]):
        from initlint.probe.child import start_early

        path = None if is_remote(job["target"]) else job["target"]
        child = start_early(path, fork=forked)
    apply_limits(job.get("limits") or {})
    files = [] if is_remote(job["target"]) else [*reach(job["target"])]
    if settings.get("input"):
        files.append(settings["input"])
    if (job.get("options") or {}).get("other") and not is_remote(job["options"]["other"]):
        files += reach(job["options"]["other"])
    return list(lock_down(tuple(files), child))


def _may_run(target: str) -> bool:
    """True for the one format of data files that holds a graph."""
    return target.lower().endswith(".onnx")


def apply_limits(limits: Mapping[str, int | None]) -> None:
    """Bound this process: CPU seconds, address space, bytes written, open files, core dumps.

    A limit that the system lacks or that is already lower is left as it is.
    """
    try:
        import resource
    except ImportError:  # Windows: the parent's clock is the only limit
        return
    sys.dont_write_bytecode = True
    wanted = {
        resource.RLIMIT_CPU: limits.get("cpu_seconds"),
        resource.RLIMIT_AS: limits.get("memory_bytes"),
        resource.RLIMIT_FSIZE: limits.get("file_bytes"),
        resource.RLIMIT_NOFILE: limits.get("open_files"),
        resource.RLIMIT_CORE: 0,
    }
    for kind, value in wanted.items():
        if value is None:
            continue
        _, hard = resource.getrlimit(kind)
        if hard != resource.RLIM_INFINITY:
            value = min(value, hard)
        try:
            # beyond the soft CPU limit comes SIGXCPU, which names the cause; SIGKILL does not
            grace = int(kind == resource.RLIMIT_CPU and hard == resource.RLIM_INFINITY)
            resource.setrlimit(kind, (value, value + grace))
        except (ValueError, OSError):
            continue


def serve(job: Record, emit: Emit) -> None:
    """Do one job and emit its last record, whatever happens on the way."""
    stage = ["start"]

    def enter(name: str) -> None:
        stage[0] = name
        emit({"type": "stage", "stage": name})

    if job.get("traced"):
        from initlint.load.files import observe

        observe(lambda seen: emit({"type": "read", **seen}))
    try:
        emit({"type": "done", "target": _TASKS[job["task"]](job, enter, emit)})
    except MemoryError:
        emit({"type": "error", "stage": stage[0], "message": "needs more memory than allowed"})
    except RecursionError:
        emit({"type": "error", "stage": stage[0], "message": "is nested too deeply"})
    except Exception as error:
        emit({"type": "error", "stage": stage[0], **_explain(error)})


def _explain(error: Exception) -> Record:
    """The user's line for an exception; an unexpected one also goes to standard error."""
    from initlint.lint.registry import PackError
    from initlint.model import LoadError
    from initlint.selection import UnknownRule

    if isinstance(error, LoadError):
        return {"message": str(error)}
    if isinstance(error, (UnknownRule, PackError)):
        return {"message": str(error), "call": True}
    import traceback

    traceback.print_exc()
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {os.path.basename(frames[-1].filename)}:{frames[-1].lineno}" if frames else ""
    return {"message": f"initlint failed: {type(error).__name__}: {error}{place}"}


def _lint(job: Record, enter: Callable[[str], None], emit: Emit) -> Record:
    from dataclasses import replace

    from initlint.annotated import annotated
    from initlint.load import is_spec
    from initlint.load.files import check_unchanged

    settings = _settings(job)
    if settings.seeds > 1 and is_spec(job["target"]):
        return _lint_seeds(job, settings, enter, emit)
    enter("read")
    if settings.widths:
        from initlint.widths import with_widths

        model = with_widths(
            lambda arguments: _load(_with_arguments(job, arguments)),
            settings,
            is_spec=is_spec(job["target"]),
        )
    else:
        model = _load(job)
    if settings.seeds > 1:
        notice = "--seeds: a file holds one draw; only modules are built again"
        model = replace(model, notices=(*model.notices, notice))
    enter("measure")
    from initlint import engine

    def pass_on(record: Record) -> None:
        emit({**record, "target": annotated(record["target"], model, settings)})
        if record["type"] == "static":
            enter("probe")

    probe = _prober(job, model, settings)
    record = engine.lint(model, settings, pass_on, _kept(job, emit), probe)
    check_unchanged()
    return annotated(record, model, settings)


def _prober(job: Record, model: Any, settings: Any) -> Any:
    """What runs the model: of a PyTorch module this process, which then goes on as a fork."""
    from initlint import engine
    from initlint.measure.result import Stage
    from initlint.model import Kind

    apart = model.kind is not Kind.ONNX and not job.get("isolated") and not is_remote(job["target"])
    if apart and engine.may_probe(model, settings):
        from initlint.probe.torch_beside import may_split, split

        if may_split(model):
            passes = split(lambda: engine.run_probe(model, settings, Stage.UNKNOWN))
            return lambda *_: passes()
    return engine.run_probe


def _kept(job: Record, emit: Emit) -> Any:
    """Measurements that the parent knows, and a way to tell it more where it keeps them."""
    from initlint.measure.kept import Kept

    def tell(file: str, name: str, value: Any) -> None:
        told = {"type": "read", "kind": "measured", "path": file, "name": name, "value": value}
        emit(told)

    return Kept(job.get("known") or {}, tell if job.get("traced") else None)


def _measure(job: Record, enter: Callable[[str], None], emit: Emit) -> Record:
    """Measure a share of a checkpoint's large tensors: what a later ``lint`` need not read."""
    from initlint import engine
    from initlint.load.files import check_unchanged
    from initlint.measure.kept import Kept

    enter("read")
    model = _load(job)
    enter("measure")
    found: dict[str, Any] = {}

    def tell(file: str, name: str, value: Any) -> None:
        found[name] = value

    measures = engine.measure(model, _settings(job), Kept({}, tell))
    measures.measure_part(job["options"]["part"], job["options"]["parts"])
    check_unchanged()
    return {"measured": found}


def _with_arguments(job: Record, arguments: Mapping[str, Any]) -> Record:
    """The job with these arguments for the module's constructor beside its own."""
    load = dict(job.get("load") or {})
    return {**job, "load": {**load, "arguments": {**load.get("arguments", {}), **arguments}}}


def _lint_seeds(job: Record, settings: Any, enter: Callable[[str], None], emit: Emit) -> Record:
    from initlint.annotated import annotated
    from initlint.draws import lint_seeds

    enter("read")
    models: list[Any] = []

    def load(seed: int) -> Any:
        model = _load(job, seed)
        if not models:
            models.append(model)
            enter("measure")
        return model

    def pass_on(record: Record) -> None:
        emit({**record, "target": annotated(record["target"], models[0], settings)})
        if record["type"] == "static":
            enter("probe")

    def compare(seeds: Any) -> Any:
        from initlint.load.torch_draws import compare_draws

        return compare_draws(job["target"], _load_options(job), seeds)

    record = lint_seeds(load, compare, settings, pass_on)
    return annotated(record, models[0], settings)


def _describe(job: Record, enter: Callable[[str], None], emit: Emit) -> Record:
    from initlint import engine
    from initlint.load import is_spec
    from initlint.model import Kind

    enter("read")
    model = _load(job)
    enter("measure")
    settings = _settings(job)
    draws = None
    if model.kind is Kind.TORCH and is_spec(job["target"]):
        from initlint.load.torch_draws import compare_draws

        seeds = (settings.seed, settings.seed + 1)
        draws = compare_draws(job["target"], _load_options(job), seeds)
    return engine.describe(model, settings, draws)


def _fix(job: Record, enter: Callable[[str], None], emit: Emit) -> Record:
    from initlint.fix.jobs import fix

    enter("read")
    model = _load(job)
    enter("fix")
    return fix(model, _settings(job), job["options"])


def _compare(job: Record, enter: Callable[[str], None], emit: Emit) -> Record:
    from initlint.fix.jobs import compare

    enter("read")
    model = _load(job)
    enter("compare")
    return compare(model, _settings(job), job["options"])


def _diff(job: Record, enter: Callable[[str], None], emit: Emit) -> Record:
    from initlint.fix.jobs import diff

    enter("read")
    before, after = _load(job), _load({**job, "target": job["options"]["other"]})
    enter("measure")
    return diff(before, after, _settings(job), job["options"])


_TASKS: dict[str, Callable[[Record, Callable[[str], None], Emit], Record]] = {
    "lint": _lint,
    "measure": _measure,
    "describe": _describe,
    "fix": _fix,
    "compare": _compare,
    "diff": _diff,
}


def _load(job: Record, seed: int | None = None) -> Any:
    from dataclasses import replace

    from initlint.load import load

    options = _load_options(job)
    model = load(job["target"], options if seed is None else replace(options, seed=seed))
    gc.freeze()  # the graph lives as long as the process
    return model


def _load_options(job: Record) -> Any:
    from initlint.load import LoadOptions

    options = dict(job.get("load") or {})
    if options.get("input_shape") is not None:
        options["input_shape"] = tuple(options["input_shape"])
    return LoadOptions(**options)


def _settings(job: Record) -> Any:
    from initlint.settings import Settings

    settings = dict(job.get("settings") or {})
    for name in ("select", "ignore", "extend_select"):
        settings[name] = tuple(settings.get(name) or ())
    return Settings(**settings)
