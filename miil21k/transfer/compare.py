"""Which model serves my images within my time: accuracy against latency, both measured here."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from miil21k.benchmark.contestants import Roster, read_contestants
from miil21k.benchmark.run import measure_row, warn_if_busy
from miil21k.errors import Miil21kError
from miil21k.files import Lock, replace_file
from miil21k.metrics.shares import wilson_interval
from miil21k.runtime.registry import RUNTIMES
from miil21k.transfer.bench import Bench, facts_of
from miil21k.transfer.dataset import open_data
from miil21k.transfer.pictures import draw_front
from miil21k.transfer.rows import Rows

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from miil21k.benchmark.contestants import Contestant
    from miil21k.runtime.options import Dtype
    from miil21k.runtime.resolve import Make
    from miil21k.transfer.dataset import TransferData
    from miil21k.transfer.options import CompareOptions

__all__ = ["best_within", "compare_models", "pareto_front"]

TABLE, PICTURE, ACCURACIES, LOCK = "compare.json", "compare.png", "accuracies.jsonl", ".compare.lock"


def _silent(_: object) -> None:
    return None


def compare_models(
    options: CompareOptions,
    folder: Path,
    *,
    say: Callable[[str], None] = _silent,
    make: Make | None = None,
    resume: bool = False,
    apart: bool = True,
) -> dict[str, Any]:
    """Return a row for each model, runtime and precision, with those on the Pareto front marked, and the best one.

    A row has the fields of `miil21k.benchmark.run.FIELDS`, `accuracy` with its 95 % band, `num_test` and `front`.
    Accuracy is measured once for each model and precision, by `options.method`, all models on the same images. folder:
    gets `runs.jsonl` (a line per row as it is done), `compare.json` (what is returned: `rows`, `best`, `budget_ms`)
    and `compare.png`; with `resume`, only what is missing or failed is measured. apart: see `measure_row`.
    Raises what opening data does; what fails of one model is a row.
    """
    contestants = read_contestants(options.models)
    data = open_data(options.settings)
    busy = f"Another process works in '{folder}': wait for its end, or choose another -o."
    with Lock(folder / LOCK, busy=busy, keep=False):
        warn_if_busy(say)
        facts = facts_of(options.settings, data) | {"method": options.method}
        rows = Rows(folder, facts, ("model", "runtime", "dtype"), resume=resume, again=_again)
        known = Rows(folder, facts, ("model", "dtype"), resume=True, name=ACCURACIES)
        for contestant in contestants:
            roster = Roster(contestant, options.speed, make)
            for dtype in options.speed.dtypes:
                todo = [name for name in options.speed.libraries if (contestant.name, name, dtype) not in rows]
                if not todo:
                    continue
                accuracy = _accuracy(contestant, dtype, options, data, folder, known, say, make)
                for runtime in todo:
                    say(f"{contestant.name} in {RUNTIMES[runtime].title}, {dtype}: speed")
                    row = measure_row(roster, runtime, dtype, apart=apart)
                    if row["status"] == "ok" and accuracy.get("error") is not None:
                        row |= {"status": "failed", "reason": accuracy["error"]}
                    rows.add(row | {name: accuracy.get(name) for name in _JUDGED})
        names = [contestant.name for contestant in contestants]
        chosen = [row for row in rows.done.values() if row["model"] in names and row["dtype"] in options.speed.dtypes]
        chosen = [row for row in chosen if row["runtime"] in options.speed.libraries]
        front = pareto_front(chosen)
        for row in chosen:
            row["front"] = row in front
        best = best_within(chosen, options.budget)
        found = {"rows": chosen, "best": best, "budget_ms": options.budget, "method": options.method}
        replace_file(folder / TABLE, json.dumps(found, indent=1) + "\n")
        if front:
            draw_front(chosen, folder / PICTURE, budget=options.budget, best=best)
    return found


_JUDGED = ("accuracy", "accuracy_low", "accuracy_high", "num_test")


def _again(row: Mapping[str, Any]) -> bool:
    """Return whether a row is tried again: what failed may have been mended, what was missing installed."""
    return bool(row["status"] != "ok")


def _accuracy(
    contestant: Contestant,
    dtype: Dtype,
    options: CompareOptions,
    data: TransferData,
    folder: Path,
    known: Rows,
    say: Callable[[str], None],
    make: Make | None,
) -> dict[str, Any]:
    """Return accuracy, band and number of images, or the error."""
    kept = known.done.get((contestant.name, dtype))
    if kept is not None:
        return kept
    try:
        settings = replace(options.settings, dtype=dtype)
        bench = Bench.of(contestant, settings, data, folder, make)
        new = bench.pool.computed
        say(f"{contestant.name}, {dtype}: {new:,} features in {bench.pool.seconds:.0f} s; learning from them")
        logits, _ = bench.answers(options.method, bench.everything, f"{options.method}-{dtype}", options.settings.seed)
    except (Miil21kError, RuntimeError) as error:
        say(f"{contestant.name}, {dtype}: {error}")
        return {"error": str(error)}
    right = float((logits.argmax(1) == bench.judged.labels).mean())
    low, high = wilson_interval(right, len(bench.judged))
    row = {
        "model": contestant.name,
        "dtype": dtype,
        "accuracy": right,
        "accuracy_low": float(low),
        "accuracy_high": min(1.0, float(high)),
        "num_test": len(bench.judged),
    }
    known.add(row)
    say(f"{contestant.name}, {dtype}: {right:.1%} of {len(bench.judged):,} images are right")
    return row


def pareto_front(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows that no other one beats: every faster one is right less often. Fastest first."""
    front: list[dict[str, Any]] = []
    usable = [row for row in rows if row["status"] == "ok"]
    for row in sorted(usable, key=lambda row: (row["latency_ms"], -row["accuracy"])):
        if not front or row["accuracy"] > front[-1]["accuracy"]:
            front.append(row)
    return front


def best_within(rows: Sequence[dict[str, Any]], budget: float | None) -> dict[str, Any] | None:
    """Return the row that is right most often among those that take at most `budget` ms; None where none does."""
    front = [row for row in pareto_front(rows) if budget is None or row["latency_ms"] <= budget]
    return front[-1] if front else None
