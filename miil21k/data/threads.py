"""Work spread over threads, its results in order."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future

__all__ = ["in_order"]

TaskT = TypeVar("TaskT")
ResultT = TypeVar("ResultT")


def in_order(work: Callable[[TaskT], ResultT], tasks: Iterable[TaskT], workers: int, name: str) -> Iterator[ResultT]:
    """Yield `work(task)` of every task in order, from `workers` threads called `name`, or from this one for 0.

    At most two tasks per worker are under way or wait to be yielded. Leaving early cancels what has not begun.
    """
    if not workers:
        yield from map(work, tasks)
        return
    from concurrent.futures import ThreadPoolExecutor

    pool = ThreadPoolExecutor(workers, thread_name_prefix=name)
    pending: deque[Future[ResultT]] = deque()
    try:
        for task in tasks:
            pending.append(pool.submit(work, task))
            if len(pending) == 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
