"""The few-shot protocol of BiT: k images of each class, several random subsets, median and spread, a row per run.

Source: Kolesnikov et al. 2020, section 3.3: k examples per class, five random subsets, the median is reported.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from miil21k.benchmark.contestants import read_contestants
from miil21k.errors import Miil21kError, UsageError
from miil21k.files import Lock, replace_file
from miil21k.options import check, described, option
from miil21k.transfer.bench import Bench, facts_of
from miil21k.transfer.dataset import open_data
from miil21k.transfer.options import TransferOptions
from miil21k.transfer.pictures import draw_shots
from miil21k.transfer.probes import PROBES
from miil21k.transfer.rows import Rows
from miil21k.transfer.split import balanced_subset

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from miil21k.benchmark.contestants import Contestant
    from miil21k.runtime.resolve import Make
    from miil21k.transfer.dataset import TransferData

__all__ = ["FewShotOptions", "few_shot", "medians"]

TABLE, CURVE, LOCK = "medians.json", "curve.png", ".fewshot.lock"
TRAINED = ("finetune", "hyperrule")  # methods of `METHODS` that train the network anew for every subset


@described
@dataclass(frozen=True)
class FewShotOptions:
    """What is compared with how many images.

    models: names of the zoo or of timm, checkpoints, or NAME=FILE. methods: probes (`PROBES`), or `finetune` and
    `hyperrule`.
    """

    models: tuple[str, ...] = ("embedded",)
    methods: tuple[str, ...] = ("logistic",)
    shots: tuple[int, ...] = (1, 5, 10, 25)
    seeds: int = option(5, "random subsets of each size", metavar="N", least=1)
    settings: TransferOptions = field(default_factory=TransferOptions)

    def __post_init__(self) -> None:
        check(self)
        for name in self.methods:
            if name not in PROBES and name not in TRAINED:
                known = ", ".join((*PROBES, *TRAINED))
                raise UsageError(f"No method '{name}' of the few-shot protocol. There are {known}.")
        if not self.shots or min(self.shots) < 1:
            raise UsageError("Shots are whole numbers from 1 on.")


def few_shot(
    options: FewShotOptions,
    folder: Path,
    *,
    say: Callable[[str], None] = lambda _: None,
    make: Make | None = None,
    resume: bool = False,
) -> list[dict[str, Any]]:
    """Return a row per model, method and number of shots: median, lowest and highest accuracy, and how many runs.

    All models see the same subsets and are judged on the same images: those of `settings.test` or of a part of the
    data, else a share that is held out. folder: gets `runs.jsonl` (a line per run: model, method, shots, seed,
    accuracy, images judged by, strength, seconds), `medians.json` and `curve.png`; with `resume`, runs whose
    line is there are not repeated. A run that fails is a line with its error.
    Raises UsageError for fewer images than shots in every class, and what opening data and models does.
    """
    data = open_data(options.settings)
    most = int(np.bincount(data.images.labels).max())
    usable = tuple(k for k in options.shots if k <= most)
    if not usable:
        raise UsageError(f"No class has {min(options.shots)} images; the largest has {most}.")
    for shots in sorted(set(options.shots) - set(usable)):
        say(f"No class has {shots} images: left out")
    busy = f"Another process works in '{folder}': wait for its end, or choose another -o."
    with Lock(folder / LOCK, busy=busy, keep=False):
        training = {name: getattr(options.settings, name) for name in ("epochs", "rule_batch", "flip", "cut")}
        facts = facts_of(options.settings, data) | training
        runs = Rows(folder, facts, ("model", "method", "shots", "seed"), resume=resume)
        for contestant in read_contestants(options.models):
            _of_model(contestant, replace(options, shots=usable), data, folder, runs, say, make)
        rows = medians(list(runs.done.values()))
        replace_file(folder / TABLE, json.dumps(rows, indent=1) + "\n")
        curves: dict[str, list[tuple[int, float, float, float]]] = {}
        for row in rows:
            point = (row["shots"], row["median"], row["lowest"], row["highest"])
            curves.setdefault(f"{row['model']}, {row['method']}", []).append(point)
        draw_shots(curves, folder / CURVE)
    return rows


def _of_model(
    contestant: Contestant,
    options: FewShotOptions,
    data: TransferData,
    folder: Path,
    rows: Rows,
    say: Callable[[str], None],
    make: Make | None,
) -> None:
    """Do the runs of one model that are not done yet."""
    model = contestant.name
    wanted = [
        (name, shots, seed) for name in options.methods for shots in options.shots for seed in range(options.seeds)
    ]
    todo = [(name, shots, seed) for name, shots, seed in wanted if (model, name, shots, seed) not in rows]
    if not todo:
        return
    bench = Bench.of(contestant, options.settings, data, folder, make)
    say(f"{model}: {len(bench.pool):,} images to draw from, {len(bench.judged):,} to judge by, {len(todo)} runs")
    for name, shots, seed in todo:
        began = time.monotonic()
        row: dict[str, Any] = {"model": model, "method": name, "shots": shots, "seed": seed}
        chosen = balanced_subset(bench.pool.labels, shots, options.settings.seed + seed)
        try:
            logits, strength = bench.answers(name, chosen, f"{name}-{shots}-{seed}", options.settings.seed + seed)
            row |= {"train": len(chosen), "judged": len(bench.judged)}
            row |= {} if strength is None else {"strength": strength}
            row["accuracy"] = float((logits.argmax(1) == bench.judged.labels).mean())
        except Miil21kError as error:
            row |= {"accuracy": None, "error": str(error)}
        row["seconds"] = round(time.monotonic() - began, 2)
        rows.add(row)
        shown = "failed" if row["accuracy"] is None else f"{row['accuracy']:.1%}"
        say(f"{model}, {name}, {shots} a class, subset {seed + 1}: {shown} ({row['seconds']:.1f} s)")


def medians(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row per model, method and shots: the median, lowest and highest accuracy, runs, and runs that failed."""
    groups: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["model"], row["method"], row["shots"]), []).append(row)
    found = []
    for (model, name, shots), runs in groups.items():
        accuracies = [run["accuracy"] for run in runs if run["accuracy"] is not None]
        if accuracies:
            found.append(
                {
                    "model": model,
                    "method": name,
                    "shots": shots,
                    "median": float(np.median(accuracies)),
                    "lowest": min(accuracies),
                    "highest": max(accuracies),
                    "runs": len(accuracies),
                    "failed": len(runs) - len(accuracies),
                }
            )
    return sorted(found, key=lambda row: (row["model"], row["method"], row["shots"]))
