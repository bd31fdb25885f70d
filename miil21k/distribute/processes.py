"""Worker processes that may die: which job each has is known, so a job is done again, or given up by itself."""

from __future__ import annotations

import multiprocessing
import pickle
import signal
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from miil21k.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from multiprocessing.connection import Connection
    from multiprocessing.context import SpawnContext

__all__ = ["Lost", "run_in_processes"]

Job = TypeVar("Job")
Result = TypeVar("Result")

ATTEMPTS = 3  # per job; what killed its worker three times will do so again


class Lost(NamedTuple):
    """What stands for the result of a job that was given up. reason: what became of it, without a full stop."""

    reason: str


@dataclass
class _Task(Generic[Job]):
    number: int
    job: Job
    deaths: int = 0


class _Failure(NamedTuple):
    error: Exception


class _Worker:
    """A process that does one job after another."""

    def __init__(self, context: SpawnContext, work: Callable[[Any], Any], begin: Callable[[], None]) -> None:
        self.connection: Connection
        self.connection, other = context.Pipe()
        self.process = context.Process(target=_serve, args=(other, begin), daemon=True)
        self.process.start()
        other.close()
        self.task: _Task[Any]
        self._send(work)  # not an argument: what it imports must find the environment that `begin` sets

    def give(self, task: _Task[Any]) -> None:
        """Start on `task`."""
        self.task = task
        self._send(task.job)

    def _send(self, value: Any) -> None:
        with suppress(OSError):  # a death is noticed where the answer is awaited
            self.connection.send(value)

    def answer(self) -> tuple[bool, Any] | None:
        """Return what the worker sent, None when it died."""
        try:
            answer: tuple[bool, Any] = self.connection.recv()
        except (EOFError, OSError):
            return None
        return answer

    def died(self) -> str:
        """Return how the process ended, once `answer` gave None."""
        self.process.join(10)
        code = self.process.exitcode
        self.stop()
        if code is None or code >= 0:
            return f"the worker ended with exit code {code}"
        name = signal.strsignal(-code) or f"signal {-code}"
        return f"the worker was ended by '{name}'" + (", probably because memory ran out" if code == -9 else "")

    def stop(self) -> None:
        """End the process."""
        self.process.terminate()
        self.process.join(10)
        self.connection.close()


def _serve(connection: Connection, begin: Callable[[], None]) -> None:
    """Do every job that comes; an exception is an answer too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted too, and ends this process
    begin()
    try:
        work = connection.recv()
        while True:
            job = connection.recv()
            try:
                answer = (True, work(job))
            except Exception as error:
                answer = (False, _portable(error))
            connection.send(answer)
    except (EOFError, BrokenPipeError):
        return  # the parent is gone


def _portable(error: Exception) -> Exception:
    """Return `error`, or one that says the same where it does not survive pickling."""
    try:
        return pickle.loads(pickle.dumps(error))  # type: ignore[no-any-return]  # noqa: S301 - our own bytes
    except Exception:  # whatever the constructor of an exception stumbles over
        return EngineError(f"A worker failed: {type(error).__name__}: {error}")


class _Plan(Generic[Job, Result]):
    """Which job is next, and whose result is next."""

    def __init__(self, jobs: Iterable[Job], ahead: int) -> None:
        self._queue = enumerate(jobs)
        self._again: deque[_Task[Job]] = deque()
        self._done: dict[int, tuple[Job, Result | Lost | _Failure]] = {}
        self._ahead = ahead
        self._begun = self._turn = 0
        self._stopped = False

    def next_task(self) -> _Task[Job] | None:
        """Return what to do next; None when there is nothing, or too much that waits for its turn."""
        if self._again:
            return self._again.popleft()
        if self._stopped or self._begun - self._turn >= self._ahead:
            return None
        found = next(self._queue, None)
        if found is None:
            self._stopped = True
            return None
        self._begun += 1
        return _Task(*found)

    def settle(self, task: _Task[Job], answer: tuple[bool, Any] | str) -> None:
        """Take the answer to `task`, or how its worker died."""
        if isinstance(answer, str):
            task.deaths += 1
            if task.deaths < ATTEMPTS:
                self._again.append(task)
            else:
                self._done[task.number] = (task.job, Lost(f"{answer} in each of {ATTEMPTS} attempts"))
            return
        good, value = answer
        self._done[task.number] = (task.job, value if good else _Failure(value))
        self._stopped = self._stopped or not good

    def result(self) -> tuple[Job, Result | Lost] | None:
        """Return the job whose turn it is with its result, None while that is missing; raises what it raised."""
        if self._turn not in self._done:
            return None
        job, result = self._done.pop(self._turn)
        self._turn += 1
        if isinstance(result, _Failure):
            raise result.error
        return job, result


def _living(idle: list[_Worker]) -> _Worker | None:
    """Take a worker that waits for a job; one that died meanwhile is let go, and no job counts its death."""
    while idle:
        worker = idle.pop()
        if worker.process.is_alive():
            return worker
        worker.stop()
    return None


def run_in_processes(
    work: Callable[[Job], Result], jobs: Iterable[Job], workers: int, begin: Callable[[], None]
) -> Iterator[tuple[Job, Result | Lost]]:
    """Yield every job with its result, in the order of `jobs`, which is read only a little ahead.

    begin: called first in every process. A job whose worker dies is done again by another one, `ATTEMPTS` times in
    all; then its result is `Lost`. An exception of `work` is raised in its turn.
    """
    context = multiprocessing.get_context("spawn")
    plan: _Plan[Job, Result] = _Plan(jobs, ahead=3 * workers)
    idle: list[_Worker] = []
    busy: list[_Worker] = []
    try:
        while True:
            while len(busy) < workers and (task := plan.next_task()) is not None:
                worker = _living(idle) or _Worker(context, work, begin)
                busy.append(worker)
                worker.give(task)
            if (found := plan.result()) is not None:
                yield found
                continue
            if not busy:
                return
            ready = wait([worker.connection for worker in busy])
            for worker in [worker for worker in busy if worker.connection in ready]:
                busy.remove(worker)
                answer = worker.answer()
                if answer is not None:
                    idle.append(worker)
                plan.settle(worker.task, worker.died() if answer is None else answer)
    finally:
        for worker in (*idle, *busy):
            worker.stop()
