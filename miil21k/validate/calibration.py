"""A calibration from a model and labelled images."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from miil21k.calibrate.bins import calibrate_bins
from miil21k.calibrate.guarantee import ACCURACIES, calibrate
from miil21k.errors import UsageError
from miil21k.validate.run import prepare

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from miil21k.calibrate.record import Calibration
    from miil21k.validate.run import MeasureRequest
    from miil21k.validate.views import View

__all__ = ["calibrate_model"]

log = logging.getLogger("miil21k.validate")


def calibrate_model(
    request: MeasureRequest,
    targets: Sequence[float] = (),
    *,
    most: int = 10_000,
    rule: str | None = None,
    include_withdrawn: bool = False,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Calibration:
    """Return the calibration of a model on labelled images that it was not trained on.

    targets: shares of correct answers to guarantee, beside the usual ones. most: at most so many images, drawn with
    `seed`, are used. rule: how a level_softmax head becomes one tree. include_withdrawn: calibrate for answers with
    the classes that ImageNet withdrew, too; without it, for answers as `predict` gives them. With `request.bins` the
    labels of the images are these, and the calibration is of answers with them. Raises UsageError when a target cannot
    be guaranteed with these images.
    """
    prepared = prepare(request)
    if prepared.view.images.sets is not None:
        raise UsageError(f"'{request.data}' gives several labels to an image, and a calibration needs one of each.")
    view = prepared.view if include_withdrawn else prepared.masked
    view = _sampled(view if prepared.bins is not None else _inside(view), most, seed)
    loaded = prepared.loaded
    decoder = view.decoder(loaded.space, loaded.head, rule=rule, bins=prepared.bins)
    inference = prepared.inference(request, view)
    logits = np.empty((len(view.images), loaded.space.num_classes), np.float32)
    labels = np.empty(len(view.images), np.int64)
    done = 0
    for batch in inference:
        logits[done : done + len(batch.labels)] = batch.logits
        labels[done : done + len(batch.labels)] = batch.labels
        done += len(batch.labels)
        if progress is not None:
            progress(done + len(inference.unreadable), len(view.images))
    fit = calibrate if prepared.bins is None else calibrate_bins
    found = fit(
        decoder,
        logits[:done],
        labels[:done],
        accuracies=sorted({*ACCURACIES, *targets}),
        model=loaded.name,
        weights=prepared.weights,
        seed=seed,
    )
    _require_targets(found, targets, done)
    return found


def _require_targets(found: Calibration, targets: Sequence[float], images: int) -> None:
    held = {accuracy for accuracy, _ in found.bin_thresholds or found.thresholds}
    missing = [target for target in targets if target not in held]
    if missing:
        possible = ", ".join(f"{accuracy:g}" for accuracy in sorted(held)) or "none"
        raise UsageError(
            f"{images} images cannot guarantee that {missing[0]:g} of the answers are correct with this model: give "
            f"more labelled images, or a smaller --target (possible here: {possible})."
        )


def _inside(view: View) -> View:
    """Return the view without images whose label is no node of the tree: a fit needs the probability of each label."""
    images = view.images
    inside = images.labels < view.space.tree.num_nodes
    if inside.all():
        return view
    if not inside.any():
        raise UsageError(f"None of the labels is a node of '{view.space.name}', so nothing can be calibrated on them.")
    log.warning(
        "%d of %d images were left out: their labels are no nodes of '%s'.",
        (~inside).sum(),
        inside.size,
        view.space.name,
    )
    return replace(view, images=images.taken(np.flatnonzero(inside)))


def _sampled(view: View, most: int, seed: int) -> View:
    images = view.images
    if len(images) <= most:
        return view
    chosen = np.sort(np.random.default_rng(seed).choice(len(images), most, replace=False))
    return replace(view, images=images.taken(chosen))
