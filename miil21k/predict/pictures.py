"""Predictions as pictures: the image beside its path, with a bar of probability per step; one file per image."""

from __future__ import annotations

import logging
import re
import textwrap
from collections import deque
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from miil21k.data.images import load_picture
from miil21k.data.web import is_url
from miil21k.environment import require
from miil21k.errors import ImageError, UsageError
from miil21k.files import atomic
from miil21k.predict.prediction import Node

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from PIL import Image

    from miil21k.data.images import ImageInput
    from miil21k.predict.heat import Heat
    from miil21k.predict.prediction import ImagePart, Prediction

__all__ = ["Gallery", "draw_prediction", "picture_name", "require_matplotlib"]

log = logging.getLogger("miil21k.predict")
SHOWN_EDGE = 1024  # pixels: an image may be decoded down to this for its picture
DPI = 150
# All lengths are inches.
MARGIN = 0.3
IMAGE_WIDTH = 3.6
NAMES = 2.5  # column of names
BARS = 2.1  # a bar of probability 1
NUMBERS = 0.5
LINE = 0.2
ROW_GAP = 0.09
INDENT = 0.13
SIZE = 10.0  # font points
CHARACTER = 0.081  # mean width of a character of that size

LEGEND = 0.55  # two lines below an image with a map of evidence

STRONG, STEP, GREY, TRACK, INK, FAINT = "#0b6e4f", "#7fb8a4", "#b8bdc4", "#eef0f2", "#1c2127", "#6b7480"
FRAME = "#0b6e4f"
VEIL = 0.55  # of white over what the network did not see


def require_matplotlib() -> None:
    """Raise MissingExtra unless matplotlib is installed; returns nothing."""
    require("matplotlib", "plots", "Drawing pictures")


@dataclass(frozen=True)
class _Row:
    """One name with its bar; `lines` is the wrapped name."""

    lines: tuple[str, ...]
    probability: float
    indent: float
    colour: str
    ink: str
    bold: bool = False

    @property
    def height(self) -> float:
        return LINE * len(self.lines) + ROW_GAP


def draw_prediction(
    image: Image.Image,
    prediction: Prediction,
    target: Path,
    heat: Heat | None = None,
    size: tuple[int, int] | None = None,
) -> None:
    """Write a PNG of `image` (RGB) beside the path, the step that was not taken, the topk, the bins and what was asked.

    The last node of the path is emphasised, a dotted line marks the hedge, what lies below it is grey. The parts of the
    image that were answered are framed, and listed under their numbers. heat: where the evidence for a concept is, laid
    over the image. size: (width, height) of the original, where `image` is a smaller one. target: the file, replaced
    atomically. Raises MissingExtra without matplotlib.
    """
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    path = _path_rows(prediction)
    top = [_row(node, 0, GREY, INK) for node in prediction.topk]
    asked = [_row(Node(one.wnid, one.name, one.probability), 0, STEP, INK) for one in prediction.asked or ()]
    bins = _bin_rows(prediction)
    parts = prediction.parts or ()
    listed = [
        _row(Node(one.wnid, f"{number}  {one.name}", one.probability), 0, STEP, INK)
        for number, one in enumerate(parts, 1)
    ]
    heading, *rest = _heading(prediction)
    height = _height((path, top, bins, asked, listed), 1 + len(rest))
    image_height = min(max(IMAGE_WIDTH * image.height / image.width, 0.4), 5.0)
    height = max(height, image_height + 2 * MARGIN + (0 if heat is None else LEGEND))
    width = 3 * MARGIN + IMAGE_WIDTH + NAMES + BARS + NUMBERS
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    image_axes = _place_image(figure, image, (width, height), 0 if heat is None else LEGEND)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0), frame_on=False, xticks=[], yticks=[])
    axes.set_zorder(-1)
    size = size or image.size
    _frame(image_axes, parts, size)
    if heat is not None:
        _lay_over(image_axes, heat, size)
        below = MARGIN + min(IMAGE_WIDTH * image.height / image.width, height - 2 * MARGIN - LEGEND)
        _explain(axes, heat, below)
    panel = _Panel(axes, 2 * MARGIN + IMAGE_WIDTH)
    panel.heading(heading, rest)
    panel.rows(path, hedge=prediction.stop.level if prediction.stop else None)
    if top:
        panel.caption(f"most probable {'class' if len(top) == 1 else 'classes'}")
        panel.rows(top, hedge=None)
    if bins:
        panel.caption("in your labels")
        panel.rows(bins, hedge=prediction.bins.level if prediction.bins else None)
    if asked:
        panel.caption("asked")
        panel.rows(asked, hedge=None)
    if listed:
        panel.caption("in parts of the image")
        panel.rows(listed, hedge=None)
    axes.text(width - MARGIN, height - 0.12, _footer(prediction), size=6.5, color=FAINT, ha="right", va="bottom")
    with atomic(target) as partial:
        figure.savefig(partial, format="png", dpi=DPI)


