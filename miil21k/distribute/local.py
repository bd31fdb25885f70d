"""Where the work runs: in this process, in processes on this machine, or on Ray. Results come as they are ready."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import threading
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait as wait_for_any
from typing import TYPE_CHECKING, Protocol, TypeVar

from miil21k.distribute.processes import run_in_processes
from miil21k.environment import available_cpus
from miil21k.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from miil21k.distribute.processes import Lost

__all__ = ["Engine", "LocalEngine"]

Job = TypeVar("Job")
Result = TypeVar("Result")


class Engine(Protocol):
    """Something that runs a module-level function on many values."""

    def run(self, work: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[Result]:
        """Yield `work(job)` for every job, in the order in which they finish; `jobs` is read only a little ahead.

        The first exception of `work` is raised; what has begun by then is finished.
        """

    def run_in_order(self, work: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[tuple[Job, Result | Lost]]:
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

    def run(self, work: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[Result]:
        """Yield results as they are ready; see `Engine`. Raises EngineError when a worker is killed."""
        if self.workers == 1:
            yield from map(work, jobs)
            return
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(self.workers, context, initializer=_begin_worker)
        try:
            queue = iter(jobs)
            running = {pool.submit(work, job) for job in itertools.islice(queue, 2 * self.workers)}
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
                running |= {pool.submit(work, job) for job in itertools.islice(queue, len(done))}
        except BrokenProcessPool:
            raise EngineError(
                "A worker process was killed, probably because memory ran out: run the same command again "
                "(what is finished is kept), with fewer --workers."
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)

    def run_in_order(self, work: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[tuple[Job, Result | Lost]]:
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
    wait_for_any([sentinel])
    os._exit(1)
