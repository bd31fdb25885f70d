"""What an image may stand for, and how much: from predictions, from rows that predict wrote, from selections."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from miil21k.errors import UsageError
from miil21k.writers.reading import ROW_SUFFIXES

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from miil21k.predict.prediction import Prediction
    from miil21k.teachers.options import On
    from miil21k.writers.rows import Row

__all__ = ["OF_SELECTIONS", "Candidates", "are_rows", "of_prediction", "of_row"]

# What a selection reads of a row.
OF_SELECTIONS = frozenset(
    (
        "input",
        "status",
        "error",
        "label_space",
        "label_space_sha256",
        "topk",
        "given",
        "concepts",
        "wnid",
        "rank",
        "score",
    )
)


class Candidates(NamedTuple):
    """What one image offers: its classes, best first, and its score for each; error where it could not be read.

    space: name and digest of the label space, the digest empty where a row does not say it.
    """

    input: str
    wnids: Sequence[str] = ()
    scores: Sequence[float] = ()
    error: str | None = None
    space: tuple[str, str] = ("", "")


def of_prediction(prediction: Prediction, on: On, most: int, concepts: Collection[str]) -> Candidates:
    """Return the `most` best classes of a prediction; on concepts, the first `most` of them that are in `concepts`.

    Scores are not given a restriction: P(class | restriction) x P(restriction) = P(class).
    """
    if prediction.error is not None:
        return Candidates(prediction.input, error=prediction.error)
    if on == "concepts":
        nodes = [node for node in prediction.concepts or () if node.wnid in concepts][:most]
        return Candidates(prediction.input, [node.wnid for node in nodes], [node.probability for node in nodes])
    factor = 1.0 if prediction.given is None else prediction.given.probability
    found = prediction.topk[:most]
    return Candidates(prediction.input, [node.wnid for node in found], [node.probability * factor for node in found])


def of_row(row: Row, on: On, most: int, concepts: Collection[str] | None) -> Candidates:
    """Return the same from a row of predict, whose probabilities have six decimals, or from a row of a selection.

    concepts: None for all. Raises UsageError for a row that is neither, or has no concepts where they are wanted.
    """
    if "score" in row and "rank" in row:
        return Candidates(row["input"], [row["wnid"]], [float(row["score"])])
    space = (row["label_space"], row.get("label_space_sha256") or "")
    if row["status"] != "ok":
        return Candidates(row["input"], error=row["error"] or "It could not be read.", space=space)
    nodes = (_topk if on == "classes" else _concepts)(row)
    if on == "concepts" and concepts is not None:
        nodes = [node for node in nodes if node[0] in concepts]
    nodes = nodes[:most]
    return Candidates(row["input"], [wnid for wnid, _ in nodes], [score for _, score in nodes], space=space)


def _topk(row: Row) -> list[tuple[str, float]]:
    given = row.get("given")
    factor = float(given["probability"] if isinstance(given, dict) else row.get("given_probability") or 1)
    if "topk" in row:
        return [(node["wnid"], node["probability"] * factor) for node in row["topk"]]
    found: list[tuple[str, float]] = []
    while wnid := row.get(f"top{len(found) + 1}_wnid"):
        found.append((wnid, float(row[f"top{len(found) + 1}_probability"]) * factor))
    return found


def _concepts(row: Row) -> list[tuple[str, float]]:
    concepts = row.get("concepts")
    if concepts is None:
        raise UsageError(
            f"The row of '{row['input']}' lists no concepts: predict with --min-node 0.01, or select --on classes."
        )
    if isinstance(concepts, str):  # a cell of CSV
        wnids, scores = (filter(None, row[f"concepts_{part}"].split("; ")) for part in ("wnids", "probabilities"))
        return list(zip(wnids, map(float, scores), strict=True))
    return [(node["wnid"], node["probability"]) for node in concepts]


def are_rows(names: Sequence[str]) -> bool:
    """Return whether all of these are files of rows; raises UsageError for such files beside images."""
    rows = [name for name in names if Path(name).suffix.lower() in ROW_SUFFIXES]
    if rows and len(rows) < len(names):
        raise UsageError(f"'{rows[0]}' holds rows, other inputs are images: select from one kind, then merge both.")
    return bool(rows)
