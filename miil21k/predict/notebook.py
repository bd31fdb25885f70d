"""Predictions as a notebook shows them, and as a table of pandas."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from miil21k.environment import need
from miil21k.text import printable
from miil21k.writers.rows import Shape, cells

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pandas import DataFrame

    from miil21k.predict.prediction import Prediction

__all__ = ["html_of", "to_pandas"]


def html_of(found: Prediction) -> str:
    """Return the answer as HTML: the path, why it ends there, and a bar for each of the top classes and bins.

    Names of files and classes are text, whatever stands in them.
    """
    head = f"<b>{_text(found.input)}</b>"
    if found.error is not None:
        return f"<div>{head}<br>{_text(found.error)}</div>"
    path = " &gt; ".join(f"{_text(node.name)} {node.probability:.2f}" for node in found.path) or "nothing sure enough"
    rows = "".join(_row(*node) for node in found.topk)
    facts = (found.model, found.label_space, found.origin.backend, found.origin.device, found.origin.dtype)
    if found.bins is not None:
        rows += "".join(_row("", *one) for one in found.bins.leading())
    rows += "".join(_row(*part[:3]) for part in found.parts or ())
    table = f'<table style="text-align:left">{rows}</table>' if rows else ""
    return f"<div>{head}<br>{path}{_stop(found)}{table}<small>{_text(' · '.join(facts))}</small></div>"


def _stop(found: Prediction) -> str:
    stop = found.stop
    if stop is None or stop.refused is None:
        return ""
    rivals = [stop.refused, *([stop.runner_up] if stop.runner_up else [])]
    near = ", ".join(f"{_text(node.name)} {node.probability:.2f}" for node in rivals)
    return f"<br>Not sure enough below it: {near}"


def _row(key: str, name: str, probability: float) -> str:
    bar = f'<div style="background:#4c78a8;height:0.8em;width:{round(120 * probability)}px"></div>'
    contents = (_text(key), _text(name), f"{probability:.3f}", bar)
    return "".join(["<tr>", *(f"<td>{content}</td>" for content in contents), "</tr>"])


def _text(words: str) -> str:
    return escape(printable(words))


def to_pandas(predictions: Prediction | Iterable[Prediction]) -> DataFrame:
    """Return a table with a row per prediction and the columns of `miil21k-predict -f csv`, see docs/predict.md.

    There are as many `top` columns as the longest top k needs; what a row lacks is missing. Embeddings are left out.
    Raises MissingExtra without pandas.
    """
    pandas = need("pandas", "pandas", "A table of predictions")
    rows = [found.to_dict() for found in (predictions if not hasattr(predictions, "to_dict") else [predictions])]
    topk = max((len(row["topk"]) for row in rows), default=0)
    shape = Shape(
        topk,
        levels=any("levels" in row for row in rows),
        given=any("given" in row for row in rows),
        asked=next((tuple(one["question"] for one in row["asked"]) for row in rows if "asked" in row), ()),
        concepts=any("concepts" in row for row in rows),
        parts=any("parts" in row for row in rows),
        bins=next((tuple(one["label"] for one in row["bins"]["labels"]) for row in rows if "bins" in row), ()),
    )
    columns = {name: [value(row) for row in rows] for name, value in cells(shape)}
    return pandas.DataFrame(columns)
