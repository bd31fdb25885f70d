"""Speed and memory of models, by runtime and precision: a row for each, whatever happens to it.

Each is measured in a process of its own, so that the memory is its own, and a system that ends processes which take
too much ends a row and not the run.
"""

from __future__ import annotations

import multiprocessing
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from miil21k.benchmark.contestants import NotHere, Roster
from miil21k.benchmark.measure import measure_answers
from miil21k.environment import available_cpus
from miil21k.errors import Miil21kError
from miil21k.runtime.machine import machine
from miil21k.runtime.registry import RUNTIMES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from multiprocessing.connection import Connection

    from miil21k.benchmark.contestants import Contestant, Entry
    from miil21k.benchmark.options import BenchmarkOptions
    from miil21k.runtime.options import Dtype
    from miil21k.runtime.resolve import Make

__all__ = ["FIELDS", "benchmark", "measure_row", "warn_if_busy"]

# What a row says, in the order of a table's columns; what does not apply is None.
FIELDS = {
    "model": "its name",
    "runtime": "what computes",
    "dtype": "precision",
    "status": "ok; skipped, where there is no such thing here; failed",
    "reason": "why, where it is not ok, or training was left out",
    "device": "where it answers",
    "input_size": "edge of the input in pixels",
    "parameters": "of the network",
    "latency_ms": "median time of a forward pass over one image",
    "latency_p95_ms": "what 95 of 100 of them do not exceed",
    "memory_mib": "most memory held with one image: of the process, or on the GPU",
    "images_per_second": "median rate at the best batch",
    "batch": "that batch",
    "batch_memory_mib": "most memory held with batches",
    "largest_batch": "that went through",
    "largest_batch_bound": "memory: twice as many were refused; option: no more were tried",
    "training_device": "where it trains",
    "training_images_per_second": "median rate of training steps at the best batch",
    "training_batch": "that batch",
    "training_memory_mib": "most memory held in training",
    "largest_training_batch": "that went through",
    "largest_training_batch_bound": "as above",
    "threads": "on a CPU",
    "library": "the runtime and its version",
    "machine": "processor and CPUs",
    "load": "processes that ran or waited in the minute before; above the CPUs, times are too long",
}


def _silent(_: object) -> None:
    return None


def _load() -> float | None:
    return round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None


def warn_if_busy(say: Callable[[str], None]) -> None:
    """Say so where other work will make everything look slower than it is."""
    load, cpus = _load(), available_cpus()
    if load is not None and load > cpus:
        say(f"The machine is busy (load {load:g} on {cpus} CPUs): times will be too long")


def benchmark(
    contestants: Sequence[Contestant],
    options: BenchmarkOptions,
    *,
    make: Make | None = None,
    say: Callable[[str], None] = _silent,
    known: Callable[[str, str, str], bool] = lambda _model, _runtime, _dtype: False,
) -> Iterator[dict[str, Any]]:
    """Yield a row of `FIELDS` for each model, runtime and precision, in this order.

    make: makes an export that the cache lacks (see `resolve`). known: tells which rows are there already and are left
    out.
    """
    warn_if_busy(say)
    for contestant in contestants:
        roster = Roster(contestant, options, make)
        for runtime in options.libraries:
            for dtype in options.dtypes:
                if not known(contestant.name, runtime, dtype):
                    say(f"{contestant.name} in {RUNTIMES[runtime].title}, {dtype}")
                    yield measure_row(roster, runtime, dtype)


def measure_row(roster: Roster, runtime: str, dtype: Dtype, *, apart: bool = True) -> dict[str, Any]:
    """Return the row of one model in one runtime and precision. apart: in processes of its own."""
    options = roster.options
    row: dict[str, Any] = dict.fromkeys(FIELDS)
    row |= {"model": roster.contestant.name, "runtime": runtime, "dtype": dtype, "status": "ok"}
    row |= {"library": RUNTIMES[runtime].library(), "machine": machine(), "load": _load()}
    try:
        entry = roster.entry(runtime, dtype)
    except NotHere as error:
        return row | {"status": "skipped", "reason": str(error)}
    except Miil21kError as error:
        return row | {"status": "failed", "reason": str(error)}
    row |= {"input_size": entry.input_size[1], "parameters": entry.parameters}
    reason = _add(row, "answers", entry, options, apart=apart)
    if reason is not None:
        return row | {"status": "failed", "reason": reason}
    if options.training and options.batches and RUNTIMES[runtime].runs == "network":
        reason = _add(row, "training", entry, options, apart=apart)
        row["reason"] = None if reason is None else f"training: {reason}"
    return row


def _answers(entry: Entry, options: BenchmarkOptions) -> Iterable[dict[str, Any]]:
    return measure_answers(entry, options)


def _training(entry: Entry, options: BenchmarkOptions) -> Iterable[dict[str, Any]]:
    from miil21k.benchmark.training import measure_training  # which imports torch, and exports do without

    return measure_training(entry, options)


KINDS: dict[str, Callable[[Entry, BenchmarkOptions], Iterable[dict[str, Any]]]] = {
    "answers": _answers,
    "training": _training,
}
# What a process that was ended in the middle has proved: the batch before was the largest one.
_LARGEST = {"answers": "largest_batch", "training": "largest_training_batch"}


def _add(row: dict[str, Any], kind: str, entry: Entry, options: BenchmarkOptions, *, apart: bool) -> str | None:
    """Add the figures to the row; return why they are missing, or None."""
    if not apart:
        try:
            for figures in KINDS[kind](entry, options):
                row |= figures
        except (Miil21kError, RuntimeError, MemoryError) as error:
            return str(error)
        return None
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(theirs, kind, entry, options), daemon=True)
    process.start()
    theirs.close()
    reason: str | None = "ended without a word"
    try:
        while True:
            message = ours.recv()
            if isinstance(message, dict):
                row |= message
            else:
                reason = message
                break
    except EOFError:  # the system ended it, as it does where memory runs out
        process.join()
        if row[_LARGEST[kind]]:
            row[f"{_LARGEST[kind]}_bound"] = "memory"
            reason = None
        else:
            reason = f"its process was ended from outside (exit code {process.exitcode}): not enough memory?"
    finally:
        with suppress(OSError):
            ours.close()
        if process.is_alive() and reason == "ended without a word":
            process.terminate()  # we were interrupted
        process.join()
    return reason


def _work(pipe: Connection, kind: str, entry: Entry, options: BenchmarkOptions) -> None:
    """Send figures as they become known, then None, or why there are no more."""
    try:
        for figures in KINDS[kind](entry, options):
            pipe.send(figures)
    except Exception as error:  # whatever a library raises is one row's failure
        pipe.send(str(error) or type(error).__name__)
    else:
        pipe.send(None)
    finally:
        pipe.close()
