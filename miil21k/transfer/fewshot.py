"""The few-shot protocol of BiT: k images of each class, several random subsets, median and spread, a row per run.

Source: Kolesnikov et al. 2020, section 3.3: k examples per class, five random subsets, the median is reported.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from miil21k.errors import Miil21kError, UsageError
from miil21k.files import Lock, replace_file
from miil21k.options import check, described, option
from miil21k.records import StrictJsonError, parse
from miil21k.train.job import digest_of
from miil21k.transfer.dataset import open_data, taken
from miil21k.transfer.features import Extractor
from miil21k.transfer.job import Job
from miil21k.transfer.methods import method
from miil21k.transfer.options import TransferOptions
from miil21k.transfer.pictures import draw_shots
from miil21k.transfer.probes import PROBES
from miil21k.transfer.split import balanced_subset, hold_out, near_copies, same_bytes
from miil21k.transfer.strength import fit_probe

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from miil21k.runtime.resolve import Make
    from miil21k.transfer.dataset import TransferData
    from miil21k.transfer.features import Features

__all__ = ["FewShotOptions", "few_shot", "medians"]

ROWS, TABLE, CURVE, CONFIG, LOCK = "runs.jsonl", "medians.json", "curve.png", "config.json", ".fewshot.lock"
TRAINED = ("finetune", "hyperrule")  # methods of `METHODS` that train the network anew for every subset


@described
@dataclass(frozen=True)
class FewShotOptions:
    """What is compared with how many images.

    models: names of the zoo or of timm, or checkpoints. methods: probes (`PROBES`), or `finetune` and `hyperrule`.
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
        done = _own(folder, options, data, resume=resume)
        for model in options.models:
            _of_model(model, replace(options, shots=usable), data, folder, done, say, make)
        rows = medians(list(done.values()))
        replace_file(folder / TABLE, json.dumps(rows, indent=1) + "\n")
        curves: dict[str, list[tuple[int, float, float, float]]] = {}
        for row in rows:
            point = (row["shots"], row["median"], row["lowest"], row["highest"])
            curves.setdefault(f"{row['model']}, {row['method']}", []).append(point)
        draw_shots(curves, folder / CURVE)
    return rows


Key = tuple[str, str, int, int]


def _own(folder: Path, options: FewShotOptions, data: TransferData, *, resume: bool) -> dict[Key, dict[str, Any]]:
    """Return the runs that were done already, by model, method, shots and seed."""
    settings = options.settings
    facts = {
        "images": digest_of(data.images),
        "test": None if data.test is None else digest_of(data.test),
        "seed": settings.seed,
        "holdout": settings.holdout,
        "img_size": settings.img_size,
    }
    path, rows = folder / CONFIG, folder / ROWS
    if path.exists() and rows.exists():
        if not resume:
            raise UsageError(f"'{folder}' holds runs already: go on with --resume, or choose another -o.")
        if parse(path.read_text(encoding="utf-8"), dict) != facts:
            raise UsageError(f"The runs in '{folder}' are of other images or another split: choose another -o.")
    else:
        replace_file(path, json.dumps(facts, indent=2) + "\n", parents=True)
        replace_file(rows, "")
    found: dict[Key, dict[str, Any]] = {}
    whole, _, _ = rows.read_bytes().rpartition(b"\n")  # a kill may cut the last line short
    try:
        for row in (parse(line, dict) for line in whole.splitlines()):
            found[row["model"], row["method"], row["shots"], row["seed"]] = row
    except (StrictJsonError, KeyError):
        raise UsageError(f"'{rows}' is damaged: remove it, or choose another -o.") from None
    replace_file(rows, "".join(json.dumps(row) + "\n" for row in found.values()))
    return found


