"""The curves of a run as one picture: loss, validation metrics and learning rate over epochs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from miil21k.files import atomic

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

__all__ = ["draw_curves"]


def draw_curves(epochs: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw the rows of a run's epochs into the PNG at `path`.

    epochs: rows with `epoch`, `loss`, `lr` and any number of metrics whose names begin with `val_` (fractions).
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    metrics = list(dict.fromkeys(name for row in epochs for name in row if name.startswith("val_")))
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    panels = [("training loss", ["loss"]), ("validation", metrics), ("learning rate", ["lr"])]
    for axes, (title, names) in zip(figure.subplots(1, 3), panels, strict=True):
        for name in names:
            drawn = [(row["epoch"], row[name]) for row in epochs if row.get(name) is not None]
            axes.plot([x for x, _ in drawn], [y for _, y in drawn], marker=".", label=name.removeprefix("val_"))
        axes.set(title=title, xlabel="epoch")
        if title == "validation" and names:
            axes.legend(fontsize="small")
        axes.grid(alpha=0.3)
    with atomic(path) as part:
        canvas.print_png(str(part))
