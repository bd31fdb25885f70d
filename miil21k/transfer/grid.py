"""How much a pretraining forgives: fine-tuning over a grid of optimizer, learning rate and weight decay.

Source: the grid of ImageNet-21K-P (Ridnik et al. 2021, `Transfer_learning.md`): Adam, AdamW and SGD at learning rates
about 2e-4 and two weight decays. How far a point lies below the best one of the same weights is what it loses.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from miil21k.benchmark.contestants import read_contestants
from miil21k.errors import Miil21kError, UsageError
from miil21k.files import Lock, replace_file
from miil21k.transfer.bench import Bench, facts_of
from miil21k.transfer.dataset import open_data, taken
from miil21k.transfer.job import finetune_recipe
from miil21k.transfer.network import fine_tune, network_logits
from miil21k.transfer.pictures import draw_grid
from miil21k.transfer.rows import Rows

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from miil21k.benchmark.contestants import Contestant
    from miil21k.runtime.resolve import Make
    from miil21k.train.loop import Report
    from miil21k.transfer.options import GridOptions

__all__ = ["falls", "run_grid"]

TABLE, PICTURE, LOCK = "grid.json", "grid.png", ".grid.lock"
POINT = ("optimizer", "lr", "weight_decay")
EPOCHS = 10


def _silent(_: object) -> None:
    return None


def run_grid(
    options: GridOptions,
    folder: Path,
    *,
    say: Callable[[str], None] = _silent,
    report: Callable[[Report], None] = _silent,
    make: Make | None = None,
    resume: bool = False,
) -> dict[str, Any]:
    """Return a row for each point and model, and how far each model falls from its best point.

    A row has `model`, `optimizer`, `lr`, `weight_decay`, `status` (`ok`; `diverged`, with `reason` and without an
    accuracy; `failed`), `accuracy`, `num_test` and `seconds`. Every point is trained from the model's weights with a
    new head, for as many epochs, on the same images. folder: gets `runs.jsonl` (a line per point as it is done),
    `grid.json` and `grid.png`; with `resume`, only what is missing or failed is done.
    Raises what opening data and models does.
    """
    contestants = read_contestants(options.models, random=True)
    data = open_data(options.settings)
    points = list(product(options.optimizers, options.lrs, options.weight_decays))
    epochs = options.settings.epochs or EPOCHS
    busy = f"Another process works in '{folder}': wait for its end, or choose another -o."
    with Lock(folder / LOCK, busy=busy, keep=False):
        facts = facts_of(options.settings, data) | {"epochs": epochs}
        facts |= {"flip": options.settings.flip, "crop": options.settings.cut}
        rows = Rows(folder, facts, ("model", *POINT), resume=resume, again=lambda row: row["status"] == "failed")
        for contestant in contestants:
            todo = [point for point in points if (contestant.name, *point) not in rows]
            if not todo:
                continue
            bench = Bench.of(contestant, options.settings, data, folder, make)
            for number, point in enumerate(todo, 1):
                row = _trained(contestant, bench, dict(zip(POINT, point, strict=True)), epochs, report)
                rows.add(row)
                shown = row["status"] if row["accuracy"] is None else f"{row['accuracy']:.1%}"
                said = f"{point[0]}, lr {point[1]:g}, weight decay {point[2]:g}: {shown}"
                say(f"{contestant.name}, {number} of {len(todo)}, {said} ({row['seconds']:.0f} s)")
        chosen = [rows.done[(contestant.name, *point)] for contestant in contestants for point in points]
        found = {"rows": chosen, "models": falls(chosen)}
        replace_file(folder / TABLE, json.dumps(found, indent=1) + "\n")
        draw_grid(chosen, folder / PICTURE)
    return found


def _trained(
    contestant: Contestant, bench: Bench, point: dict[str, Any], epochs: int, report: Callable[[Report], None]
) -> dict[str, Any]:
    """Return the row of a point."""
    began = time.monotonic()
    word = "-".join(f"{value}" for value in point.values())
    kind = "random" if contestant.random else "trained"
    job = replace(bench.job(bench.everything, f"{kind}-{word}", bench.settings.seed), report=report)
    row: dict[str, Any] = {"model": contestant.name, **point, "status": "ok", "reason": None, "accuracy": None}
    try:
        recipe = finetune_recipe(job, epochs, **point, layer_decay=1.0, pretrained=not contestant.random)
        options = replace(job.options, checkpoint=None) if contestant.random else job.options
        path = fine_tune(job.images, recipe, contestant.model, job.folder, options, name="grid", report=report)
        test = bench.data.images if bench.data.test is None else bench.data.test
        logits = network_logits(path, taken(test, bench.judged.indices), job.options)
        row["accuracy"] = float((logits.argmax(1) == bench.judged.labels).mean())
    except UsageError as error:
        row |= {"status": "failed", "reason": str(error)}
    except Miil21kError as error:  # a loss that is no number
        row |= {"status": "diverged", "reason": str(error)}
    shutil.rmtree(job.folder, ignore_errors=True)
    return row | {"num_test": len(bench.judged), "seconds": round(time.monotonic() - began, 1)}


def falls(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row per model: the best point and its accuracy, the median and the worst fall from it, and failures.

    A point that diverged has an accuracy of 0. One that failed is left out, and counted.
    """
    found = []
    for model in dict.fromkeys(row["model"] for row in rows):
        own = [row for row in rows if row["model"] == model and row["status"] != "failed"]
        count = {"failed": sum(row["model"] == model and row["status"] == "failed" for row in rows)}
        if not any(row["accuracy"] is not None for row in own):
            nothing = dict.fromkeys(("best", "point", "median_fall", "worst_fall"))
            found.append({"model": model, **nothing, "diverged": len(own), **count})
            continue
        best = max(own, key=lambda row: row["accuracy"] or 0.0)
        fall = np.array([best["accuracy"] - (row["accuracy"] or 0.0) for row in own])
        found.append(
            {
                "model": model,
                "best": best["accuracy"],
                "point": {name: best[name] for name in POINT},
                "median_fall": float(np.median(fall)),
                "worst_fall": float(fall.max()),
                "diverged": sum(row["status"] == "diverged" for row in own),
                **count,
            }
        )
    return found
