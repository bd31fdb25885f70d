"""Which method serves these images: measured on a part of the training images, within a budget of time."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from miil21k.errors import Miil21kError
from miil21k.files import replace_file
from miil21k.records import read_json
from miil21k.text import duration
from miil21k.transfer.job import PART, epochs_of, hyperrule_recipe, rule_seconds
from miil21k.transfer.methods import METHODS
from miil21k.transfer.network import training_rate
from miil21k.transfer.split import hold_out

if TYPE_CHECKING:
    from miil21k.transfer.job import Job

__all__ = ["choose"]


def choose(job: Job) -> tuple[str, dict[str, Any]]:
    """Return the method that serves the images of the job best, and what was measured.

    The probe, and fine-tuning by the rule where the budget allows it, else for as many epochs as fit, are learnt on
    three quarters of the training images and compared on the others. Fine-tuning is chosen where it is right on more of
    them by more than chance: where the difference exceeds one standard deviation of it. The result is kept in
    `choice.json`, and a measured choice is not measured again.
    """
    path = job.folder / "choice.json"
    if path.exists():
        kept: dict[str, Any] = read_json(path)
        return kept["method"], kept
    found = _compared(job)
    replace_file(path, json.dumps(found, indent=2) + "\n")
    return found["method"], found


def _compared(job: Job) -> dict[str, Any]:
    options = job.options
    part = hold_out(job.features.labels, PART, options.seed + 1, job.groups)
    if part.sum() < 2:
        return {"method": "probe", "why": "there are too few images to compare methods on"}
    rival, seconds, why = _affordable(job, int((~part).sum()))
    if rival is None:
        return {"method": "probe", "why": why}
    job.say(f"{why}; compared with the probe on {int(part.sum())} of the training images.")
    small, judged = job.part(~part), job.part(part)
    truth = judged.features.labels
    right = {}
    rows: list[dict[str, Any]] = []
    for name in ("probe", rival):
        try:
            learnt = METHODS[name].run(small, f"{name}-compared")
            hits = learnt.logits(judged.images, judged.features, options).argmax(1) == truth
        except Miil21kError as error:
            if name == "probe":
                raise
            rows.append({"method": name, "accuracy": None, "error": str(error)})
            job.say(f"{METHODS[name].title} failed: {error}")
            return {"method": "probe", "why": f"{METHODS[name].title} failed", "compared": rows}
        right[name] = hits
        rows.append({"method": name, "accuracy": float(hits.mean()), "images": int(part.sum())})
    gained, lost = (int((a & ~b).sum()) for a, b in ((right[rival], right["probe"]), (right["probe"], right[rival])))
    better = gained - lost > np.sqrt(gained + lost)
    words = (
        f"fine-tuning is right on {gained} images that the probe has wrong, and wrong on {lost} that it has right"
        f"{'' if better else ', which is no more than chance'}"
    )
    return {"method": rival if better else "probe", "why": words, "compared": rows, "expected_seconds": seconds}


def _affordable(job: Job, images: int) -> tuple[str | None, float, str]:
    """Return the fine-tuning that the budget holds twice, to compare and to train, or None; its seconds, and why."""
    budget = job.options.budget * 60
    if not budget:
        return None, 0.0, "no time was given to fine-tuning"
    everything = images + len(job.images)
    rate = training_rate(job.options, job.space, job.extractor, job.extractor.preprocess.input_size[1], 8)
    rule = hyperrule_recipe(job)
    by_rule = 2 * rule_seconds(job, rule, rate)  # once to compare, and once to train
    speed = f"training runs at {rate:.1f} images a second here"
    if by_rule <= budget and job.options.epochs is None:
        return "hyperrule", by_rule, f"{speed}: BiT-HyperRule takes about {duration(by_rule)}"
    epochs = epochs_of(job)
    seconds = epochs * everything / rate
    if seconds > budget:
        return (
            None,
            0.0,
            (
                f"{speed}: fine-tuning takes about {duration(seconds)}, BiT-HyperRule {duration(by_rule)}, more than "
                f"the --budget of {job.options.budget:g} minutes"
            ),
        )
    return (
        "finetune",
        seconds,
        (f"{speed}: {epochs} epochs take about {duration(seconds)} (BiT-HyperRule would take {duration(by_rule)})"),
    )
