"""The files of a validation: JSON with provenance, classes and subtrees as CSV, two pictures."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import math
from typing import TYPE_CHECKING, Any

from miil21k.files import replace_file
from miil21k.validate.label_sets import LabelSetCard
from miil21k.validate.mapped import MappedCard

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from miil21k.validate.bins import BinCard
    from miil21k.validate.score import Scorecard

__all__ = ["plain", "write_report"]


def write_report(
    folder: Path, report: Mapping[str, Any], card: Scorecard | BinCard | LabelSetCard | MappedCard
) -> list[str]:
    """Write validation.json, operating_curve.csv, the tables of the card and the pictures; returns their names.

    The tables are classes.csv and subtrees.csv, or labels.csv and confusion.csv of a user's own labels. Of label sets
    there is a labels.csv, and neither curve nor pictures. The pictures need matplotlib and are left out without it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "validation.json": json.dumps(plain(report), indent=2, ensure_ascii=False) + "\n",
        **{name: _table(rows) for name, rows in card.tables().items()},
    }
    if isinstance(card, (LabelSetCard, MappedCard)):
        return _written(folder, texts)
    curve = card.operating.curve()
    points = [dict(zip(curve._fields, values, strict=True)) for values in zip(*map(list, curve), strict=True)]
    texts["operating_curve.csv"] = _table(points)
    written = _written(folder, texts)
    if importlib.util.find_spec("matplotlib") is None:
        return written
    from miil21k.validate.pictures import draw_operating_curve, draw_reliability

    draw_operating_curve(curve, folder / "operating_curve.png")
    draw_reliability(card.reliability.diagram, folder / "reliability.png")
    return [*written, "operating_curve.png", "reliability.png"]


def _written(folder: Path, texts: Mapping[str, str]) -> list[str]:
    for name, text in texts.items():
        replace_file(folder / name, text)
    return list(texts)


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def plain(value: Any) -> Any:
    """Return `value` as JSON holds it: NaN and infinity become null, tuples lists."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    return value
