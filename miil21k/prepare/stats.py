"""How many images a prepared data set has per class and per level of the tree, as numbers and as a picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from miil21k.environment import need
from miil21k.errors import UsageError
from miil21k.files import atomic
from miil21k.hierarchy.load import load_label_space
from miil21k.prepare.releases import nearest_release
from miil21k.prepare.split import FOLDERS
from miil21k.prepare.verify import count_images

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["LevelStats", "Stats", "draw_stats", "image_stats"]


@dataclass(frozen=True)
class LevelStats:
    """Kept classes at one depth of the tree, and their train images."""

    level: int
    classes: int
    images: int


@dataclass(frozen=True, eq=False)
class Stats:
    """counts: int64 [C], train images of every kept class, most first; wnids: their names in the same order.

    places: classes and images of train, val and small_class. levels: by depth, of the classes that `space` knows;
    empty when no label space fits.
    """

    wnids: tuple[str, ...]
    counts: NDArray[np.int64]
    places: dict[str, tuple[int, int]]
    space: str | None
    levels: tuple[LevelStats, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the single classes, as JSON values."""
        quartiles = np.percentile(self.counts, [0, 25, 50, 75, 100]).tolist() if self.counts.size else []
        return {
            "places": {name: {"classes": c, "images": n} for name, (c, n) in self.places.items()},
            "train_images_per_class": dict(zip(("min", "p25", "median", "p75", "max"), quartiles, strict=False)),
            "label_space": self.space,
            "levels": [vars(level) for level in self.levels],
        }


def image_stats(target: Path) -> Stats:
    """Return the numbers of images of the data set at `target`. Raises UsageError when there is none."""
    if not (target / FOLDERS["train"]).is_dir():
        raise UsageError(f"'{target}' holds no prepared data set: there is no {FOLDERS['train']} in it.")
    found = count_images(target)
    train = sorted(found["train"].items(), key=lambda item: (-item[1], item[0]))
    places = {place: (len(counts), sum(counts.values())) for place, counts in found.items()}
    space = nearest_release(found["train"].keys())
    levels = _levels(dict(train), space) if space else ()
    counts = np.array([count for _, count in train], np.int64)
    return Stats(tuple(wnid for wnid, _ in train), counts, places, space, levels)


def _levels(counts: dict[str, int], space: str) -> tuple[LevelStats, ...]:
    loaded = load_label_space(space)
    known = [(int(loaded.tree.depth[i]), counts[wnid]) for i, wnid in enumerate(loaded.wnids) if wnid in counts]
    depths = sorted({depth for depth, _ in known})
    return tuple(
        LevelStats(level, sum(d == level for d, _ in known), sum(n for d, n in known if d == level)) for level in depths
    )


def draw_stats(stats: Stats, path: Path) -> None:
    """Write a picture (PNG, PDF or SVG by its suffix): images per class, sorted, and per level of the label space.

    Raises MissingExtra without matplotlib, UsageError for a suffix or a place that cannot be written.
    """
    need("matplotlib", "plots", "The picture of 'prepare stats'")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4) if stats.levels else (5, 4), layout="constrained")
    classes, *levels = figure.subplots(1, 2 if stats.levels else 1, squeeze=False)[0]
    classes.stairs(stats.counts, fill=True)
    classes.set(xlabel="classes, most images first", ylabel="train images", title="Images per class", ylim=(0, None))
    for axis in levels:  # none where no label space fits
        bars = axis.bar([str(found.level) for found in stats.levels], [found.images for found in stats.levels])
        axis.bar_label(bars, [f"{found.classes:,}" for found in stats.levels], fontsize="small", padding=2)
        axis.margins(y=0.1)  # for the labels
        title = "Images per level (above: its classes)"
        axis.set(xlabel=f"level of {stats.space}", ylabel="train images", title=title)
    for axis in (classes, *levels):
        axis.yaxis.set_major_formatter("{x:,.0f}")
        axis.yaxis.get_major_locator().set_params(integer=True)
    classes.xaxis.set_major_formatter("{x:,.0f}")
    classes.xaxis.get_major_locator().set_params(integer=True)
    try:
        with atomic(path) as partial:
            figure.savefig(partial, format=path.suffix.lstrip(".") or "png", dpi=120)
    except (ValueError, OSError) as error:
        raise UsageError(f"Cannot write '{path}': {getattr(error, 'strerror', None) or error}.") from None
