"""Where the work runs: in this process, in processes on this machine, or on Ray. Results come as they are ready."""

from __future__ import annotations

import multiprocessing
import os
import threading
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Protocol

from miil21k.distribute.processes import Lost, run_in_processes
from miil21k.environment import available_cpus
from miil21k.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from miil21k.distribute.processes import JobT, ResultT

__all__ = ["Engine", "LocalEngine"]


class Engine(Protocol):
    """Something that runs a module-level function on many values."""

    def run(self, work: Callable[[JobT], ResultT], jobs: Iterable[JobT]) -> Iterator[ResultT]:
        """Yield `work(job)` for every job, in the order in which they finish; `jobs` is read only a little ahead.

        The first exception of `work` is raised; what has begun by then is finished.
        """

    def run_in_order(
        self, work: Callable[[JobT], ResultT], jobs: Iterable[JobT]
    ) -> Iterator[tuple[JobT, ResultT | Lost]]:
        """Yield every job with its result, in the order of `jobs`, which is read only a little ahead.

        Workers live as long as the run, so `work` may keep what is costly to make. A job whose workers died too often
        has the result `Lost`, and the others go on; an exception of `work` is raised in its turn.
        """

    def cores_per_job(self) -> int:
        """Return how many cores a job of `run_in_order` may use."""


class LocalEngine:
    """Runs in `workers` processes; one worker is this process itself."""

    def __init__(self, workers: int) -> None:
        self.workers = workers

    def run(self, work: Callable[[JobT], ResultT], jobs: Iterable[JobT]) -> Iterator[ResultT]:
        """Yield results as they are ready; see `Engine`. Raises EngineError when a job killed too many workers."""
        if self.workers == 1:
            yield from map(work, jobs)
            return
        for _, result in run_in_processes(work, jobs, self.workers, _begin_worker, ordered=False):
            if isinstance(result, Lost):
                raise EngineError(
                    f"A job was given up, {result.reason}: run the same command again (what is finished is kept), with "
                    "fewer --workers."
                )
            yield result

    def run_in_order(
        self, work: Callable[[JobT], ResultT], jobs: Iterable[JobT]
    ) -> Iterator[tuple[JobT, ResultT | Lost]]:
        """Yield jobs and results in order; see `Engine`. A single worker is a process of its own here."""
        return run_in_processes(work, jobs, self.workers, _begin_worker)

    def cores_per_job(self) -> int:
        """Return this machine's cores over the workers, at least 1."""
        return max(1, available_cpus() // self.workers)


def _begin_worker() -> None:
    """Keep libraries from starting threads (the other cores have workers of their own), and end with the parent."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    """End this worker as soon as its parent is killed; else it would wait for jobs for ever."""
    wait([sentinel])
    os._exit(1)
