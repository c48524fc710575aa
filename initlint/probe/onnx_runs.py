"""Runs of one session side by side: each is one thread's, and a machine has more of those.

What a run gives does not depend on what runs beside it, and runs are handed out in their order.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from threading import Event, Thread
from typing import Generic, TypeVar

AT_ONCE = 2
"""Runs side by side: more of them share the memory's bandwidth, and hold as many outputs."""

HELD = AT_ONCE + 2
"""Runs whose outputs are held at once: those that run, the pilot, and a second one beside it."""

SOON = 0.015
"""Seconds after which a pilot takes so long that the plan will most likely ask for more runs of its
size: a plan of larger ones has at least five samples in the work of a tenth of a second
(`initlint.probe.schedule.WORK`)."""

Given = TypeVar("Given")
Found = TypeVar("Found")


def cores() -> int:
    """Processors that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # only Linux tells
        return os.cpu_count() or 1


def in_order(
    run: Callable[[int], Found], numbers: range, *, held: int, most: int
) -> Iterator[Found]:
    """What the runs of these numbers give, in their order; the first ones begin at once.

    Args:
        run: makes one run.
        numbers: which.
        held: bytes of one run's outputs.
        most: bytes that all outputs may take.
    """
    if len(numbers) < 2 or cores() < AT_ONCE or HELD * held > most:
        return map(run, numbers)
    pool = ThreadPoolExecutor(AT_ONCE)
    begun = deque(pool.submit(run, number) for number in numbers[:AT_ONCE])
    return _handed_out(pool, begun, run, numbers[AT_ONCE:])


def _handed_out(
    pool: ThreadPoolExecutor,
    begun: deque[Future[Found]],
    run: Callable[[int], Found],
    others: range,
) -> Iterator[Found]:
    with pool:
        for number in others:
            found = begun.popleft().result()
            begun.append(pool.submit(run, number))
            yield found
        while begun:
            yield begun.popleft().result()


class Second(Generic[Found]):
    """A run that begins beside another one, should that take long.

    Attributes:
        begun: it did.
    """

    def __init__(self, run: Callable[[], Found]) -> None:
        self.begun = False
        self._run = run
        self._done = Event()
        self._found: list[Found] = []
        self._thread: Thread | None = None
        if cores() >= AT_ONCE:
            self._thread = Thread(target=self._work, daemon=True)
            self._thread.start()

    def _work(self) -> None:
        if not self._done.wait(SOON):
            self.begun = True
            with suppress(Exception):  # told by the run that is asked for in its place
                self._found.append(self._run())

    def first_is_done(self) -> None:
        """Begin no more."""
        self._done.set()

    def result(self) -> Found | None:
        """What it gave; None where it did not begin or failed."""
        self._done.set()
        if self._thread is not None:
            self._thread.join()
        return self._found.pop() if self._found else None