def _of_model(
    model: str,
    options: FewShotOptions,
    data: TransferData,
    folder: Path,
    done: dict[Key, dict[str, Any]],
    say: Callable[[str], None],
    make: Make | None,
) -> None:
    """Do the runs of one model that are not done yet, and add them to `done` and to the file."""
    wanted = [
        (name, shots, seed) for name in options.methods for shots in options.shots for seed in range(options.seeds)
    ]
    todo = [(name, shots, seed) for name, shots, seed in wanted if (model, name, shots, seed) not in done]
    if not todo:
        return
    bench = _Bench.of(model, options.settings, data, folder, make)
    say(f"{model}: {len(bench.pool):,} images to draw from, {len(bench.judged):,} to judge by, {len(todo)} runs")
    for name, shots, seed in todo:
        began = time.monotonic()
        row: dict[str, Any] = {"model": model, "method": name, "shots": shots, "seed": seed}
        try:
            row |= bench.run(name, shots, seed)
        except Miil21kError as error:
            row |= {"accuracy": None, "error": str(error)}
        row["seconds"] = round(time.monotonic() - began, 2)
        with (folder / ROWS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        done[model, name, shots, seed] = row
        shown = "failed" if row["accuracy"] is None else f"{row['accuracy']:.1%}"
        say(f"{model}, {name}, {shots} a class, subset {seed + 1}: {shown} ({row['seconds']:.1f} s)")


@dataclass(frozen=True, eq=False)
class _Bench:
    """One model on one division of the data: the features to draw from and those to be judged by."""

    data: TransferData
    settings: TransferOptions
    folder: Path
    extractor: Extractor
    pool: Features
    judged: Features
    groups: NDArray[np.int64]

    @classmethod
    def of(cls, model: str, settings: TransferOptions, data: TransferData, folder: Path, make: Make | None) -> _Bench:
        settings = replace(settings, model=model, output=folder)
        extractor = Extractor(model, settings, images=len(data.images), make=make)
        features = extractor.features(data.images, shelf=folder / "features")
        groups = near_copies(features.values, features.digests)
        if data.test is not None:
            judged = extractor.features(data.test, shelf=folder / "features")
            return cls(data, settings, folder, extractor, features, judged, groups)
        # By bytes alone: which pictures are nearly the same depends on the model, and all are judged on the same ones.
        out = hold_out(features.labels, settings.holdout, settings.seed, same_bytes(features.digests))
        return cls(data, settings, folder, extractor, features.take(~out), features.take(out), groups[~out])

    def run(self, name: str, shots: int, seed: int) -> dict[str, Any]:
        """Return what one method makes of one subset."""
        chosen = balanced_subset(self.pool.labels, shots, self.settings.seed + seed)
        few, groups = self.pool.take(chosen), self.groups[chosen]
        found: dict[str, Any] = {"train": len(few), "judged": len(self.judged)}
        if name in PROBES:
            classes = self.data.space.num_classes
            fitted = fit_probe(PROBES[name], few.values, few.labels, classes, seed=seed, groups=groups)
            logits = fitted.classifier.logits(self.judged.values)
            found["strength"] = fitted.strength
        else:
            logits = self._trained(name, few, groups, f"{name}-{shots}-{seed}", seed)
        return {**found, "accuracy": float((logits.argmax(1) == self.judged.labels).mean())}

    def _trained(self, name: str, few: Features, groups: NDArray[np.int64], run: str, seed: int) -> NDArray[np.float32]:
        """Return the logits of a network that was trained on the images of `few`."""
        at = self.folder / "training" / f"{self.extractor.weights[:8]}-{run}"
        options = replace(self.settings, seed=self.settings.seed + seed, output=at)
        images = taken(self.data.images, few.indices)
        job = Job(options, self.data.space, images, few, groups, self.extractor, at, _nothing, _nothing)
        test = self.data.images if self.data.test is None else self.data.test
        learnt = method(name).run(job, name)
        logits = learnt.logits(taken(test, self.judged.indices), self.judged, options)
        shutil.rmtree(at, ignore_errors=True)  # what hundreds of runs leave would fill the disk
        return logits


def _nothing(_: object) -> None:
    return None


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
