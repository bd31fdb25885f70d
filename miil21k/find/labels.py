"""What each picture of an index is: the correction of a person where there is one, else the hedged answer.

Corrections are rows `path,label,verdict`, as the gallery saves them, in CSV, JSON or JSON lines:

    path,label,verdict
    /photos/1.jpg,n01503061,right
    /photos/2.jpg,,wrong
    /photos/3.jpg,parrot,is

`right`: the label is the answer that was shown. `wrong`: the answer is not; nothing says what it is. `is`: it is this,
a wnid or a noun. Without a column of verdicts every label is meant so. Of several rows of a picture the last counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from miil21k.data.tables import LIST_SUFFIXES, read_table
from miil21k.errors import UnknownClass, UsageError
from miil21k.find.store import real_name
from miil21k.hierarchy.concepts import concepts_of
from miil21k.hierarchy.questions import resolve
from miil21k.records import StrictJsonError, parse
from miil21k.text import did_you_mean, printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from miil21k.find.store import Index
    from miil21k.hierarchy.concepts import Concepts

__all__ = ["VERDICTS", "Correction", "LabelNode", "Labelled", "labelled", "path_to", "read_corrections", "unknown_to"]

Verdict = Literal["right", "wrong", "is"]
VERDICTS: tuple[Verdict, ...] = ("right", "wrong", "is")


class Correction(NamedTuple):
    """What a person said of a picture. label: a wnid; empty where the answer is wrong and nothing says what it is."""

    path: str
    label: str
    verdict: Verdict


class LabelNode(NamedTuple):
    """A concept on the way to a label. probability: that of the answer; None where a person said it."""

    wnid: str
    name: str
    probability: float | None


class Labelled(NamedTuple):
    """A picture with what it is.

    levels: from the root down to the label; empty where nothing is known. predicted: those of the hedged answer.
    source: who said so: `person`, or `model`. width, height: pixels, None where the index does not know them.
    """

    path: str
    levels: tuple[LabelNode, ...]
    predicted: tuple[LabelNode, ...]
    source: Literal["person", "model"]
    width: int | None
    height: int | None

    @property
    def label(self) -> LabelNode | None:
        """What the picture is, as exactly as it is known."""
        return self.levels[-1] if self.levels else None


def read_corrections(path: Path, concepts: Concepts) -> dict[str, Correction]:
    """Return the corrections in a CSV, TSV, Parquet, JSON or JSON lines file, by the path of their picture.

    Nouns are read as questions are. Raises UsageError for what is no correction, and for an unknown noun; both with
    their place.
    """
    found = {}
    for where, row in _rows(path):
        place = f"'{printable(path)}', {where}"
        name, label, verdict = (_text(row, key, place) for key in ("path", "label", "verdict"))
        name = real_name(name)
        verdict = verdict or ("is" if label else "")
        if not name:
            raise UsageError(f"{place}: no 'path' says which picture is meant.")
        if verdict not in VERDICTS:
            raise UsageError(
                f"{place}: '{printable(verdict)}' is no verdict: there are {', '.join(VERDICTS)}."
                f"{did_you_mean(verdict, VERDICTS)}"
            )
        if verdict == "wrong":
            label = ""
        elif not label:
            raise UsageError(f"{place}: '{verdict}' needs a label.")
        else:
            try:
                label = concepts.wnids[resolve(concepts, label).concept]
            except UnknownClass as error:
                raise UsageError(f"{place}: {error}") from None
        found[name] = Correction(name, label, verdict)
    return found


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the rows of a file, each with what a message calls it."""
    suffix = path.suffix.lower()
    if suffix in LIST_SUFFIXES:
        table = read_table(path)
        for wanted in ("path", "label"):
            if wanted not in table.columns:
                raise UsageError(f"'{printable(path)}' holds no corrections: it has no column '{wanted}'.")
        columns = {name: table.texts(name) for name in ("path", "label", "verdict") if name in table.columns}
        for row in range(len(columns["path"])):
            yield table.where(row), {name: values[row] for name, values in columns.items()}
    elif suffix in (".json", ".jsonl"):
        yield from _json_rows(path, lines=suffix == ".jsonl")
    else:
        raise UsageError(
            f"'{printable(path)}' holds no corrections: give a .csv, .tsv, .parquet, .json or .jsonl file."
        )


def _json_rows(path: Path, *, lines: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        text = path.read_text(encoding="utf-8")
        rows = [(f"line {n}", parse(line)) for n, line in enumerate(text.splitlines(), 1) if line] if lines else None
        content = None if rows is not None else parse(text, max_bytes=1 << 30)
    except (OSError, UnicodeError) as error:
        raise UsageError(f"'{printable(path)}' cannot be read: {getattr(error, 'strerror', None) or error}.") from None
    except StrictJsonError as error:
        raise UsageError(f"'{printable(path)}' is no JSON: {error}") from None
    if rows is None:
        if not isinstance(content, list):
            raise UsageError(f"'{printable(path)}' holds no list of corrections.")
        rows = [(f"row {number}", row) for number, row in enumerate(content, 1)]
    for where, row in rows:
        if not isinstance(row, dict):
            raise UsageError(f"'{printable(path)}', {where}: a correction is an object with path, label and verdict.")
        yield where, row


def _text(row: dict[str, Any], key: str, place: str) -> str:
    value = row.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UsageError(f"{place}: '{key}' is no text.")
    return value if key == "path" else value.strip()


def labelled(
    index: Index, corrections: dict[str, Correction] | None = None, *, corrected_only: bool = False
) -> Iterator[Labelled]:
    """Yield what each picture that could be read is, in the order of the index.

    corrections: of people, which take the place of the answers. corrected_only: leave the others out.
    """
    given = corrections or {}
    concepts = concepts_of(index.about.space)
    paths = {wnid: path_to(concepts, wnid) for wnid in {c.label for c in given.values() if c.label}}
    table = index.columns("path", "width", "height", "status").to_pydict()
    for name, nodes, width, height, status in zip(index.names, *table.values(), strict=True):
        correction = given.get(name)
        if status != "ok" or (corrected_only and correction is None):
            continue
        predicted = tuple(LabelNode(node["wnid"], node["name"], node["probability"]) for node in nodes or ())
        if correction is None:
            yield Labelled(name, predicted, predicted, "model", width, height)
        else:
            levels = paths[correction.label] if correction.label else ()
            yield Labelled(name, levels, predicted, "person", width, height)


def path_to(concepts: Concepts, wnid: str) -> tuple[LabelNode, ...]:
    """Return the way from the root of the tree down to a concept, which hangs below its first hypernym there."""
    tree = concepts.space.tree
    concept = concepts.index_of[wnid]
    found = [concept]
    while found[-1] >= tree.num_nodes:
        above = concepts.parents(found[-1]).tolist()
        if not above:
            break
        found.append(above[0])
    while found[-1] < tree.num_nodes and tree.parent[found[-1]] >= 0:
        found.append(int(tree.parent[found[-1]]))
    return tuple(LabelNode(concepts.wnids[one], concepts.name(one), None) for one in reversed(found))


def unknown_to(index: Index, corrections: Iterable[str]) -> list[str]:
    """Return the corrected pictures that the index does not hold, in order."""
    known = set(index.names)
    return [name for name in corrections if name not in known]
