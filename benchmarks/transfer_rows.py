"""What the scripts about transfer share: small subsets, the rule cut to fewer updates, rows, processor time."""

from __future__ import annotations

import json
import resource
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from small_sets import shrink

from miil21k.environment import available_cpus, installed_versions
from miil21k.train.hyperrule import bit_hyperrule
from miil21k.transfer.job import hyperrule_recipe

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from miil21k.train.recipe import Recipe
    from miil21k.transfer.job import Job


def subset(data: Path, target: Path, side: int, classes: int, train: int = 0, test: int = 0) -> Path:
    """Return a folder of the parts train and test of `data`, of every n-th class, their shorter side `side` pixels.

    train, test: so many images of each class, 0 for all.
    """
    for part, most in (("train", train), ("test", test)):
        target.mkdir(parents=True, exist_ok=True)
        shrink(data / part, target / part, side, most, classes)
    return target


def cut_rule(job: Job, updates: int, **changes: Any) -> Recipe:
    """Return BiT-HyperRule for the job with so many updates, its milestones at the same parts of the run.

    The rate is that of whole batches, whatever the batch of the job: with one that falls beside fewer updates the head
    would not leave its zeros.
    """
    rule = hyperrule_recipe(job)
    share = updates / rule.steps
    return replace(
        rule,
        source=f"{rule.source}; {updates} of {rule.steps} updates",
        steps=updates,
        lr=bit_hyperrule(len(job.images), 96, 96).lr,
        warmup_steps=round(rule.warmup_steps * share),
        milestones=tuple(round((step - 1) * share) + 1 for step in rule.milestones),
        **changes,
    )


class Lines:
    """Rows of a JSON Lines file, a line each as it is done, told apart by some fields; those that are there stay."""

    def __init__(self, path: Path, fields: tuple[str, ...]) -> None:
        self.path, self.fields = path, fields
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        self.rows: list[dict[str, Any]] = [json.loads(line) for line in lines]
        self._began = processor_seconds()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)

    def has(self, **fields: Any) -> bool:
        return any(all(row[name] == fields[name] for name in self.fields) for row in self.rows)

    def start(self) -> None:
        """Take the time of the next row from here."""
        self._began = processor_seconds()

    def add(self, **row: Any) -> None:
        """Keep a row with the processor seconds since `start`, and say how many all rows took."""
        row["cpu_seconds"] = round(processor_seconds() - self._began, 1)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        self.rows.append(row)
        hours = sum(one["cpu_seconds"] for one in self.rows) / 3600
        print(f"{json.dumps(row)}  [{hours:.2f} CPU hours in all]", file=sys.stderr, flush=True)


def processor_seconds() -> float:
    """Return what this process and its children that ended have computed so far."""
    found = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in found)


def machine() -> dict[str, Any]:
    versions = installed_versions(("torch", "timm", "numpy", "scikit-learn", "optuna"))
    return {"cpus": available_cpus(), "versions": versions}
