"""The ways to learn new classes: `METHODS` holds them by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from miil21k.errors import UsageError
from miil21k.text import did_you_mean, duration
from miil21k.transfer.job import (
    Learnt,
    epochs_of,
    finetune_recipe,
    fitted_probe,
    hyperrule_recipe,
    rule_seconds,
    start_of,
)
from miil21k.transfer.network import fine_tune, training_rate
from miil21k.transfer.probes import PROBES
from miil21k.transfer.search import search

if TYPE_CHECKING:
    from collections.abc import Callable

    from miil21k.train.recipe import Recipe
    from miil21k.transfer.job import Job

__all__ = ["METHODS", "TransferMethod", "method"]


class TransferMethod(NamedTuple):
    """A way to learn. run: takes the job and a name for its folder below `runs`."""

    title: str
    run: Callable[[Job, str], Learnt]


def _probe(name: str) -> Callable[[Job, str], Learnt]:
    def run(job: Job, _: str) -> Learnt:
        fitted = fitted_probe(job, name)
        details = {
            "probe": PROBES[name].title,
            "strength": fitted.strength,
            "accuracy_out_of_fold": [list(score) for score in fitted.scores],
        }
        return Learnt(fitted.classifier, details=details)

    return run


def _finetune(job: Job, name: str, recipe: Recipe | None = None) -> Learnt:
    recipe = recipe or finetune_recipe(job, epochs_of(job))
    start = start_of(job, name)
    path = fine_tune(job.images, recipe, start, job.folder / "runs" / name, job.options, report=job.report, say=job.say)
    return Learnt(checkpoint=path, details={"epochs": recipe.epochs, "lr": recipe.lr, "batch_size": recipe.batch_size})


def _hyperrule(job: Job, name: str) -> Learnt:
    recipe = hyperrule_recipe(job)
    folder = job.folder / "runs" / name
    rate = training_rate(job.options, job.space, job.extractor, job.extractor.preprocess.input_size[1], 8)
    job.say(f"{recipe.source}: {recipe.steps} updates take about {duration(rule_seconds(job, recipe, rate))} here")
    path = fine_tune(
        job.images, recipe, job.options.model, folder, job.options, name="hyperrule", report=job.report, say=job.say
    )
    return Learnt(
        checkpoint=path, details={"rule": recipe.source, "steps": recipe.steps, "image_size": recipe.image_size}
    )


def _search(job: Job, name: str) -> Learnt:
    recipe, rows = search(job, name)
    found = _finetune(job, f"{name}-best", recipe)
    found.details["trials"] = rows
    return found


METHODS: dict[str, TransferMethod] = {
    "probe": TransferMethod("logistic regression on frozen features", _probe("logistic")),
    "knn": TransferMethod("nearest neighbours on frozen features", _probe("knn")),
    "finetune": TransferMethod("fine-tuning from the probe on", _finetune),
    "hyperrule": TransferMethod("BiT-HyperRule", _hyperrule),
    "search": TransferMethod("fine-tuning by the best of several trials", _search),
}


def method(name: str) -> TransferMethod:
    """Return the method called `name`; raises UsageError with the nearest name."""
    if name not in METHODS:
        raise UsageError(f"No method '{name}'.{did_you_mean(name, METHODS)} Methods: {', '.join(METHODS)}.")
    return METHODS[name]
