"""What an image may stand for, and how much: from predictions, from rows that predict wrote, from selections."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from miil21k.environment import require
from miil21k.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from miil21k.predict.prediction import Prediction
    from miil21k.teachers.options import On

__all__ = ["ROW_SUFFIXES", "Candidates", "are_rows", "of_prediction", "of_row", "read_rows"]

Row = dict[str, Any]


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


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a file, one at a time; raises UsageError for what is no row."""
    try:
        for number, row in enumerate(_READERS[path.suffix.lower()](path), 1):
            if not isinstance(row, dict) or "input" not in row or not ({"status", "score"} & row.keys()):
                raise UsageError(f"Row {number:,} of '{path}' is none of predict or select.")
            yield row
    except OSError as error:
        raise UsageError(f"The rows '{path}' cannot be read: {error.strerror or error}.") from None


def _lines(path: Path) -> Iterator[Row]:
    number, line = 0, b"\n"
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):  # noqa: B007 - told where it fails
                yield json.loads(line)
    except ValueError:
        what = "is no JSON" if line.endswith(b"\n") else "is cut off: finish that run with --resume"
        raise UsageError(f"Line {number:,} of '{path}' {what}.") from None


def _cells(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")


def _parquet(path: Path) -> Iterator[Row]:
    require("pyarrow", "parquet", "Reading Parquet")
    import pyarrow as pa
    import pyarrow.parquet as pq

    wanted = {"input", "status", "error", "label_space", "label_space_sha256", "topk", "given", "concepts"}
    wanted |= {"wnid", "rank", "score"}
    try:
        with pq.ParquetFile(path) as file:
            columns = [name for name in file.schema_arrow.names if name in wanted]
            for batch in file.iter_batches(8192, columns=columns):
                yield from batch.to_pylist()
    except pa.ArrowInvalid as error:
        raise UsageError(f"'{path}' is no Parquet file, or a damaged one: {error}.") from None


_READERS = {".jsonl": _lines, ".ndjson": _lines, ".csv": _cells, ".tsv": _cells, ".parquet": _parquet, ".pq": _parquet}
ROW_SUFFIXES = frozenset(_READERS)


def are_rows(names: Sequence[str]) -> bool:
    """Return whether all of these are files of rows; raises UsageError for such files beside images."""
    rows = [name for name in names if Path(name).suffix.lower() in ROW_SUFFIXES]
    if rows and len(rows) < len(names):
        raise UsageError(f"'{rows[0]}' holds rows, other inputs are images: select from one kind, then merge both.")
    return bool(rows)
