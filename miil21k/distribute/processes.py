"""Worker processes that may die: which jobs each has is known, so a job is done again, or given up by itself."""

from __future__ import annotations

import multiprocessing
import pickle
import signal
import threading
from collections import deque
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from miil21k.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from multiprocessing.connection import Connection
    from multiprocessing.context import SpawnContext

__all__ = ["Lost", "run_in_processes"]

JobT = TypeVar("JobT")
ResultT = TypeVar("ResultT")

ATTEMPTS = 3  # per job; what killed its worker three times will do so again


class Lost(NamedTuple):
    """What stands for the result of a job that was given up. reason: what became of it, without a full stop."""

    reason: str


@dataclass
class _Task(Generic[JobT]):
    number: int
    job: JobT
    deaths: int = 0


class _Failure(NamedTuple):
    error: Exception


class _Worker:
    """A process that does one job after another; `tasks` are those that it has, the first of them begun."""

    def __init__(self, context: SpawnContext, work: Callable[[Any], Any], begin: Callable[[], None]) -> None:
        self.connection: Connection
        self.connection, other = context.Pipe()
        self.process = context.Process(target=_serve, args=(other, begin), daemon=True)
        with _interrupts_held():
            self.process.start()
        other.close()
        self.tasks: deque[_Task[Any]] = deque()
        self._send(work)  # not an argument: what it imports must find the environment that `begin` sets

    def give(self, task: _Task[Any]) -> None:
        """Let `task` be done after those that the worker has."""
        self.tasks.append(task)
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


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C back while a process is started, which inherits that: its parent ends it, and speaks for all.

    Here the signal may reach another thread, which holds nothing back; so its handler only notes it until the end.
    """
    held: list[int] = []
    main = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, lambda number, _: held.append(number)) if main else None
    before = None
    if hasattr(signal, "pthread_sigmask"):
        resource_tracker.ensure_running()  # where multiprocessing starts it by itself, it lets Ctrl-C through again
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        if before is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if main:
            signal.signal(signal.SIGINT, handler or signal.default_int_handler)
        if held:
            signal.raise_signal(signal.SIGINT)


def _serve(connection: Connection, begin: Callable[[], None]) -> None:
    """Do every job that comes; an exception is an answer too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # where it could not be held back
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


class _Plan(Generic[JobT, ResultT]):
    """Which job is next, and whose result is next."""

    def __init__(self, jobs: Iterable[JobT], ahead: int, *, ordered: bool) -> None:
        self._queue = enumerate(jobs)
        self._again: deque[_Task[JobT]] = deque()
        self._done: dict[int, tuple[JobT, ResultT | Lost | _Failure]] = {}
        self._ahead = ahead
        self._begun = self._turn = 0
        self._stopped = False
        self._ordered = ordered

    def next_task(self) -> _Task[JobT] | None:
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

    def bury(self, tasks: Iterable[_Task[JobT]], how: str) -> None:
        """Do the tasks of a worker that died again; `how` it died counts for the first of them, which it had begun."""
        first, *others = tasks
        first.deaths += 1
        if first.deaths < ATTEMPTS:
            self._again.append(first)
        else:
            self._done[first.number] = (first.job, Lost(f"{how} in each of {ATTEMPTS} attempts"))
        self._again.extend(others)

    def settle(self, task: _Task[JobT], answer: tuple[bool, Any]) -> None:
        """Take the answer to `task`."""
        good, value = answer
        self._done[task.number] = (task.job, value if good else _Failure(value))
        self._stopped = self._stopped or not good

    def result(self) -> tuple[JobT, ResultT | Lost] | None:
        """Return the job whose turn it is with its result, None while that is missing; raises what it raised."""
        next_one = self._turn if self._ordered else next(iter(self._done), -1)
        if next_one not in self._done:
            return None
        job, result = self._done.pop(next_one)
        self._turn += 1
        if isinstance(result, _Failure):
            raise result.error
        return job, result


def run_in_processes(
    work: Callable[[JobT], ResultT],
    jobs: Iterable[JobT],
    workers: int,
    begin: Callable[[], None],
    *,
    ordered: bool = True,
) -> Iterator[tuple[JobT, ResultT | Lost]]:
    """Yield every job with its result, in the order of `jobs` (or in which they finish), which is read a little ahead.

    begin: called first in every process. A job whose worker dies is done again by another one, `ATTEMPTS` times in
    all; then its result is `Lost`. An exception of `work` is raised in its turn.
    ordered: where it is False, a worker also has the job that it does next, so that it need not wait while `jobs` are
    read, and what is begun when an exception is raised is finished.
    """
    context = multiprocessing.get_context("spawn")
    depth = 1 if ordered else 2
    plan: _Plan[JobT, ResultT] = _Plan(jobs, ahead=(3 if ordered else 2) * workers, ordered=ordered)
    staff: list[_Worker] = []
    try:
        while True:
            while sum(map(_load, staff)) < depth * workers:
                if (task := plan.next_task()) is None:
                    break
                _dismiss_the_dead(staff)
                if len(staff) < workers and all(worker.tasks for worker in staff):
                    staff.append(_Worker(context, work, begin))
                min(staff, key=_load).give(task)
            if (found := plan.result()) is not None:
                yield found
                continue
            if not any(worker.tasks for worker in staff):
                return
            _take_answers(staff, plan)
    except Exception:
        if not ordered:
            _let_finish(staff)
        raise
    finally:
        for worker in staff:
            worker.stop()


def _load(worker: _Worker) -> int:
    return len(worker.tasks)


def _take_answers(staff: list[_Worker], plan: _Plan[JobT, ResultT]) -> None:
    """Wait until at least one worker has answered, or died."""
    ready = wait([worker.connection for worker in staff if worker.tasks])
    for worker in [worker for worker in staff if worker.connection in ready]:
        answer = worker.answer()
        if answer is None:
            staff.remove(worker)
            plan.bury(worker.tasks, worker.died())
        else:
            plan.settle(worker.tasks.popleft(), answer)


def _dismiss_the_dead(staff: list[_Worker]) -> None:
    """Let workers go that died while they had nothing to do; no job counts their death."""
    for worker in [worker for worker in staff if not worker.tasks and not worker.process.is_alive()]:
        staff.remove(worker)
        worker.stop()


def _let_finish(staff: list[_Worker]) -> None:
    for worker in staff:
        while worker.tasks and worker.answer() is not None:
            worker.tasks.popleft()
