"""The recipes of a plan: as published, fitted to one's own batch and number of images, changed as one says."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from miil21k.errors import UsageError
from miil21k.teachers.options import STEPS
from miil21k.text import did_you_mean
from miil21k.train.recipe import override
from miil21k.train.recipes import RECIPES, equal_drops, get_recipe

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from miil21k.train.recipe import Recipe

__all__ = ["changes_of", "finetuning", "pretraining"]

PUBLISHED_BATCH = 64 * 24  # images an update of ssl_pretrain and ssl_finetune
PUBLISHED_UPDATES = 30 * 1_281_167 / PUBLISHED_BATCH  # of ssl_finetune: 30 epochs of ImageNet-1K


def changes_of(words: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return the changes of each step from `FIELD=VALUE` (all steps) and `STEP.FIELD=VALUE` (one, which wins).

    Raises UsageError for what is neither; an unknown field is refused when it is applied.
    """
    found: dict[str, dict[str, str]] = {step: {} for step in STEPS}
    for of_one in (False, True):
        for word in words:
            name, equals, value = word.partition("=")
            step, dot, field = name.strip().rpartition(".")
            if not equals or not field:
                raise UsageError(f"--set takes [STEP.]FIELD=VALUE, not '{word}'.")
            if dot and step not in STEPS:
                raise UsageError(
                    f"No step '{step}' to set.{did_you_mean(step, STEPS)} The steps are {', '.join(STEPS)}."
                )
            if bool(dot) == of_one:
                for each in [step] if dot else STEPS:
                    found[each][field.replace("-", "_")] = value
    return found


def pretraining(name: str, changes: Mapping[str, Any], *, rows: int, passes: float, batch: int) -> Recipe:
    """Return the recipe of pretraining on `rows` pseudo-labels, each seen `passes` times, `batch` images an update.

    The rate of `ssl_pretrain` follows the batch (0.1 per 256 images), its 13 halvings and its warm-up the length.
    Other recipes are taken as they are, with this batch. Raises UsageError as `override` does.
    """
    recipe = get_recipe(name)
    fitted: dict[str, Any] = {"batch_size": batch, **changes}
    if recipe == RECIPES["ssl_pretrain"] and "epochs" not in changes:
        steps = int(changes.get("steps", max(2, math.ceil(rows * passes / int(fitted["batch_size"])))))
        fitted = {"steps": steps, "warmup_steps": steps // 20, **_drops(steps, 13), **fitted}
        fitted = {"lr": recipe.lr * int(fitted["batch_size"]) / PUBLISHED_BATCH, **fitted}
    if rows < int(fitted["batch_size"]):
        fitted = {"sampling": "replacement", **fitted}  # fewer rows than a batch
    return override(recipe, fitted)


def finetuning(name: str, changes: Mapping[str, Any], *, images: int, batch: int) -> Recipe:
    """Return the recipe of training on `images` true labels; `ssl_finetune` is fitted to the batch and the length.

    Its three drops follow the length. Its rate follows the batch (0.00025 per 256 images) where the smaller batch
    makes more updates of it, as on ImageNet. A run that has fewer updates than the published one keeps its rate, or it
    would not move: the factor is the published number of updates over that of this run, at most 1, and at least the
    batch over the published one. Raises UsageError as `override` does.
    """
    recipe = get_recipe(name)
    fitted: dict[str, Any] = {"batch_size": min(batch, images), **changes}
    if recipe == RECIPES["ssl_finetune"]:
        size, steps = int(fitted["batch_size"]), int(changes.get("steps", 0))
        epochs = int(changes.get("epochs", recipe.epochs))
        updates = steps or epochs * max(1, images // size)
        factor = max(size / PUBLISHED_BATCH, min(1.0, PUBLISHED_UPDATES / updates))
        fitted = {"lr": recipe.lr * factor, **_drops(steps or epochs, 3), **fitted}
    return override(recipe, fitted)


def _drops(length: int, drops: int) -> dict[str, Any]:
    """Return the fields of a schedule that drops at equal distances; one of a single epoch or update cannot."""
    milestones = equal_drops(length, drops)
    return {"milestones": milestones} if milestones else {"schedule": "cosine", "milestones": ()}
