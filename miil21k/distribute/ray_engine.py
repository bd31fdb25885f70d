"""The same work on a Ray cluster: jobs go to any node, and are done again when a node dies."""

from __future__ import annotations

import copy
import itertools
import logging
import os
import socket
from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar

from miil21k.distribute.processes import Lost
from miil21k.errors import EngineError, Miil21kError, MissingExtra

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["RayEngine"]

Job = TypeVar("Job")
Result = TypeVar("Result")

_RETRIES = 8  # per job; a node that dies takes its jobs with it
_PATIENCE = 10.0  # seconds for the head of a cluster to answer


class RayEngine:
    """Runs every job as a Ray task of one core; source and target must lie on storage that all nodes see.

    address: of the cluster (`auto`, `host:6379`, `ray://host:10001`); None starts one on this machine.
    in_flight: jobs that are queued at once; None is twice the cores of the cluster.
    Raises MissingExtra without Ray, EngineError when the cluster cannot be reached.
    """

    def __init__(self, address: str | None = None, in_flight: int | None = None) -> None:
        # Read when Ray is loaded; its own choice is to try for ever what does not fit into memory.
        os.environ.setdefault("RAY_task_oom_retries", str(_RETRIES))
        try:
            import ray
        except ImportError:
            raise MissingExtra("ray", "ray", "The engine 'ray'") from None
        self._ray: Any = ray
        self._in_flight = in_flight
        self._gpu_jobs = False
        self._joined = not ray.is_initialized()
        if self._joined:
            _require_listener(address)
            if address is None:  # Ray's own default, 15, leaves its workers what other programs do not want
                os.environ.setdefault("RAY_worker_niceness", "0")
            try:
                ray.init(
                    address=address,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    include_dashboard=False if address is None else None,
                )
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise EngineError(f"No Ray cluster at '{address}': {str(error).splitlines()[0]}") from None

    def run(self, work: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[Result]:
        """Yield results as they are ready; see `local.Engine`. Raises EngineError when a job died too often."""
        ray = self._ray
        task = ray.remote(num_cpus=1, max_retries=_RETRIES)(work)
        ahead = self._in_flight or max(2, 2 * int(ray.cluster_resources().get("CPU", 1)))
        queue = iter(jobs)
        running = [task.remote(job) for job in itertools.islice(queue, ahead)]
        try:
            while running:
                done, running = ray.wait(running, num_returns=1)
                yield from map(self._result, done)
                running += [task.remote(job) for job in itertools.islice(queue, len(done))]
        except _LostJob as lost:
            raise EngineError(
                f"A job was given up, {lost}: run the same command again, what is finished is kept."
            ) from None
        finally:
            for reference in running:
                ray.cancel(reference)

    @property
    def gpus(self) -> int:
        """How many GPUs the cluster has."""
        return int(self._ray.cluster_resources().get("GPU", 0))

    @property
    def _cores(self) -> int:
        return max(1, int(self._ray.cluster_resources().get("CPU", 1)))

    def on_gpus(self) -> RayEngine:
        """Return the same engine for jobs that need a GPU each."""
        other = copy.copy(self)
        other._gpu_jobs = True
        return other

    def cores_per_job(self) -> int:
        """Return 1, or for a job on a GPU the cluster's cores over its GPUs (at least 1)."""
        return max(1, self._cores // max(1, self.gpus)) if self._gpu_jobs else 1

    def run_in_order(self, work: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[tuple[Job, Result | Lost]]:
        """Yield jobs and results in order; see `local.Engine`. A worker process does many jobs, also on a GPU."""
        ray = self._ray
        # Without max_calls=0, Ray ends a process that had a GPU after one task, and with it the network it loaded.
        needs = {"num_cpus": self.cores_per_job(), "num_gpus": int(self._gpu_jobs)}
        task = ray.remote(**needs, max_retries=_RETRIES, max_calls=0)(work)
        at_once = self.gpus if self._gpu_jobs else self._cores
        ahead = self._in_flight or max(2, 2 * at_once)
        queue = iter(jobs)
        running = deque((job, task.remote(job)) for job in itertools.islice(queue, ahead))
        try:
            while running:
                job, reference = running[0]
                try:
                    result = self._result(reference)
                except _LostJob as lost:
                    result = Lost(str(lost))
                running.popleft()
                running.extend((job, task.remote(job)) for job in itertools.islice(queue, 1))
                yield job, result
        finally:
            for _, reference in running:
                ray.cancel(reference)

    def _result(self, reference: Any) -> Any:  # Ray is not typed
        """Return the result; raises _LostJob when workers died too often."""
        ray = self._ray
        try:
            return ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, Miil21kError):
                raise cause from None
            raise EngineError(f"A job failed on the Ray cluster: {type(cause).__name__}: {cause}") from error
        except ray.exceptions.RaySystemError as error:
            raise EngineError(f"The Ray cluster failed: {_first_line(error)}; what is finished is kept.") from None
        except ray.exceptions.RayError as error:
            raise _LostJob(f"its workers died {_RETRIES + 1} times on the Ray cluster ({_first_line(error)})") from None

    def close(self) -> None:
        """Leave the cluster that was joined here, or stop it where it was started here.

        Ray would do so by itself when the process ends, but sleeps half a second before.
        """
        if self._joined:
            self._ray.shutdown()


def _require_listener(address: str | None) -> None:
    """Raise EngineError when nothing answers at `host:port`; Ray itself would try for many minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return  # auto, or an address that Ray refuses at once
    try:
        socket.create_connection((host, int(port)), timeout=_PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise EngineError(f"No Ray cluster at '{address}': {getattr(error, 'strerror', None) or error}.") from None


class _LostJob(EngineError):
    """A job was given up."""


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".")
