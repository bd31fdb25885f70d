"""Predictions for people: one image as a small card, many as one line each."""

from __future__ import annotations

import os
import sys
import textwrap
import unicodedata
from functools import partial
from typing import TYPE_CHECKING

from miil21k.predict.prediction import Node
from miil21k.text import printable
from miil21k.writers.labels import label_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from miil21k.hierarchy.spaces import LabelSpace
    from miil21k.predict.prediction import AskedConcept, BinAnswer, Given, Origin, Prediction, Stop

__all__ = [
    "Style",
    "Table",
    "TableSink",
    "beginning",
    "bins_sentence",
    "cells",
    "given_sentence",
    "shortened",
    "stop_sentence",
    "to_width",
]

BAR = 24  # cells of a bar of probability 1
BOLD, DIM, GREEN, RED = "1", "2", "32", "31"


class Style:
    """Colours for a terminal, or none (NO_COLOR, a pipe, a file)."""

    def __init__(self, colour: bool) -> None:
        self._colour = colour and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

    def __call__(self, text: str, code: str) -> str:
        """Return `text` in the SGR `code`."""
        return f"\x1b[{code}m{text}\x1b[0m" if self._colour and text else text


def cells(text: str) -> int:
    """Return how many terminal cells `text` takes."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def to_width(text: str, width: int) -> str:
    """Return `text` in exactly `width` cells: padded, or its beginning replaced by an ellipsis."""
    text = printable(text)
    if cells(text) > width:
        while cells(text) >= width:
            text = text[1:]
        text = f"…{text}"
    return text + " " * (width - cells(text))


def beginning(text: str, width: int) -> str:
    """Return `text` in exactly `width` cells: padded, or its end replaced by an ellipsis."""
    text = printable(text)
    if cells(text) > width:
        while cells(text) >= width:
            text = text[:-1]
        text = f"{text}…"
    return to_width(text, width)


def shortened(text: str, width: int) -> str:
    """Return `text` in exactly `width` cells: padded, or cut. A path loses its middle, since its end is the answer."""
    text = printable(text)
    behind = max(width // 2, cells(text.rpartition(" > ")[2]) + 3)
    if cells(text) <= width or " > " not in text:
        return beginning(text, width)
    if behind >= width - 1:
        return to_width(text, width)
    end = text
    while cells(end) > behind:
        end = end[1:]
    return to_width(beginning(text, width - behind) + end, width)


def stop_sentence(stop: Stop, path: tuple[Node, ...]) -> str:
    """Return why the path ended, in one sentence."""
    rivals = ", ".join(
        f"{printable(node.name)} {node.probability:.2f}" for node in (stop.refused, stop.runner_up) if node
    )
    if stop.reason == "leaf":
        return "Nothing lies below it in the tree."
    if stop.reason == "depth":
        return f"Cut there as asked; below: {rivals}." if rivals else "Cut there as asked."
    if stop.reason == "restriction":
        return "Nothing below it is among the allowed classes."
    if stop.reason == "bits":
        return f"What is sure enough says too little to be an answer; below: {rivals}."
    where = "Nothing below it" if path else "Nothing"
    if stop.level is None or stop.level == stop.hedge:
        return f"{where} is {stop.hedge:g} sure: {rivals}."
    return f"{where} is {stop.level:.3g} sure, which {stop.hedge:g} right answers take: {rivals}."


def given_sentence(given: Given) -> str:
    """Return that an answer was restricted, and how probable the restriction was."""
    return f"Given the restriction ({printable(given.condition)}), whose own probability is {given.probability:.3f}."


def bins_sentence(found: BinAnswer) -> str:
    """Return the answer in the labels of the user, in one line."""
    path = " > ".join(printable(one.label) for one in found.path)
    if path:
        return f"in your labels: {path} {found.path[-1].probability:.3f}"
    return f"in your labels: none is {found.level:.3g} sure"


class Table:
    """Text for the eyes.

    single: one image, shown as a card; otherwise one line per image. label: how a wnid is called, None for its name.
    width: cells of a line, None for those of the terminal.
    """

    def __init__(
        self, *, single: bool, colour: bool, label: Callable[[str], str] | None = None, width: int | None = None
    ) -> None:
        self._single = single
        self._style = Style(colour)
        self._label = label
        from shutil import get_terminal_size  # which loads what unpacks archives: only where a table is shown

        self._width = width or min(get_terminal_size((80, 24)).columns, 120)

    def text(self, prediction: Prediction) -> str:
        """Return what is shown for one prediction, line feeds included."""
        if prediction.error is not None:
            return self._error(prediction)
        return self._card(prediction) if self._single else self._line(prediction)

    def _error(self, prediction: Prediction) -> str:
        name = "" if self._single else to_width(prediction.input, self._name_width) + "  "
        return f"{name}{self._style('error', RED)}  {printable(prediction.error, lines=True)}\n"

    @property
    def _name_width(self) -> int:
        return max(12, self._width * 3 // 10)

    def _called(self, node: Node) -> str:
        return printable(node.name if self._label is None else self._label(node.wnid))

    def _line(self, prediction: Prediction) -> str:
        name = to_width(prediction.input, self._name_width)
        label = prediction.label
        if label is None:
            return f"{name}     -  {self._style(self._unsure(prediction), DIM)}\n" + self._further(prediction)
        given = "" if prediction.given is None else f"  given {prediction.given.probability:.3f}"
        room = self._width - self._name_width - 8 - len(given)
        if self._label:
            head, mark, tail = "", "", shortened(self._called(label), room).rstrip()
        else:
            shown = to_width(" > ".join(node.name for node in prediction.path), room).rstrip()
            head, mark, tail = shown.rpartition(" > ")
        line = f"{name}  {label.probability:.2f}  {self._style(head + mark, DIM)}{self._style(tail, BOLD)}{given}\n"
        return line + self._further(prediction)

    def _further(self, prediction: Prediction) -> str:
        """Return lines below the first: bins, what was asked, concepts above a probability, things in parts."""
        asked = [f"{printable(_asked_name(found))} {found.probability:.3f}" for found in prediction.asked or ()]
        concepts = [f"{printable(node.name)} {node.probability:.3f}" for node in prediction.concepts or ()]
        bins = [] if prediction.bins is None else [bins_sentence(prediction.bins)]
        parts = [f"{printable(part.name)} {part.probability:.3f}" for part in prediction.parts or ()]
        lines = [line for found in (bins, asked, concepts, parts) for line in self._wrapped(" · ".join(found))]
        return "".join(f"  {self._style(line, DIM)}\n" for line in lines)

    def _unsure(self, prediction: Prediction) -> str:
        assert prediction.stop is not None
        return stop_sentence(prediction.stop, prediction.path)

    def _card(self, prediction: Prediction) -> str:
        style = self._style
        lines = [style(printable(prediction.input), DIM), ""]
        lines += self._path_lines(prediction)
        if prediction.stop is not None:
            lines += [style(line, DIM) for line in self._wrapped(stop_sentence(prediction.stop, prediction.path))]
        if prediction.given is not None:
            lines += [style(line, DIM) for line in self._wrapped(given_sentence(prediction.given))]
        if prediction.topk:
            lines += ["", *self._bars(prediction.topk, self._called)]
        if prediction.bins is not None:
            lines += ["", *(style(line, DIM) for line in self._wrapped(bins_sentence(prediction.bins)))]
            lines += self._bars(tuple(Node("", one.label, one.probability) for one in prediction.bins.leading()))
        if prediction.asked:
            nodes = tuple(Node(found.wnid, _asked_name(found), found.probability) for found in prediction.asked)
            lines += ["", f"  {style('asked', DIM)}", *self._bars(nodes)]
        if prediction.concepts is not None:
            heading = "concepts, the most informative first" if prediction.concepts else "no concept is as probable"
            lines += ["", f"  {style(heading, DIM)}", *self._bars(prediction.concepts)]
        lines += self._part_lines(prediction)
        for level in prediction.levels or ():
            kept = style("kept", GREEN) if level.kept else style("dropped", DIM)
            lines.append(f"  level {level.depth:<2} {level.node.probability:.3f}  {printable(level.node.name)}  {kept}")
        return "\n".join([*lines, "", *self._footer(prediction)]) + "\n"

    def _part_lines(self, prediction: Prediction) -> list[str]:
        if prediction.parts is None:
            return []
        heading = "in parts of the image: left, top, right, bottom" if prediction.parts else "no part is sure enough"
        names = [self._called(Node(*part[:3])) for part in prediction.parts]
        width = min(max(map(cells, names), default=0), self._width - 44)
        lines = [
            f"  {part.wnid:<10} {shortened(name, width)}  {part.probability:.3f}  {', '.join(map(str, part.box))}"
            for part, name in zip(prediction.parts, names, strict=True)
        ]
        return ["", f"  {self._style(heading, DIM)}", *lines]

    def _path_lines(self, prediction: Prediction) -> list[str]:
        label = prediction.label
        if label is None:
            return [f"  {self._style('no answer', BOLD)}"]
        names = [printable(node.name) for node in prediction.path]
        lines = self._wrapped(" > ".join(names), self._width - 10)
        sure = self._style(f"{label.probability:.3f}", BOLD)
        last = lines[-1]
        before = last[: len(last) - len(names[-1])] if last.endswith(names[-1]) else None
        shown = self._style(last, BOLD) if before is None else before + self._style(names[-1], f"{BOLD};{GREEN}")
        return [*lines[:-1], f"{shown}  {sure}"]

    def _wrapped(self, text: str, width: int | None = None) -> list[str]:
        return textwrap.wrap(
            text, width or self._width, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False
        )

    def _bars(self, nodes: tuple[Node, ...], label: Callable[[Node], str] | None = None) -> list[str]:
        if not nodes:
            return []
        names = [printable(node.name) if label is None else label(node) for node in nodes]
        width = min(max(map(cells, names)), self._width - BAR - 24)
        found = []
        for node, name in zip(nodes, names, strict=True):
            bar = _bar(node.probability)
            shown = shortened(name, width)
            key = f"{node.wnid:<10} " if node.wnid else ""
            found.append(f"  {key}{shown}  {node.probability:.3f}  {self._style(bar, GREEN)}")
        return found

    def _footer(self, prediction: Prediction) -> list[str]:
        run = prediction.origin
        parts = [run.model, run.label_space, f"{run.device} {run.dtype}"]
        if run.removed_labels == "masked":
            parts.append("withdrawn labels masked")
        if prediction.stop is not None and not prediction.stop.calibrated:
            parts.append("uncalibrated")
        return [self._style(line, DIM) for line in self._wrapped(printable(" · ".join(parts)))]


class TableSink:
    """A table on standard output. single: there is one image. label_type: how nodes are called."""

    def __init__(self, single: bool, label_type: str | None) -> None:
        self._single = single
        self._label_type = label_type
        self._table: Table | None = None

    def begin(self, _origin: Origin, space: LabelSpace) -> None:
        """Measure the terminal."""
        label = None if self._label_type is None else partial(label_of, space, label_type=self._label_type)
        self._table = Table(single=self._single, colour=sys.stdout.isatty(), label=label)

    def write(self, prediction: Prediction) -> None:
        """Print one prediction."""
        assert self._table is not None
        print(self._table.text(prediction), end="", flush=True)

    def finish(self) -> None:
        """Nothing follows the last line."""


def _asked_name(found: AskedConcept) -> str:
    """Return the name of what was asked, behind the question where that says it otherwise."""
    return found.name if found.question in (found.wnid, found.name) else f"{found.question} ({found.name})"


def _bar(probability: float) -> str:
    eighths = round(probability * BAR * 8)
    return "█" * (eighths // 8) + ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")[eighths % 8]
