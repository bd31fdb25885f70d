"""How fast the proved exports of one network run on this machine, measured by turns so that the rates compare."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING

import numpy as np

from miil21k.errors import Miil21kError
from miil21k.runtime.choose import open_proved
from miil21k.runtime.installed import machine
from miil21k.runtime.measured_rates import Rate, measuring, read_rates, write_rates
from miil21k.runtime.options import ComputeOptions, threads_of, workers_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from miil21k.runtime.base import Backend
    from miil21k.runtime.export_cache import ProvedExport
    from miil21k.store.cache import Cache

__all__ = ["compare_exports", "images_per_second"]

_BATCH = 16  # images per call, as the predictor has them on a CPU
_TURN = 1.0  # seconds; calls that would take longer have fewer images
_SECONDS = 2.0  # for each backend, once it is open
_LEAST_ROUNDS, _MOST_ROUNDS = 3, 12


def compare_exports(cache: Cache, exports: Sequence[ProvedExport], *, say: Callable[[str], None]) -> None:
    """Keep the rates of proved exports of one network, at least two, unless they are known for this machine.

    say: told the rates, or why there are none: that loses nothing but the choice between the exports.
    """
    if len(exports) < 2:
        return
    try:
        with measuring(cache):
            known = read_rates(cache, exports[0].graph, machine())
            runtimes = {found.graph.backend: found.graph.runtime for found in exports}
            if runtimes.items() <= {name: rate.runtime for name, rate in known.items()}.items():
                return
            say(f"timing the exports of {exports[0].graph.name} by turns, once")
            measured = images_per_second({found.graph.backend: _opened(found) for found in exports}, _size(exports[0]))
            rates = {name: Rate(runtimes[name], round(rate, 2)) for name, rate in measured.items()}
            write_rates(cache, exports[0].graph, machine(), rates)
    except (OSError, RuntimeError, MemoryError, Miil21kError) as error:
        say(f"the speed of the exports was not compared: {error}")
        return
    told = ", ".join(f"{name} {rate:.1f}" for name, rate in measured.items())
    say(f"images per second on this machine, network alone: {told}")


def images_per_second(backends: Mapping[str, Backend], input_size: tuple[int, int, int]) -> dict[str, float]:
    """Return how many images a second each backend computes in batches, with the default threads of a predictor.

    They take turns, and the best turn of each counts. It takes a few seconds for each, and longer only for networks
    that need a second for one image. input_size: (3, H, W). Raises what `run` raises.
    """
    options = ComputeOptions()
    callers = max(1, workers_of(options))
    pixels = np.random.default_rng(0).standard_normal((_BATCH, *input_size), np.float32)
    with ExitStack() as stack:
        for backend in backends.values():
            stack.enter_context(backend.threads(threads_of(options), callers))
        pool = stack.enter_context(ThreadPoolExecutor(callers))

        def turn(backend: Backend, images: int) -> float:
            began = time.perf_counter()
            list(pool.map(lambda _: backend.run(pixels[:images]), range(callers)))
            return time.perf_counter() - began

        for backend in backends.values():
            turn(backend, 1)  # opens it
        slowest = max(turn(backend, 1) for backend in backends.values())
        images = min(_BATCH, max(1, int(_TURN / slowest)))
        best = dict.fromkeys(backends, float("inf"))
        end = time.perf_counter() + _SECONDS * len(backends)
        for done in range(_MOST_ROUNDS):
            if done >= _LEAST_ROUNDS and time.perf_counter() >= end:
                break
            for name, backend in backends.items():
                best[name] = min(best[name], turn(backend, images))
    return {name: callers * images / seconds for name, seconds in best.items()}


def _opened(found: ProvedExport) -> Backend:
    return open_proved(found.model, found.record["num_classes"], _size(found), backend=found.graph.backend)


def _size(found: ProvedExport) -> tuple[int, int, int]:
    channels, height, width = found.graph.input_size
    return channels, height, width