def _place_image(figure: Any, image: Image.Image, size: tuple[float, float], below: float) -> Any:
    """Return the axes with the image, in units of its width and height, y downwards; `below` it stays free."""
    width, height = size
    room = height - 2 * MARGIN - below
    shown = image.copy()
    shown.thumbnail((int(IMAGE_WIDTH * DPI * 2), int(room * DPI * 2)))
    box = (MARGIN / width, (MARGIN + below) / height, IMAGE_WIDTH / width, room / height)
    axes = figure.add_axes(box, anchor="N", xticks=[], yticks=[])
    smooth = "antialiased" if shown.width > 64 else "nearest"
    axes.imshow(shown, extent=(0, 1, 1, 0), aspect=shown.height / shown.width, interpolation=smooth)
    for spine in axes.spines.values():
        spine.set(linewidth=0.5, color=GREY)
    return axes


def _frame(axes: Any, parts: Iterable[ImagePart], size: tuple[int, int]) -> None:
    """Frame the parts of the image with their numbers."""
    from matplotlib.patches import Rectangle

    for number, part in enumerate(parts, 1):
        left, top, right, bottom = (at / side for at, side in zip(part.box, 2 * size, strict=True))
        axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, color=FRAME, linewidth=1.5))
        label = {"facecolor": FRAME, "edgecolor": "none", "pad": 1.5}
        axes.text(left, top, str(number), size=8, color="white", va="top", bbox=label)


