"""A suite of data sets, each learnt from 1,000 images and judged on its test images, in the manner of VTAB-1k.

Source: Zhai et al. 2019, 'A Large-scale Study of Representation Learning with the Visual Task Adaptation Benchmark':
methods are compared on 800 images for training and 200 for validation, the chosen one is trained on all 1,000 and
judged once on the whole test set; the score is the mean over data sets, and over those of each group.
"""

from __future__ import annotations

import csv
import json
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from miil21k.benchmark.contestants import read_contestants
from miil21k.errors import Miil21kError, UsageError
from miil21k.files import Lock, replace_file
from miil21k.metrics.shares import wilson_interval
from miil21k.records import StrictJsonError, read_json, read_record
from miil21k.train.job import digest_of
from miil21k.transfer.bench import Bench
from miil21k.transfer.dataset import TransferData, open_data, taken
from miil21k.transfer.rows import Rows
from miil21k.transfer.split import hold_out

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from miil21k.benchmark.contestants import Contestant
    from miil21k.runtime.resolve import Make
    from miil21k.transfer.options import SuiteOptions

__all__ = ["Suite", "SuiteSet", "divide", "group_means", "read_suite", "run_suite"]

TABLE, LOCK = "suite.json", ".suite.lock"


class SuiteSet(NamedTuple):
    """One data set. Paths that are there start at the suite's folder.

    data, test, split, root, label_space: as `miil21k transfer` takes them. group: whose mean it counts in. flip, crop:
    whether training may mirror and cut images, which changes some labels.
    """

    name: str
    data: str
    group: str = "all"
    test: str | None = None
    split: str | None = None
    root: str | None = None
    label_space: str | None = None
    flip: bool = True
    crop: bool = True


class Suite(NamedTuple):
    """The data sets of a file."""

    datasets: tuple[SuiteSet, ...]


def read_suite(path: Path) -> Suite:
    """Return the suite in a TOML, JSON or CSV file.

    TOML and JSON hold a list `datasets` of objects with the fields of `SuiteSet`; CSV has them as columns.
    Raises UsageError for another suffix, for a key that is unknown or missing, and for two data sets of one name.
    """
    if path.suffix not in _READERS:
        raise UsageError(f"'{path}' is none of {', '.join(_READERS)}: a suite is a file of one of them.")
    try:
        suite: Suite = read_record(Suite, _READERS[path.suffix](path))
    except StrictJsonError as error:
        raise UsageError(str(error if error.file else error.inside(str(path)))) from None
    except OSError as error:
        raise UsageError(f"Cannot read '{path}': {error.strerror or error}.") from None
    names = [one.name for one in suite.datasets]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None or not names:
        raise UsageError(f"'{path}' names no data sets." if not names else f"'{path}' names '{twice}' twice.")
    return Suite(tuple(_placed(one, path.parent) for one in suite.datasets))


def _toml(path: Path) -> Any:
    if sys.version_info < (3, 11):
        raise UsageError(f"'{path}': Python 3.11 and later read TOML; write the suite as JSON or CSV.")
    import tomllib

    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"'{path}' is no TOML: {error}.") from None


def _csv(path: Path) -> Any:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file, restkey="(more cells than columns)"))
    found = []
    for row in rows:
        given: dict[str, Any] = {key: value for key, value in row.items() if value not in ("", None)}
        for name in ("flip", "crop"):
            word = given.get(name)
            given |= {} if word is None else {name: {"true": True, "false": False}.get(str(word).lower(), word)}
        found.append(given)
    return {"datasets": found}


_READERS: dict[str, Callable[[Path], Any]] = {".toml": _toml, ".json": read_json, ".csv": _csv}


def _placed(one: SuiteSet, folder: Path) -> SuiteSet:
    """Return the data set with the paths that lie below the suite's folder made whole."""

    def whole(path: str | None) -> str | None:
        return str(folder / path) if path is not None and (folder / path).exists() else path

    data = whole(one.data) or one.data
    return one._replace(data=data, test=whole(one.test), root=whole(one.root), label_space=whole(one.label_space))


def run_suite(
    suite: Suite,
    options: SuiteOptions,
    folder: Path,
    *,
    say: Callable[[str], None] = lambda _: None,
    make: Make | None = None,
    resume: bool = False,
) -> dict[str, Any]:
    """Return a row for each data set and model, and the means of each model's groups.

    A row has `dataset`, `group`, `model`, `status`, `reason`, `method` (the one that was right most often on the
    validation images), `compared` (accuracy of each there), `accuracy` on the test images with its 95 % band,
    `num_train`, `num_test`, `classes` and `seconds`. folder: gets `runs.jsonl` (a line per row as it is done) and
    `suite.json`; with `resume`, only what is missing, failed or of other images is done. What fails is a row.
    """
    contestants = read_contestants(options.models)
    busy = f"Another process works in '{folder}': wait for its end, or choose another -o."
    with Lock(folder / LOCK, busy=busy, keep=False):
        settings = options.settings
        facts = {name: getattr(options, name) for name in ("train", "val", "methods")}
        facts |= {"seed": settings.seed, "holdout": settings.holdout, "img_size": settings.img_size}
        facts |= {"epochs": settings.epochs, "trials": settings.trials}
        kept = Rows(folder, facts, ("dataset", "model"), resume=resume, again=lambda row: row["status"] != "ok")
        rows = []
        for one in suite.datasets:
            try:
                drawn = _draw(one, options)
            except Miil21kError as error:
                rows += [_failed(one, contestant, error) for contestant in contestants]
                say(f"{one.name}: {error}")
                continue
            for contestant in contestants:
                row = kept.done.get((one.name, contestant.name))
                if row is None or row["facts"] != _facts(one, drawn[0]):
                    row = _row(one, contestant, options, drawn, folder, make)
                    kept.add(row)
                    shown = row["reason"] if row["accuracy"] is None else f"{row['accuracy']:.1%} by {row['method']}"
                    say(f"{one.name}, {contestant.name}: {shown} ({row['seconds']:.0f} s)")
                rows.append(row | {"group": one.group})
        found = {"rows": rows, "means": group_means(rows)}
        replace_file(folder / TABLE, json.dumps(found, indent=1) + "\n")
    return found


