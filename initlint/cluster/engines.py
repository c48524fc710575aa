"""The two engines behind one narrow interface: submit a payload, take what is done."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Protocol
from urllib.parse import parse_qsl, urlsplit

Payload = dict[str, Any]
Work = Callable[[Payload], Payload]

RETRIES = 3
"""How often a task starts anew when the machine that ran it is lost."""

CONNECT_SECONDS = 15.0


class ClusterError(Exception):
    """A cluster that cannot be used: one line."""


class Engine(Protocol):
    """What runs payloads somewhere."""

    def submit(self, number: int, payload: Payload) -> None:
        """Have ``payload`` worked on; the number tells its result apart."""
        ...

    def done(self) -> Iterator[tuple[int, Payload | None]]:
        """Number and result of all payloads as they end, later submitted ones too.

        The result is None where the engine gave up on it.
        """
        ...

    def close(self) -> None:
        """Leave the cluster; what is not done is cancelled."""
        ...


class Place:
    """What a cluster's address says.

    Attributes:
        scheme: ``dask`` or ``ray``.
        where: ``host:port``; ``local`` for one that is started here for this run; ``auto`` (Ray).
        settings: what follows ``?``: ``workers`` of a local cluster, ``split`` in bytes.
        url: the address without them.
    """

    def __init__(self, text: str) -> None:
        try:
            parts = urlsplit(text)
            self.settings = {key: int(value) for key, value in parse_qsl(parts.query)}
        except ValueError:
            raise ClusterError(_form(text)) from None
        self.scheme, self.where = parts.scheme, parts.netloc
        self.url = f"{self.scheme}://{self.where}"
        known = set(self.settings) <= {"workers", "split"}
        if self.scheme not in ENGINES or not self.where or not known:
            raise ClusterError(_form(text))


def _form(text: str) -> str:
    return (
        f"--cluster is {text!r}; write it as dask://host:port, ray://host:port, ray://auto, "
        "or dask://local?workers=4"
    )


class DaskEngine:
    """A Dask scheduler; it gives the tasks of a lost worker to the others by itself."""

    def __init__(self, place: Place, work: Work) -> None:
        try:
            from distributed import Client, LocalCluster, as_completed
        except ImportError as error:
            raise ClusterError(_missing("Dask", "dask", error)) from error
        import logging

        logging.getLogger("distributed").setLevel(logging.CRITICAL)  # a lost worker is no news
        self._work = work
        self._cluster: Any = None
        try:
            if place.where == "local":
                self._cluster = LocalCluster(
                    n_workers=place.settings.get("workers") or os.cpu_count(),
                    threads_per_worker=1,
                    processes=True,
                    dashboard_address=None,
                )
            address = self._cluster or f"tcp://{place.where}"
            self._client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
        except (OSError, ValueError, TimeoutError) as error:
            self._leave()
            raise ClusterError(f"no Dask scheduler answers at {place.where}") from error
        self._numbers: dict[str, int] = {}
        self._done = as_completed(loop=self._client.loop)

    def submit(self, number: int, payload: Payload) -> None:
        """Have ``payload`` worked on."""
        future = self._client.submit(self._work, payload, pure=False, retries=RETRIES)
        self._numbers[future.key] = number
        self._done.add(future)

    def done(self) -> Iterator[tuple[int, Payload | None]]:
        """Number and result of all payloads as they end."""
        for future in self._done:
            number = self._numbers.pop(future.key)
            yield number, (future.result() if future.status == "finished" else None)

    def close(self) -> None:
        """Leave the cluster."""
        with suppress(Exception):  # it is left either way
            self._client.close(timeout=5)
        self._leave()

    def _leave(self) -> None:
        if self._cluster is not None:
            self._cluster.close(timeout=10)


class RayEngine:
    """A Ray cluster; it starts the task of a lost worker again, `RETRIES` times."""

    def __init__(self, place: Place, work: Work) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray reports its use otherwise
        try:
            import ray
        except ImportError as error:
            raise ClusterError(_missing("Ray", "ray", error)) from error
        self._ray = ray
        self._ours = not ray.is_initialized()
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        if place.where == "local":
            options |= {"num_cpus": place.settings.get("workers"), "include_dashboard": False}
        else:
            options["address"] = "auto" if place.where == "auto" else place.url
        try:
            if self._ours:
                ray.init(**options)
        except ImportError as error:  # Ray's client has requirements of its own
            raise ClusterError(_missing("Ray's client", "ray", error)) from error
        except (OSError, ValueError, RuntimeError) as error:
            raise ClusterError(f"no Ray cluster answers at {place.where}") from error
        self._remote = ray.remote(num_cpus=1, max_retries=RETRIES)(work)
        self._numbers: dict[Any, int] = {}

    def submit(self, number: int, payload: Payload) -> None:
        """Have ``payload`` worked on."""
        self._numbers[self._remote.remote(payload)] = number

    def done(self) -> Iterator[tuple[int, Payload | None]]:
        """Number and result of all payloads as they end."""
        while self._numbers:
            (first, *_), _ = self._ray.wait(list(self._numbers), num_returns=1)
            number = self._numbers.pop(first)
            try:
                yield number, self._ray.get(first)
            except self._ray.exceptions.RayError:
                yield number, None

    def close(self) -> None:
        """Leave the cluster."""
        for reference in self._numbers:
            with suppress(Exception):  # it is left either way
                self._ray.cancel(reference, force=True)
        if self._ours:
            self._ray.shutdown()


def _missing(name: str, extra: str, error: ImportError) -> str:
    what = f"{name} is not installed" if error.name else f"{name} cannot be imported ({error})"
    return f"--cluster: {what}: pip install 'initlint[{extra}]'"


ENGINES: Mapping[str, Callable[[Place, Work], Engine]] = {"dask": DaskEngine, "ray": RayEngine}