def _lay_over(axes: Any, heat: Heat, size: tuple[int, int]) -> None:
    """Colour the crop by its evidence, the strongest value the most opaque, and pale what the network did not see."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    from miil21k.predict.heat import painted

    left, top, right, bottom = (at / side for at, side in zip(heat.box, 2 * size, strict=True))
    aspect = axes.get_aspect()
    axes.imshow(painted(heat.values), extent=(left, right, bottom, top), aspect=aspect, interpolation="nearest")
    left, top, right, bottom = max(left, 0), max(top, 0), min(right, 1), min(bottom, 1)
    around = [(0, 0), (1, 0), (1, 1), (0, 1), (0, 0)]
    hole = [(left, top), (left, bottom), (right, bottom), (right, top), (left, top)]  # the other way round
    veil = Path.make_compound_path(Path(around, closed=True), Path(hole, closed=True))
    axes.add_patch(PathPatch(veil, color="white", alpha=VEIL, linewidth=0))
    axes.set(xlim=(0, 1), ylim=(1, 0))


def _explain(axes: Any, heat: Heat, below: float) -> None:
    from miil21k.predict.heat import AGAINST, FOR

    name = textwrap.shorten(heat.name, 34, placeholder="…")
    text = f"where: {name}, P {heat.probability:.3f}"
    axes.text(MARGIN, below + 0.1, text, size=SIZE, weight="bold", color=INK, va="top")
    axes.text(MARGIN, below + 0.33, "red speaks for it", size=8, color=FOR, va="top")
    axes.text(MARGIN + 1.05, below + 0.33, "blue against it", size=8, color=AGAINST, va="top")
    axes.text(MARGIN + 1.98, below + 0.33, "pale was not seen", size=8, color=FAINT, va="top")


def _row(node: Node, depth: int, colour: str, ink: str, bold: bool = False) -> _Row:
    indent = min(depth, 11) * INDENT
    room = int((NAMES - indent - 0.1) / (CHARACTER * (1.08 if bold else 1)))
    lines = textwrap.wrap(node.name, room, max_lines=3, placeholder="…") or [node.wnid]
    return _Row(tuple(lines), node.probability, indent, colour, ink, bold)


def _path_rows(prediction: Prediction) -> list[_Row]:
    last = len(prediction.path) - 1
    rows = [
        _row(node, depth, STRONG if depth == last else STEP, INK, bold=depth == last)
        for depth, node in enumerate(prediction.path)
    ]
    stop = prediction.stop
    if stop is not None:
        refused = [node for node in (stop.refused, stop.runner_up) if node is not None]
        rows += [_row(node, last + 1, GREY, FAINT) for node in refused]
    return rows


def _bin_rows(prediction: Prediction) -> list[_Row]:
    """Return the labels of the user, those of the answer in colour, its last one emphasised."""
    if prediction.bins is None:
        return []
    answer = [one.label for one in prediction.bins.path]
    rows = []
    for one in prediction.bins.leading():
        taken, last = one.label in answer, one.label == prediction.bins.label
        colour = STRONG if last else STEP if taken else GREY
        rows.append(_row(Node("", one.label, one.probability), 0, colour, INK if taken else FAINT, bold=last))
    return rows


def _height(parts: tuple[list[_Row], ...], heading_lines: int) -> float:
    inner = 0.3 * heading_lines + 0.3 + sum(row.height for part in parts for row in part)
    inner += 0.5 * sum(bool(part) for part in parts[1:])  # captions
    return 2 * MARGIN + inner + 0.1


def _heading(prediction: Prediction) -> list[str]:
    label = prediction.label
    text = "No node is sure enough" if label is None else f"{label.name}"
    return textwrap.wrap(text, 38, max_lines=2, placeholder="…")


def _footer(prediction: Prediction) -> str:
    run = prediction.origin
    parts = [run.model, run.label_space]
    if prediction.stop is not None and not prediction.stop.calibrated:
        parts.append("uncalibrated")
    if prediction.given is not None:
        parts.append(f"given {prediction.given.condition} ({prediction.given.probability:.3f})")
    return "  ·  ".join(parts)


class _Panel:
    """Writes from the top down into axes whose unit is an inch, y downwards."""

    def __init__(self, axes: Any, left: float) -> None:
        self._axes = axes
        self._left = left
        self._y = MARGIN

    def heading(self, first: str, rest: list[str]) -> None:
        for line in (first, *rest):
            self._axes.text(self._left, self._y, line, size=15, weight="bold", color=INK, va="top")
            self._y += 0.3
        self._y += 0.2

    def caption(self, text: str) -> None:
        self._y += 0.18
        self._axes.text(self._left, self._y, text, size=8, color=FAINT, va="top")
        self._y += 0.27

    def rows(self, rows: list[_Row], hedge: float | None) -> None:
        begin = self._y
        for row in rows:
            self._row(row)
        if hedge is not None and rows:
            x = self._left + NAMES + BARS * hedge
            self._axes.plot([x, x], [begin - 0.08, self._y - ROW_GAP], color=INK, linewidth=0.8, linestyle=(0, (1, 2)))
            self._axes.text(x, begin - 0.11, f"{hedge:.3g}", size=7, color=FAINT, ha="center", va="bottom")

    def _row(self, row: _Row) -> None:
        from matplotlib.patches import Rectangle

        weight = "bold" if row.bold else "normal"
        for number, line in enumerate(row.lines):
            y = self._y + LINE * (number + 0.5)
            x = self._left + row.indent
            self._axes.text(x, y, line, size=SIZE, weight=weight, color=row.ink, va="center_baseline")
        middle, thick = self._y + LINE * len(row.lines) / 2, LINE * 0.8
        bar = self._left + NAMES
        for length, colour in ((BARS, TRACK), (BARS * row.probability, row.colour)):
            self._axes.add_patch(Rectangle((bar, middle - thick / 2), length, thick, color=colour, linewidth=0))
        number_at = bar + BARS + 0.08
        self._axes.text(
            number_at, middle, f"{row.probability:.3f}", size=9, weight=weight, color=row.ink, va="center_baseline"
        )
        self._y += row.height


def picture_name(number: int, name: str) -> str:
    """Return a file name for the picture of input `number`, which makes it unique, with what is safe of its name."""
    path = urlsplit(name).path if is_url(name) else name.replace("\\", "/")
    stem = re.sub(r"[^A-Za-z0-9._-]+", "_", PurePosixPath(path).stem).strip("._-")[:60]
    return f"{number:06d}_{stem or 'image'}.png"


class Gallery:
    """Draws predictions into a folder, which is created when it is missing.

    Predictions come in the order of the inputs that `watching` passed on.
    Raises MissingExtra without matplotlib, UsageError when the folder cannot be one.
    """

    def __init__(self, folder: Path, *, exif: bool, max_pixels: int) -> None:
        require_matplotlib()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"'{folder}' cannot be the folder of --save-plots: {error.strerror}.") from None
        self._folder = folder
        self._exif = exif
        self._max_pixels = max_pixels
        self._waiting: deque[ImageInput] = deque()
        self._number = 0
        self._heat: Callable[[ImageInput], Heat] | None = None

    def show(self, heat: Callable[[ImageInput], Heat]) -> None:
        """Lay the map that it gives over every image from now on."""
        self._heat = heat

    def watching(self, inputs: Iterable[ImageInput], first: int = 0) -> Iterator[ImageInput]:
        """Yield the inputs and remember each until it is drawn; a download is kept and not repeated."""
        self._number = first
        for item in inputs:
            kept = replace(item, source=lru_cache(item.source)) if callable(item.source) else item
            self._waiting.append(kept)
            yield kept

    def draw(self, prediction: Prediction) -> None:
        """Draw the picture of the next input; one that failed has none."""
        item = self._waiting.popleft()
        self._number += 1
        if prediction.error is not None:
            return
        try:
            source = item.source() if callable(item.source) else item.source
            picture = load_picture(
                source, name=item.name, exif=self._exif, max_pixels=self._max_pixels, reduce_to=SHOWN_EDGE
            )
            heat = None if self._heat is None else self._heat(item)
        except ImageError as error:  # it was readable when it was predicted
            log.warning("no picture: %s", error)
            return
        target = self._folder / picture_name(self._number, item.name)
        draw_prediction(picture.image, prediction, target, heat, picture.size)
