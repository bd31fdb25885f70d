"""Operating curve and reliability diagram as PNG."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from miil21k.files import atomic
from miil21k.metrics.shares import wilson_interval

if TYPE_CHECKING:
    from pathlib import Path

    from miil21k.metrics.operating import Curve
    from miil21k.metrics.reliability import ReliabilityBins

__all__ = ["draw_operating_curve", "draw_reliability"]

MODEL = "this model, with 95 % intervals"


def draw_operating_curve(curve: Curve, path: Path) -> None:
    """Draw the share of correct answers over how much they say, in depth and in information."""
    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    for recall, label in ((curve.recall_depth, "depth"), (curve.recall_info, "information")):
        axes.plot(recall, curve.correct, label=f"recall of {label}", linewidth=1.5)
    lowest = np.floor(10 * np.min(curve.correct, initial=1.0)) / 10 - 0.1  # good models live near the top
    axes.set(xlabel="recall", ylabel="correct", xlim=(0, 1), ylim=(max(0, lowest), 1.005), title="Operating curve")
    axes.grid(alpha=0.3)
    axes.legend()
    _save(figure, path)


def draw_reliability(bins: ReliabilityBins, path: Path) -> None:
    """Draw observed frequencies over stated probabilities, and how many statements each bin holds.

    The bars are 95 % Wilson intervals (Wilson 1927): a bin of few statements says little.
    """
    figure = Figure(figsize=(5, 5), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    seen = bins.statements > 0
    above.plot((0, 1), (0, 1), color="0.6", linewidth=1, label="calibrated")
    low, high = wilson_interval(bins.observed[seen], bins.statements[seen])
    bars = (bins.observed[seen] - low, high - bins.observed[seen])
    above.errorbar(bins.stated[seen], bins.observed[seen], bars, marker="o", markersize=4, elinewidth=0.8, label=MODEL)
    above.set(ylabel="observed", xlim=(0, 1), ylim=(0, 1.02), title="Reliability of the steps of the path")
    above.grid(alpha=0.3)
    above.legend(loc="lower right")
    width = 1 / len(bins.statements)
    below.bar([(place + 0.5) * width for place in range(len(bins.statements))], bins.statements, width=0.95 * width)
    below.set(xlabel="stated probability", ylabel="statements")
    if (bins.statements > 0).any():
        below.set_yscale("log")
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    with atomic(path) as part:
        FigureCanvasAgg(figure).print_png(str(part))
