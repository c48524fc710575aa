"""What linting costs in bytes, cores and network, and what a nightly gate over a fleet would take.

``python benchmarks/scaling.py [--write]`` fits the cost of one checkpoint to measurements here
(processor seconds, which do not depend on what else the machine does), checks the fit on files that
it has not seen, and simulates clusters: stragglers, lost workers, a shared store. ``--write`` puts
the tables into ``docs/scaling.md``.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from initlint.cluster.running import SPLIT_BYTES  # noqa: E402
from initlint.measure.leading import (  # noqa: E402
    JUDGED_ELEMENTS,
    JUDGED_SHARE,
    LEAST_BLOCK,
    VERY_LARGE,
    WHOLE_ELEMENTS,
)

_BEGIN, _END = "<!-- scaling: begin -->", "<!-- scaling: end -->"


@dataclass(frozen=True, slots=True)
class Costs:
    """Processor seconds.

    Attributes:
        start: of one worker, until its target is open.
        per_byte: for reading a byte and taking its moments.
        per_judged: for judging the distribution of an element.
        per_tensor: for everything that is counted by tensors.
    """

    start: float
    per_byte: float
    per_judged: float
    per_tensor: float

    def seconds(self, size: float, judged: float, tensors: float) -> float:
        """Of one checkpoint."""
        return (
            self.start + self.per_byte * size + self.per_judged * judged + self.per_tensor * tensors
        )


def judged_elements(elements: int, tensors: int) -> int:
    """Elements whose distribution is judged: `initlint.measure.leading` in short."""
    each = elements // max(tensors, 1)
    if elements <= VERY_LARGE:
        return min(each, WHOLE_ELEMENTS) * tensors
    block = min(elements // JUDGED_SHARE, JUDGED_ELEMENTS) // tensors
    return min(each, WHOLE_ELEMENTS, max(LEAST_BLOCK, block)) * tensors


def write_checkpoint(path: Path, tensors: int, side: int, kind: str) -> int:
    """A checkpoint of square normal matrices; its bytes."""
    rng = np.random.default_rng(tensors * side)
    width = 4 if kind == "F32" else 2
    length = side * side * width
    header = {
        f"layers.{n}.weight": {
            "dtype": kind,
            "shape": [side, side],
            "data_offsets": [n * length, (n + 1) * length],
        }
        for n in range(tensors)
    }
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _ in range(tensors):
            values = rng.standard_normal((side, side), dtype=np.float32)
            if kind == "F32":
                file.write(values.tobytes())
            else:
                file.write((values.view(np.uint32) >> 16).astype(np.uint16).tobytes())
    return tensors * length


def processor_seconds(path: Path, repeats: int) -> float:
    """User and system time of one lint, the least of some."""
    least = float("inf")
    for _ in range(repeats):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-m", "initlint", str(path), "-q", "--exit-zero"]
        command += ["--timeout", "900"]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True, cwd=ROOT)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        least = min(least, used)
    return least


FITTED = (
    (1, 32, "F32"),
    (2000, 16, "F32"),
    (500, 32, "F32"),
    (4, 2048, "F32"),
    (4, 2048, "BF16"),
    (2, 8192, "F32"),
    (2, 8192, "BF16"),
)
"""Tensors, side and element type of the files that the coefficients are fitted to."""

BIG_BYTES, BIG_TENSORS, BIG_SECONDS = 19.9e9, 290, 14.0
"""What ``benchmarks/big_checkpoint.py --gigabytes 20`` measured: the cost of a byte comes from it,
as in small files every element is also judged, which takes twenty times as long and hides it."""

UNSEEN = ((1000, 32, "F32"), (6, 2048, "F32"), (3, 8192, "BF16"))
"""Files that the fit is checked on."""


def fit(folder: Path, repeats: int) -> tuple[Costs, list[tuple[str, float, float]]]:
    """Coefficients, and measured against predicted seconds of the unseen files."""
    rows, times = [], []
    for tensors, side, kind in FITTED:
        path = folder / "fit.safetensors"
        size = write_checkpoint(path, tensors, side, kind)
        rows.append([1.0, size, judged_elements(tensors * side * side, tensors), tensors])
        times.append(processor_seconds(path, repeats))
    matrix, measured = np.array(rows), np.array(times)
    weighted = matrix / measured[:, None]  # relative errors count alike
    scale = weighted.max(axis=0)
    found = _not_negative(weighted / scale, np.ones(len(times))) / scale
    costs = Costs(*map(float, found))
    big = BIG_SECONDS - replace(costs, per_byte=0.0).seconds(
        BIG_BYTES, BIG_TENSORS * LEAST_BLOCK, BIG_TENSORS
    )
    costs = replace(costs, per_byte=max(big / BIG_BYTES, 0.0))
    checks = []
    for tensors, side, kind in UNSEEN:
        path = folder / "fit.safetensors"
        size = write_checkpoint(path, tensors, side, kind)
        judged = judged_elements(tensors * side * side, tensors)
        name = f"{tensors} × {side}² {kind.lower()}"
        checks.append(
            (name, processor_seconds(path, repeats), costs.seconds(size, judged, tensors))
        )
    return costs, checks


def _not_negative(matrix: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Least squares with no coefficient below zero, by projected gradients."""
    gram, right = matrix.T @ matrix, matrix.T @ target
    step = 1.0 / np.linalg.eigvalsh(gram).max()
    found = np.zeros(matrix.shape[1])
    for _ in range(200_000):
        found = np.maximum(found - step * (gram @ found - right), 0.0)
    return found