def _failed(one: SuiteSet, contestant: Contestant, error: Exception) -> dict[str, Any]:
    named = {"dataset": one.name, "group": one.group, "model": contestant.name}
    nothing = dict.fromkeys(("method", "compared", "accuracy", "accuracy_low", "accuracy_high", "num_test"))
    return {**named, "status": "failed", "reason": str(error), **nothing}


def _facts(one: SuiteSet, data: TransferData) -> dict[str, Any]:
    """Return what a row is of, besides the run's own facts."""
    assert data.test is not None
    return {"train": digest_of(data.images), "test": digest_of(data.test), "flip": one.flip, "crop": one.crop}


def _draw(one: SuiteSet, options: SuiteOptions) -> tuple[TransferData, int]:
    """Return the images that are drawn, those for validation last, with the test images; and how many are the first.

    Raises UsageError for more classes than images, and what opening data does.
    """
    settings = replace(
        options.settings,
        data=one.data,
        test=one.test,
        split=one.split,
        root=one.root,
        label_space=one.label_space,
        flip=one.flip,
        cut=one.crop,
    )
    data = open_data(settings)
    images, test = data.images, data.test
    if test is None:
        out = hold_out(images.labels, settings.holdout, settings.seed)
        images, test = taken(images, ~out), taken(images, out)
    first, second = divide(images.labels, options.train, options.val, settings.seed)
    drawn = taken(images, np.concatenate([first, second]))
    return replace(data, images=drawn, test=test), len(first)


def divide(labels: NDArray[np.integer], train: int, val: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return places of `train` and of `val` images drawn at random, every class among the first.

    Where there are fewer images, both get their share of them. Raises UsageError where `train` is less than the
    number of classes, and where no image is left to validate on.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    _, firsts = np.unique(labels[order], return_index=True)
    share = min(1.0, len(labels) / (train + val))
    train, val = int(share * train), int(share * val)
    if len(firsts) > train or not val:
        raise UsageError(
            f"{len(labels):,} images of {len(firsts):,} classes cannot be divided into {train:,} to learn from, every "
            f"class among them, and {val:,} to validate on."
        )
    order = np.concatenate([order[firsts], np.delete(order, firsts)])
    return order[:train].astype(np.int64), order[train : train + val].astype(np.int64)


def _row(
    one: SuiteSet,
    contestant: Contestant,
    options: SuiteOptions,
    drawn: tuple[TransferData, int],
    folder: Path,
    make: Make | None,
) -> dict[str, Any]:
    began, (data, count) = time.monotonic(), drawn
    settings = replace(options.settings, data=one.data, flip=one.flip, cut=one.crop, label_space=one.label_space)
    row: dict[str, Any] = {}
    try:
        share = options.val / (options.train + options.val)
        bench = Bench.of(contestant, settings, data, folder, make, share=share)
        name, compared = options.methods[0], None
        if len(options.methods) > 1:
            compared = _compared(bench, count, options, one)
            name = max(compared, key=lambda method: compared[method])  # the first of equals
        logits, _ = bench.answers(name, bench.everything, f"{one.name}-{name}", settings.seed)
        right = float((logits.argmax(1) == bench.judged.labels).mean())
        low, high = wilson_interval(right, len(bench.judged))
        row = {
            **_failed(one, contestant, ValueError()),
            "status": "ok",
            "reason": None,
            "method": name,
            "compared": compared,
            "accuracy": right,
            "accuracy_low": float(low),
            "accuracy_high": min(1.0, float(high)),
            "num_test": len(bench.judged),
            "num_train": len(bench.pool),
            "classes": data.space.num_classes,
        }
    except (Miil21kError, RuntimeError) as error:
        row = _failed(one, contestant, error)
    return row | {"seconds": round(time.monotonic() - began, 1), "facts": _facts(one, data)}


def _compared(bench: Bench, count: int, options: SuiteOptions, one: SuiteSet) -> dict[str, float]:
    """Return how often each method is right on the validation images when it has learnt from the others."""
    small = bench.pool.indices < count
    few, judged = np.flatnonzero(small), bench.pool.take(~small)
    found = {}
    for name in options.methods:
        run = f"{one.name}-{name}-compared"
        logits, _ = bench.answers(name, few, run, options.settings.seed, judged)
        found[name] = float((logits.argmax(1) == judged.labels).mean())
    return found


def group_means(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return for each model the mean accuracy of each group and of all data sets, and how many of them failed."""
    found = []
    for model in dict.fromkeys(row["model"] for row in rows):
        own = [row for row in rows if row["model"] == model]
        groups = [group for group in dict.fromkeys(row["group"] for row in own) if group != "all"]
        for group in (*groups, "all"):
            members = [row for row in own if group in ("all", row["group"])]
            right = [row["accuracy"] for row in members if row["accuracy"] is not None]
            mean = float(np.mean(right)) if right else None
            counted = {"datasets": len(right), "failed": len(members) - len(right)}
            found.append({"model": model, "group": group, "accuracy": mean, **counted})
    return found
