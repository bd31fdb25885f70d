"""Short training runs of a tiny network on generated images."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from miil21k.train.launch import TrainOutcome, train_model
from miil21k.train.options import TrainRequest
from miil21k.train.recipes import RECIPES

if TYPE_CHECKING:
    from pathlib import Path

    from miil21k.train.loop import Report
    from miil21k.train.recipe import Recipe

TINY = replace(
    RECIPES["miil_semantic"], epochs=2, batch_size=8, lr=3e-3, precision="fp32", image_size=32, pretrained=False
)


def request(data: Path, folder: Path, recipe: Recipe = TINY, **changes: Any) -> TrainRequest:
    """Return a request for `test_resnet` on `data`, with the hierarchy of the shapes beside it."""
    space = data.parent / "shapes.tsv"
    values = {"label_space": str(space), "workers": 0, "device": "cpu", "log_every": 1, "checkpoint_every": 0}
    return TrainRequest(str(data), "test_resnet", "miil_semantic", recipe, folder, **{**values, **changes})


def run(
    data: Path,
    folder: Path,
    recipe: Recipe = TINY,
    *,
    resume: bool = False,
    overwrite: bool = False,
    **changes: Any,
) -> tuple[TrainOutcome, list[Report]]:
    """Train; return the outcome and all reports."""
    reports: list[Report] = []
    wanted = request(data, folder, recipe, **changes)
    outcome = train_model(wanted, reports.append, lambda _line: None, resume=resume, overwrite=overwrite)
    return outcome, reports
