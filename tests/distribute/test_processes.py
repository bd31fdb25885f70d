"""Workers that die, fail and end: results come in order, and nobody else's job is lost."""

from __future__ import annotations

import multiprocessing
import os
from typing import TYPE_CHECKING

import pytest
from child_processes import wait_until
from engine_work import (
    die_at_three,
    die_once,
    die_twice,
    lack_a_package,
    leave_a_trace,
    process_of,
    refuse_two,
    square,
    threads_setting,
)

from miil21k.distribute.local import LocalEngine
from miil21k.distribute.processes import Lost
from miil21k.errors import EngineError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(os.name == "nt", reason="kills by signal")


def test_results_come_in_the_order_of_the_jobs_which_are_read_little_ahead() -> None:
    taken: list[int] = []

    def jobs() -> Iterator[int]:
        for number in range(40):
            taken.append(number)
            yield number

    for count, (job, result) in enumerate(LocalEngine(2).run_in_order(square, jobs())):
        assert (job, result) == (count, count * count)
        assert len(taken) <= count + 8
    assert len(taken) == 40


def test_a_worker_lives_as_long_as_the_run_on_one_thread_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [result for _, result in LocalEngine(2).run_in_order(process_of, range(12))]
    assert len(set(found)) == 2
    assert os.getpid() not in found
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert list(LocalEngine(1).run_in_order(threads_setting, [0])) == [(0, "1")]


def test_the_job_of_a_killed_worker_is_done_again(tmp_path: Path) -> None:
    jobs = [(number, str(tmp_path)) for number in range(6)]
    assert [result for _, result in LocalEngine(2).run_in_order(die_once, jobs)] == list(range(6))


def test_a_worker_that_dies_while_it_waits_is_not_counted_against_the_next_job(tmp_path: Path) -> None:
    def jobs() -> Iterator[tuple[int, str]]:
        yield 0, str(tmp_path)
        (waiting,) = multiprocessing.active_children()
        waiting.kill()
        wait_until(lambda: not multiprocessing.active_children())
        yield 1, str(tmp_path)

    (_, first), (_, second) = LocalEngine(1).run_in_order(die_twice, jobs())
    assert isinstance(second, int), second  # a third death would have been the last
    assert first != second


def test_a_job_that_kills_every_worker_is_given_up_and_the_others_are_done() -> None:
    found = dict(LocalEngine(2).run_in_order(die_at_three, range(7)))
    lost = found.pop(3)
    assert isinstance(lost, Lost)
    assert "'Killed', probably because memory ran out in each of 3 attempts" in lost.reason
    assert found == {number: number for number in range(7) if number != 3}


def test_results_come_as_they_are_ready_and_a_job_that_kills_ends_the_run() -> None:
    assert sorted(LocalEngine(2).run(square, range(20))) == [number * number for number in range(20)]
    found: list[int] = []
    with pytest.raises(
        EngineError, match=r"given up, the worker was ended by 'Killed'.* in each of 3 attempts: run the"
    ):
        found.extend(LocalEngine(2).run(die_at_three, range(7)))
    assert 3 not in found


def test_what_is_begun_when_the_jobs_fail_is_finished(tmp_path: Path) -> None:
    def jobs() -> Iterator[tuple[int, str]]:
        yield from ((number, str(tmp_path)) for number in range(2))
        raise UsageError("the source is cut")

    with pytest.raises(UsageError, match="the source is cut"):
        list(LocalEngine(2).run(leave_a_trace, jobs()))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1"]


def test_an_exception_is_raised_in_its_turn() -> None:
    results = LocalEngine(2).run_in_order(refuse_two, range(9))
    assert [next(results), next(results)] == [(0, 0), (1, 1)]
    with pytest.raises(UsageError, match="two is refused"):
        next(results)


def test_an_exception_that_pickle_cannot_carry_still_says_what_happened() -> None:
    with pytest.raises(EngineError, match=r"MissingExtra: .*left-pad"):
        list(LocalEngine(1).run_in_order(lack_a_package, [0]))
