"""Figures of repeated runs as dots, one a run, and a line at their mean."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from miil21k.files import atomic

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


def draw_dots(panels: Mapping[str, Mapping[str, Sequence[float]]], path: Path) -> None:
    """Write a PNG with a panel for each title side by side: the values of each named line, in per cent.

    Every panel has room for the lines of all, in the order of their first.
    """
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    names = [name for name in names if any(lines.get(name) for lines in panels.values())]
    figure = Figure(figsize=(1.8 + 3.6 * len(panels), 1 + 0.36 * len(names)), layout="constrained")
    row = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, lines) in zip(row, panels.items(), strict=True):
        for place, name in enumerate(names):
            values = [100 * value for value in lines.get(name, ())]
            if values:
                axes.plot(values, [place] * len(values), "o", color="#7fb8a4", markersize=5)
                axes.plot(statistics.mean(values), place, "|", color="#1c2127", markersize=14, markeredgewidth=2)
        axes.set_yticks(range(len(names)), names if axes is row[0] else [""] * len(names))
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_title(title, size=9)
        axes.tick_params(labelsize=8)
        axes.grid(axis="x", alpha=0.3)
    with atomic(path) as part:
        FigureCanvasAgg(figure).print_png(str(part))
