"""Items of many callers, computed together: every item gets its own answer, whoever it shared a batch with."""

from __future__ import annotations

import threading
import time
from collections import deque
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from miil21k.errors import Miil21kError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType

__all__ = ["Batcher", "Places", "QueueFull", "ServedBatch"]

ItemT = TypeVar("ItemT")
AnswerT = TypeVar("AnswerT")


class QueueFull(Miil21kError):
    """As many items are waiting as may wait, or the batcher takes no more."""


class ServedBatch(NamedTuple):
    """What is known of one batch: size, the seconds that each item waited, and the seconds that it took to compute."""

    size: int
    waits: list[float]
    seconds: float


class _Waiting(NamedTuple):
    item: object
    answer: Future[object]
    since: float


class Batcher(Generic[ItemT, AnswerT]):
    """Gathers items into batches for one function that runs in a thread of its own.

    compute: takes up to `max_batch` items and returns as many answers in their order; an exception in place of an
    answer is raised to the owner of that item alone, one that `compute` raises to all of the batch. max_wait: seconds
    that an item waits at most for items that are expected, or whose place is taken, but which are not there yet; when
    there are none, or `max_batch` items are there, nobody waits. capacity: items at most that have a place and are not
    being computed.
    observe: told about every batch, in that thread.
    """

    def __init__(
        self,
        compute: Callable[[list[ItemT]], Sequence[AnswerT | Exception]],
        *,
        max_batch: int,
        max_wait: float,
        capacity: int,
        observe: Callable[[ServedBatch], None] = lambda _: None,
    ) -> None:
        self._compute, self._observe = compute, observe
        self._max_batch, self._max_wait, self.capacity = max_batch, max_wait, capacity
        self._changed = threading.Condition()
        self._ready: deque[_Waiting] = deque()
        self._taken = 0  # places, those of the items that are ready included
        self._expected = 0  # items on their way that have no place yet
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="miil21k-batches")
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Items that have a place and are not being computed."""
        return self._taken

    @property
    def open(self) -> bool:
        """Whether there is room for one more item."""
        return not self._closed and self._taken < self.capacity

    @contextmanager
    def expecting(self) -> Iterator[None]:
        """While this context is open an item is on its way: others may wait for it, but it takes no place."""
        self._expect(1)
        try:
            yield
        finally:
            self._expect(-1)

    def _expect(self, count: int) -> None:
        with self._changed:
            self._expected += count
            self._changed.notify()

    def places(self) -> Places[ItemT, AnswerT]:
        """Return a context in which places are taken and used; what is unused at its end is free again."""
        return Places(self)

    def check(self, count: int) -> None:
        """Raise QueueFull when there are not that many places."""
        if self._closed:
            raise QueueFull("The server is stopping: ask another one.")
        if self._taken + count > self.capacity:
            raise QueueFull(f"{self._taken} of at most {self.capacity} images are waiting: try again.")

    def take(self, count: int) -> None:
        """Take places; raises QueueFull when there are not that many."""
        with self._changed:
            self.check(count)
            self._taken += count

    def give_back(self, count: int) -> None:
        """Free places that were taken and not used."""
        with self._changed:
            self._taken -= count
            self._changed.notify()

    def submit(self, item: ItemT) -> Future[AnswerT]:
        """Put `item` on a place that was taken, and return where its answer will be."""
        answer: Future[AnswerT] = Future()
        with self._changed:
            self._ready.append(_Waiting(item, answer, time.monotonic()))  # type: ignore[arg-type]
            self._changed.notify()
        return answer

    def close(self) -> None:
        """Take no more, answer what was submitted, and return when that is done."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def __enter__(self) -> Batcher[ItemT, AnswerT]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _work(self) -> None:
        while batch := self._next():
            self._answer([entry for entry in batch if entry.answer.set_running_or_notify_cancel()])

    def _next(self) -> list[_Waiting]:
        """Return the next batch; an empty one at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._closed)
            while self._is_worth_waiting():
                self._changed.wait(self._ready[0].since + self._max_wait - time.monotonic())
            batch = [self._ready.popleft() for _ in range(min(self._max_batch, len(self._ready)))]
            self._taken -= len(batch)
            return batch

    def _is_worth_waiting(self) -> bool:
        ready = len(self._ready)
        if self._closed or not 0 < ready < min(self._max_batch, self._taken + self._expected):
            return False
        return time.monotonic() < self._ready[0].since + self._max_wait

    def _answer(self, batch: list[_Waiting]) -> None:
        if not batch:
            return
        start = time.monotonic()
        try:
            answers = self._compute([entry.item for entry in batch])  # type: ignore[misc]
            if len(answers) != len(batch):
                raise RuntimeError(f"{len(answers)} answers for {len(batch)} items: nobody knows whose they are.")
            for entry, answer in zip(batch, answers, strict=True):
                if isinstance(answer, Exception):
                    entry.answer.set_exception(answer)
                else:
                    entry.answer.set_result(answer)
        except Exception as error:  # whatever it is, those who wait are told, and the next batch is computed
            for entry in batch:
                if not entry.answer.done():
                    entry.answer.set_exception(error)
        self._observe(ServedBatch(len(batch), [start - entry.since for entry in batch], time.monotonic() - start))


class Places(Generic[ItemT, AnswerT]):
    """The places of one caller, in one thread; leaving the context frees those that are left."""

    def __init__(self, batcher: Batcher[ItemT, AnswerT]) -> None:
        self._batcher = batcher
        self._left = 0

    def take(self, count: int = 1) -> None:
        """Take places; raises QueueFull when there are not that many."""
        self._batcher.take(count)
        self._left += count

    def give_back(self) -> None:
        """Free one place."""
        self._left -= 1
        self._batcher.give_back(1)

    def submit(self, item: ItemT) -> Future[AnswerT]:
        """Put `item` on one of the places, and return where its answer will be."""
        assert self._left > 0, "no place was taken for this item"
        self._left -= 1
        return self._batcher.submit(item)

    def __enter__(self) -> Places[ItemT, AnswerT]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._batcher.give_back(self._left)
        self._left = 0
