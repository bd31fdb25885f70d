"""Every item gets its own answer, whoever it shared a batch with, in any interleaving."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miil21k.serve.batching import Batcher, QueueFull, ServedBatch

if TYPE_CHECKING:
    from collections.abc import Iterator

FOREVER = 3600.0  # seconds; a test that waits this long has failed


class Gate:
    """A computation that doubles numbers, and does not begin before it is let through."""

    def __init__(self) -> None:
        self.reached = threading.Semaphore(0)
        self.through = threading.Semaphore(0)
        self.batches: list[list[int]] = []

    def __call__(self, items: list[int]) -> list[int]:
        self.batches.append(items)
        self.reached.release()
        assert self.through.acquire(timeout=600)
        return [2 * item for item in items]


@contextmanager
def gated(**options: Any) -> Iterator[tuple[Batcher[int, int], Gate]]:
    gate = Gate()
    with Batcher(gate, **{"max_batch": 4, "max_wait": 0.0, "capacity": 100} | options) as batcher:
        try:
            yield batcher, gate
        finally:
            for _ in range(100):
                gate.through.release()


def put(batcher: Batcher[int, int], *items: int) -> list[Future[int]]:
    with batcher.places() as places:
        places.take(len(items))
        return [places.submit(item) for item in items]


@given(
    clients=st.lists(st.lists(st.sampled_from(["good", "bad", "fatal", "none"]), max_size=5), max_size=6),
    max_batch=st.integers(1, 7),
    max_wait=st.sampled_from([0.0, 0.001]),
)
def test_every_item_gets_its_own_answer(clients: list[list[str]], max_batch: int, max_wait: float) -> None:
    """Bad items fail alone, fatal ones take their batch with them, and a place may be given back instead of used."""
    batches: list[list[tuple[int, str]]] = []
    seen: list[ServedBatch] = []

    def compute(items: list[tuple[int, str]]) -> list[Any]:
        batches.append(items)
        for number, kind in items:
            if kind == "fatal":
                raise RuntimeError(str(number))
        return [ValueError(number) if kind == "bad" else 10 * number for number, kind in items]

    numbers = iter(range(1000))
    plans = [[(next(numbers), kind) for kind in kinds] for kinds in clients]
    answers: dict[int, Future[int]] = {}
    with Batcher(compute, max_batch=max_batch, max_wait=max_wait, capacity=100, observe=seen.append) as batcher:

        def client(plan: list[tuple[int, str]]) -> None:
            with batcher.places() as places:
                places.take(len(plan))
                for number, kind in plan:
                    if kind == "none":
                        places.give_back()
                    else:
                        answers[number] = places.submit((number, kind))

        with ThreadPoolExecutor(len(plans) or 1) as threads:
            list(threads.map(client, plans))
    assert batcher.waiting == 0
    submitted = [item for plan in plans for item in plan if item[1] != "none"]
    assert sorted(item for batch in batches for item in batch) == submitted
    assert all(1 <= len(batch) <= max_batch for batch in batches)
    assert [(entry.size, len(entry.waits)) for entry in seen] == [(len(batch), len(batch)) for batch in batches]
    for batch in batches:
        fatal = [number for number, kind in batch if kind == "fatal"]
        for number, kind in batch:
            if fatal:
                with pytest.raises(RuntimeError, match=f"^{fatal[0]}$"):
                    answers[number].result(0)
            elif kind == "bad":
                with pytest.raises(ValueError, match=f"^{number}$"):
                    answers[number].result(0)
            else:
                assert answers[number].result(0) == 10 * number


def test_a_full_queue_refuses_and_computing_makes_room() -> None:
    with gated(max_batch=2, capacity=3) as (batcher, gate):
        put(batcher, 1)
        assert gate.reached.acquire(timeout=600)  # being computed: it waits no more
        with batcher.places() as places:
            places.take(3)
            assert (batcher.waiting, batcher.open) == (3, False)
            with pytest.raises(QueueFull, match="3 of at most 3 images are waiting"):
                put(batcher, 2)
            places.submit(3)
            places.submit(4)
        assert (batcher.waiting, batcher.open) == (2, True)  # the place that was not used is free again
        with pytest.raises(QueueFull):
            put(batcher, 5, 6)  # both or none
        assert batcher.waiting == 2
        gate.through.release()
        assert gate.reached.acquire(timeout=600)
        assert gate.batches == [[1], [3, 4]]
        assert batcher.waiting == 0


def test_what_comes_while_a_batch_is_computed_is_the_next_batch() -> None:
    with gated(max_batch=3) as (batcher, gate):
        first = put(batcher, 0)
        assert gate.reached.acquire(timeout=600)
        later = [answer for item in range(1, 6) for answer in put(batcher, item)]
        for _ in range(3):
            gate.through.release()
        assert [answer.result(120) for answer in first + later] == [0, 2, 4, 6, 8, 10]
        assert gate.batches == [[0], [1, 2, 3], [4, 5]]


def test_an_item_waits_for_those_on_their_way_and_for_nobody_else() -> None:
    with gated(max_wait=FOREVER) as (batcher, gate), batcher.places() as slow:
        for _ in range(3):
            gate.through.release()
        slow.take(1)
        quick = put(batcher, 1)
        assert not gate.reached.acquire(timeout=0.05)  # the slow one may still join
        joined = slow.submit(2)
        assert [quick[0].result(120), joined.result(120)] == [2, 4]
        slow.take(1)
        quick = put(batcher, 3)
        slow.give_back()  # it was no image
        assert quick[0].result(120) == 6
        assert put(batcher, 4)[0].result(120) == 8
        assert gate.batches == [[1, 2], [3], [4]]


def test_a_full_batch_waits_for_nobody_and_the_longest_wait_ends() -> None:
    with gated(max_batch=2, max_wait=FOREVER) as (batcher, gate), batcher.places() as slow:
        slow.take(1)
        gate.through.release()
        assert [answer.result(120) for answer in put(batcher, 1, 2)] == [2, 4]
    with gated(max_wait=0.001) as (batcher, gate), batcher.places() as slow:
        slow.take(1)
        gate.through.release()
        assert put(batcher, 1)[0].result(120) == 2


def test_closing_answers_what_was_submitted_and_takes_no_more() -> None:
    with gated(max_batch=1) as (batcher, gate):
        answers = put(batcher, 1, 2, 3)
        for _ in range(3):
            gate.through.release()
        batcher.close()
        assert [answer.result(0) for answer in answers] == [2, 4, 6]
        assert not batcher.open
        with pytest.raises(QueueFull, match="stopping"):
            put(batcher, 4)


def test_an_answer_that_nobody_wants_any_more_is_not_computed() -> None:
    with gated(max_batch=4) as (batcher, gate):
        put(batcher, 0)
        assert gate.reached.acquire(timeout=600)
        left, kept = put(batcher, 1, 2)
        assert left.cancel()
        gate.through.release()
        gate.through.release()
        assert kept.result(120) == 4
        assert gate.batches == [[0], [2]]
        with pytest.raises(CancelledError):
            left.result(0)


def test_a_computation_that_forgets_an_answer_is_told_to_all() -> None:
    with Batcher(lambda items: items[1:], max_batch=4, max_wait=0, capacity=4) as batcher:
        for answer in put(batcher, 1, 2):
            with pytest.raises(RuntimeError, match="nobody knows whose"):
                answer.result(120)
        with pytest.raises(RuntimeError, match="nobody knows whose"):  # and the next batch is computed
            put(batcher, 3)[0].result(120)
