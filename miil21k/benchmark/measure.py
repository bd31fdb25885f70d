"""Figures of one network in one process: latency, images per second, the largest batch, memory."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from miil21k.benchmark.contestants import Entry
    from miil21k.benchmark.options import BenchmarkOptions
    from miil21k.runtime.base import Backend

__all__ = ["Latency", "latency", "measure_answers", "peak_memory", "refuses", "try_batches"]

WARM_UP = 3
LEAST_CALLS, LEAST_REPEATS = 10, 3
_NO_MEMORY = ("out of memory", "allocate memory", "bad_alloc", "bad allocation")


class Latency(NamedTuple):
    """Milliseconds of a call: half, and 95 of a hundred, take no longer. calls: how many were timed."""

    median: float
    p95: float
    calls: int


def latency(call: Callable[[], object], seconds: float) -> Latency:
    """Return how long calls take, one after the other, once warm: at least ten of them, and for so many seconds."""
    for _ in range(WARM_UP):
        call()
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while len(taken) < LEAST_CALLS or time.perf_counter() < end:
        began = time.perf_counter()
        call()
        taken.append(1000 * (time.perf_counter() - began))
    return Latency(float(np.median(taken)), float(np.percentile(taken, 95)), len(taken))


def images_per_second(call: Callable[[], object], batch: int, seconds: float) -> float:
    """Return the median rate of warm calls, each over `batch` images: at least three, and for so many seconds."""
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while len(taken) < LEAST_REPEATS or time.perf_counter() < end:
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    return batch / float(np.median(taken))


class Batches(NamedTuple):
    """largest: the largest batch that went through; 0 for none. bound: why no larger one was: `memory` or `option`.

    rate: images per second at `batch`, where they are highest.
    """

    largest: int
    bound: str
    batch: int
    rate: float


def try_batches(
    prepare: Callable[[int], Callable[[], object]], most: int, seconds: float, *, first: int = 1
) -> Iterator[Batches]:
    """Yield what is known after each batch: `first` images, twice as many, and so on, until memory refuses.

    prepare: returns a call over so many images. most: the largest batch that is tried. The last value has the rate
    measured anew, with repeats, where it was highest.
    """
    best, rate, batch, largest = 0, 0.0, first, 0
    while batch <= most:
        try:
            call = prepare(batch)
            call()
            began = time.perf_counter()
            call()
            found = batch / (time.perf_counter() - began)
        except Exception as error:  # each library has its own way to say so
            if not refuses(error):
                raise
            yield Batches(largest, "memory", best, rate)
            break
        largest = batch
        if found > rate:
            best, rate = batch, found
        yield Batches(largest, "option", best, rate)
        batch *= 2
    if best:
        bound = "option" if batch > most else "memory"
        try:
            yield Batches(largest, bound, best, images_per_second(prepare(best), best, seconds))
        except Exception as error:  # memory lies in pieces after a refusal: the rate of one call stands
            if not refuses(error):
                raise


def refuses(error: BaseException) -> bool:
    """Return whether an error says that there is not enough memory, in the words of whichever library."""
    words = str(error).lower()
    return isinstance(error, MemoryError) or any(said in words for said in _NO_MEMORY)


def peak_memory(device: str) -> float | None:
    """Return the most MiB that this process has held: of the GPU's memory for `cuda`, else of the machine's.

    None where nobody tells.
    """
    if device.startswith("cuda"):
        torch = sys.modules.get("torch")  # where another library has the GPU, nobody tells
        return None if torch is None else float(torch.cuda.max_memory_allocated(device) / 2**20)
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return _resident()
    line = next((line for line in status.splitlines() if line.startswith("VmHWM:")), None)
    return None if line is None else int(line.split()[1]) / 1024


def _resident() -> float | None:
    if sys.platform == "win32":
        return None
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


def measure_answers(entry: Entry, options: BenchmarkOptions) -> Iterator[dict[str, Any]]:
    """Yield figures of answering as they become known; what comes later adds to what came before, or replaces it."""
    backend = entry.start(options.load)
    yield {"device": backend.device, "threads": options.threads if backend.device == "cpu" else None}
    with backend.threads(options.threads, 1):
        single = _pass(backend, entry.input_size, 1)
        taken = latency(single, options.lasts)
        yield {
            "latency_ms": round(taken.median, 3),
            "latency_p95_ms": round(taken.p95, 3),
            "memory_mib": _rounded(peak_memory(backend.device)),
        }
        if not options.batches:
            return
        for found in try_batches(
            lambda batch: _pass(backend, entry.input_size, batch), options.most(backend.device), options.lasts
        ):
            yield {
                "largest_batch": found.largest,
                "largest_batch_bound": found.bound,
                "images_per_second": round(found.rate, 2),
                "batch": found.batch,
                "batch_memory_mib": _rounded(peak_memory(backend.device)),
            }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)


def _pass(backend: Backend, input_size: tuple[int, int, int], batch: int) -> Callable[[], object]:
    """Return a forward pass over noise."""
    generator = np.random.default_rng(0)
    if backend.normalises:
        pixels = np.repeat(generator.integers(0, 256, (1, *input_size[1:], 3), np.uint8), batch, 0)
    else:
        pixels = np.repeat(generator.standard_normal((1, *input_size), np.float32), batch, 0)
    return lambda: backend.run(pixels)
