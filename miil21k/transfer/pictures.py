"""Confusion by the tree, accuracy over images per class, over time and over a grid of settings, as PNG."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from miil21k.environment import need
from miil21k.files import atomic

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Any

    from numpy.typing import NDArray

__all__ = ["draw_confusion", "draw_front", "draw_grid", "draw_shots"]

_MOST_NAMES = 60  # more are not legible


def draw_confusion(names: Sequence[str], labels: NDArray[np.integer], answers: NDArray[np.integer], path: Path) -> None:
    """Draw which share of each class was taken for which; names: of the classes, near in the tree side by side.

    labels, answers: int [n], places in `names`. Raises MissingExtra without matplotlib.
    """
    count = len(names)
    table = np.zeros((count, count))
    np.add.at(table, (labels, answers), 1)
    shares = table / np.maximum(table.sum(1, keepdims=True), 1)
    shown = count <= _MOST_NAMES
    side = min(14.0, 3 + 0.22 * count)
    figure, save = _figure((side + 1, side))
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    axes.set(xlabel="answer", ylabel="label", title="What is taken for what, in the order of the tree")
    if shown:
        axes.set_xticks(range(count), names, rotation=90, fontsize=7)
        axes.set_yticks(range(count), names, fontsize=7)
    if count <= 12:
        for row, column in zip(*np.nonzero(table), strict=True):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, f"{table[row, column]:.0f}", ha="center", va="center", color=colour, fontsize=8)
    figure.colorbar(image, ax=axes, label="share of the label's images", shrink=0.8)
    save(path)


def draw_shots(curves: Mapping[str, Sequence[tuple[int, float, float, float]]], path: Path) -> None:
    """Draw accuracy over images per class; curves: by name, points (shots, median, lowest, highest), shares."""
    figure, save = _figure((7, 4.5))
    axes = figure.subplots()
    ticks = sorted({point[0] for points in curves.values() for point in points})
    for name, points in curves.items():
        shots, middle, low, high = (np.array(column) for column in zip(*points, strict=True))
        (line,) = axes.plot(shots, 100 * middle, marker="o", markersize=4, label=name)
        axes.fill_between(shots, 100 * low, 100 * high, color=line.get_color(), alpha=0.15, linewidth=0)
    axes.set_xscale("log")
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set(xlabel="images per class", ylabel="accuracy, %", title="Median and range over random subsets")
    axes.grid(alpha=0.3)
    axes.legend()
    save(path)


def draw_front(
    rows: Sequence[Mapping[str, Any]],
    path: Path,
    *,
    budget: float | None = None,
    best: Mapping[str, Any] | None = None,
) -> None:
    """Draw accuracy over latency: a point for each row that has both, the front of those that no other one beats."""
    figure, save = _figure((8, 5))
    axes = figure.subplots()
    usable = [row for row in rows if row["status"] == "ok"]
    markers = dict(zip(sorted({row["runtime"] for row in usable}), "osD^v", strict=False))
    colours = {name: f"C{place % 10}" for place, name in enumerate(dict.fromkeys(row["model"] for row in usable))}
    front = sorted((row for row in usable if row["front"]), key=lambda row: row["latency_ms"])
    axes.step(
        [row["latency_ms"] for row in front],
        [100 * row["accuracy"] for row in front],
        where="post", color="0.6", zorder=1, label="no faster one is better",
    )  # fmt: skip
    for row in usable:
        place = (row["latency_ms"], 100 * row["accuracy"])
        low, high = (100 * abs(row["accuracy"] - row[name]) for name in ("accuracy_low", "accuracy_high"))
        colour = colours[row["model"]]
        axes.errorbar(*place, yerr=[[low], [high]], color=colour, alpha=0.3, linewidth=1)
        shape = {"marker": markers[row["runtime"]], "s": 130 if row is best else 45, "zorder": 2}
        axes.scatter(*place, color=colour, edgecolors="black" if row is best else "none", **shape)
        said = "" if row["dtype"] == "fp32" else f", {row['dtype']}"
        axes.annotate(f"{row['runtime']}{said}", place, (5, 4), textcoords="offset points", fontsize=7)
    for name, colour in colours.items():
        axes.scatter([], [], color=colour, label=name)
    if budget is not None:
        axes.axvline(budget, color="tab:red", linestyle="--", linewidth=1, label=f"budget {budget:g} ms")
    axes.set_xscale("log")
    ticker = need("matplotlib.ticker", "plots", "Pictures", package="matplotlib")
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.set(xlabel="milliseconds for one image, median", ylabel="accuracy, % (95 % band)", title="What time buys here")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    save(path)


def draw_grid(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw how far each point of a grid lies below the best one of its model: a panel each, the same colours.

    rows: with model, optimizer, lr, weight_decay and accuracy, None where there is none.
    """
    models = list(dict.fromkeys(row["model"] for row in rows))
    lines = list(dict.fromkeys((row["optimizer"], row["weight_decay"]) for row in rows))
    columns = sorted({row["lr"] for row in rows})
    figure, save = _figure((1.5 + len(models) * (0.8 + 0.75 * len(columns)), 1.6 + 0.45 * len(lines)))
    panels = figure.subplots(1, len(models), sharey=True, squeeze=False)[0]
    best = {name: max((row["accuracy"] or 0.0 for row in rows if row["model"] == name), default=0.0) for name in models}
    worst = max(
        (100 * (best[row["model"]] - row["accuracy"]) for row in rows if row["accuracy"] is not None), default=1
    )
    for axes, name in zip(panels, models, strict=True):
        table = np.full((len(lines), len(columns)), np.nan)
        for row in rows:
            if row["model"] != name:
                continue
            place = lines.index((row["optimizer"], row["weight_decay"])), columns.index(row["lr"])
            if row["accuracy"] is None:
                axes.text(place[1], place[0], row["status"], ha="center", va="center", fontsize=6, color="tab:red")
                continue
            table[place] = 100 * (best[name] - row["accuracy"])
            colour = "white" if table[place] > worst / 2 else "black"
            text = f"{100 * row['accuracy']:.1f}"
            axes.text(place[1], place[0], text, ha="center", va="center", color=colour, fontsize=8)
        image = axes.imshow(table, cmap="Blues", vmin=0, vmax=max(worst, 1e-9), aspect="auto")
        axes.set_xticks(range(len(columns)), [f"{rate:g}" for rate in columns], fontsize=8)
        axes.set_yticks(range(len(lines)), [f"{kind}, {decay:g}" for kind, decay in lines], fontsize=8)
        axes.set_xlabel("learning rate")
        axes.set_title(name, fontsize=9)
    panels[0].set_ylabel("optimizer, weight decay")
    figure.colorbar(image, ax=panels, label="points below the model's best")
    save(path)


def _figure(size: tuple[float, float]) -> Any:
    canvas = need("matplotlib.backends.backend_agg", "plots", "Pictures", package="matplotlib").FigureCanvasAgg
    figure = need("matplotlib.figure", "plots", "Pictures", package="matplotlib").Figure(
        figsize=size, layout="constrained"
    )

    def save(path: Path) -> None:
        with atomic(path) as part:
            canvas(figure).print_png(str(part))

    return figure, save