@dataclass(frozen=True, slots=True)
class Cluster:
    """What work is spread over.

    Attributes:
        nodes: machines.
        slots: tasks at once on each.
        network: bytes a second into each.
        store: bytes a second out of the store for all of them.
        straggler: share of tasks that take `slow` times as long (a throttled stream, a bad disk).
        slow: how much longer.
        scatter: standard deviation of the logarithm of every task's duration.
        loss: losses of each machine per hour; what it was doing starts anew elsewhere.
        restart: seconds until a lost machine is replaced.
        overhead: seconds of the scheduler and the engine for each task.
    """

    nodes: int
    slots: int = 8
    network: float = 3.1e9
    store: float = 2.0e11
    straggler: float = 0.01
    slow: float = 5.0
    scatter: float = 0.2
    loss: float = 0.01
    restart: float = 300.0
    overhead: float = 0.01


@dataclass(frozen=True, slots=True)
class Fleet:
    """What is linted: checkpoints of one size."""

    count: int
    size: float = 140e9
    elements: int = 70_000_000_000
    tensors: int = 723


def tasks_of(fleet: Fleet, costs: Costs, cluster: Cluster) -> tuple[float, int, float]:
    """Seconds of one part, parts of a checkpoint, seconds of the lint that follows them."""
    parts = max(1, -int(-fleet.size // SPLIT_BYTES))
    rate = min(cluster.network, cluster.store / cluster.nodes) / cluster.slots
    judged = judged_elements(fleet.elements, fleet.tensors)
    work = costs.seconds(fleet.size / parts, judged / parts, fleet.tensors / parts)
    reading = fleet.size / parts / rate
    # moments are taken while the next piece arrives: the slower of the two counts
    part = costs.start + max(reading, work - costs.start) + cluster.overhead
    # leading rows are looked at once more by rules: bfloat16
    rows = 2 * judged / rate
    lint = costs.seconds(0, 0, fleet.tensors) + rows + cluster.overhead
    return part, parts, lint


def simulate(fleet: Fleet, costs: Costs, cluster: Cluster, seed: int) -> tuple[float, int]:
    """Seconds until the last checkpoint is linted, and tasks that were lost on the way.

    Discrete events: a slot takes the next task when it is free, the lint of a checkpoint comes up
    when its last part is done, a lost machine's tasks go back to the head of the queue.
    """
    rng = np.random.default_rng(seed)
    part, parts, lint = tasks_of(fleet, costs, cluster)
    waiting_parts = [parts] * fleet.count
    next_part, ready, again = 0, [], []
    total_parts = parts * fleet.count
    free_at = [(0.0, slot) for slot in range(cluster.nodes * cluster.slots)]
    heapq.heapify(free_at)
    down = rng.exponential(3600.0 / cluster.loss, cluster.nodes) if cluster.loss else None
    running: list[tuple[float, int, int, bool]] = []  # end, slot, checkpoint, is a lint
    idle: list[int] = []
    now, lost, done = 0.0, 0, 0
    normal = iter(rng.standard_normal(total_parts * 2 + 10_000))
    unlucky = iter(rng.random(total_parts * 2 + 10_000))
    while done < fleet.count:
        while free_at and free_at[0][0] <= now:
            slot = heapq.heappop(free_at)[1]
            if again:
                checkpoint, is_lint = again.pop()
            elif ready:
                checkpoint, is_lint = ready.pop(), True
            elif next_part < total_parts:
                checkpoint, is_lint = next_part // parts, False
                next_part += 1
            else:
                idle.append(slot)
                continue
            seconds = (lint if is_lint else part) * np.exp(cluster.scatter * next(normal))
            if next(unlucky) < cluster.straggler:
                seconds *= cluster.slow
            end, node = now + seconds, slot // cluster.slots
            if down is not None and down[node] < end:
                lost += 1  # found out at once by the engine, done anew by whoever is free
                again.append((checkpoint, is_lint))
                back = max(down[node], now) + cluster.restart
                heapq.heappush(free_at, (back, slot))
                if slot % cluster.slots == cluster.slots - 1:
                    down[node] = back + rng.exponential(3600.0 / cluster.loss)
                continue
            heapq.heappush(running, (end, slot, checkpoint, is_lint))
        now = max(now, min(queue[0][0] for queue in (running, free_at) if queue))
        while running and running[0][0] <= now:
            _, slot, checkpoint, is_lint = heapq.heappop(running)
            heapq.heappush(free_at, (now, slot))
            if is_lint:
                done += 1
            else:
                waiting_parts[checkpoint] -= 1
                if not waiting_parts[checkpoint]:
                    ready.append(checkpoint)
            while idle and (ready or again):
                heapq.heappush(free_at, (now, idle.pop()))
    return now, lost


def bound(fleet: Fleet, costs: Costs, cluster: Cluster) -> float:
    """Seconds with no straggler, no loss and no slot ever idle."""
    part, parts, lint = tasks_of(fleet, costs, cluster)
    return fleet.count * (parts * part + lint) / (cluster.nodes * cluster.slots)


def fleet_table(costs: Costs) -> list[str]:
    """A night over 10,000 checkpoints of 140 GB on clusters of several sizes."""
    fleet = Fleet(10_000)
    lines = [
        "| machines (8 tasks, 25 Gbit/s each) | hours, ideal | hours, simulated | machine hours "
        "| tasks lost and done again | busy cores |",
        "|--:|--:|--:|--:|--:|--:|",
    ]
    judged = judged_elements(fleet.elements, fleet.tensors)
    cores = fleet.count * costs.seconds(fleet.size, judged, fleet.tensors)
    for nodes in (8, 16, 32, 64, 128):
        cluster = Cluster(nodes)
        seconds, lost = simulate(fleet, costs, cluster, seed=0)
        ideal = bound(fleet, costs, cluster)
        lines.append(
            f"| {nodes} | {ideal / 3600:.1f} | {seconds / 3600:.1f} | {nodes * seconds / 3600:.0f} "
            f"| {lost} | {cores / seconds:.0f} of {nodes * cluster.slots} |"
        )
    return lines


def risk_table(costs: Costs) -> list[str]:
    """What goes wrong, one thing after the other, on 32 machines."""
    fleet, plain = Fleet(10_000), Cluster(32, straggler=0.0, scatter=0.0, loss=0.0)
    cases: Sequence[tuple[str, Cluster]] = (
        ("nothing", plain),
        ("durations scatter by 20 %", replace(plain, scatter=0.2)),
        ("1 % of tasks take 5 times as long", replace(plain, straggler=0.01)),
        ("5 % of tasks take 20 times as long", replace(plain, straggler=0.05, slow=20.0)),
        ("each machine is lost every 100 hours", replace(plain, loss=0.01)),
        ("each machine is lost every 2 hours (spot)", replace(plain, loss=0.5)),
        ("the store gives 50 GB/s in all", replace(plain, store=5e10)),
    )
    lines = ["| what goes wrong | hours | against nothing | tasks lost and done again |"]
    lines.append("|---|--:|--:|--:|")
    first = None
    for name, cluster in cases:
        seconds, lost = simulate(fleet, costs, cluster, seed=1)
        first = first or seconds
        lines.append(f"| {name} | {seconds / 3600:.1f} | {seconds / first:.2f} | {lost} |")
    return lines


def main() -> int:
    """Fit, check, simulate, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="scaling-") as folder:
        costs, checks = fit(Path(folder), options.repeats)
    lines = [
        "| cost of one checkpoint | processor time |",
        "|---|--:|",
        f"| a worker | {costs.start:.2f} s |",
        f"| a gigabyte read, its moments taken | {costs.per_byte * 1e9:.2f} s |",
        f"| a million elements judged | {costs.per_judged * 1e9:.0f} ms |",
        f"| a thousand tensors | {costs.per_tensor * 1e3:.2f} s |",
        "",
        "| files that the fit has not seen | measured | predicted |",
        "|---|--:|--:|",
        *(f"| {name} | {real:.2f} s | {told:.2f} s |" for name, real, told in checks),
        "",
        *fleet_table(costs),
        "",
        *risk_table(costs),
    ]
    text = "\n".join(lines)
    print(text)
    if options.write:
        path = ROOT / "docs" / "scaling.md"
        head, _, rest = path.read_text().partition(_BEGIN)
        path.write_text(f"{head}{_BEGIN}\n{text}\n{_END}{rest.partition(_END)[2]}")
    return 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
