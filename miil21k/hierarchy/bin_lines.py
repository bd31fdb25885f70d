"""The lines of bins, a user's own labels over concepts: a CSV of `label,concept[,parent]`.

```
label,concept,parent
animal,animal,
pet,dog,animal
pet,domestic cat,animal
car,motor vehicle,
```

A label on several lines is the union of its concepts. A label with a parent lies below it, so its classes belong to the
parent too, whatever the concepts of that are; a label that only holds others leaves its concept empty. A class belongs
to one label and those above it; one that belongs to none is *other*. What the words mean in a label space is decided
in `hierarchy.bins`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from miil21k.errors import UsageError
from miil21k.text import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["OTHER", "BinLine", "GivenBins", "bin_lines", "labels_of", "parse_bins"]

OTHER = "other"
# What a column may be called: ours first, then what other tools call it.
_LABEL, _CONCEPT, _PARENT = ("label", "bin"), ("concept", "class", "cls"), ("parent",)
_MARKS = {",": "comma", ";": "semicolon", "\t": "tab"}
_MOST_BYTES = 64 << 20


class BinLine(NamedTuple):
    """One line: a label, a noun, wnid or synset name (empty for a label that only holds others), and its parent.

    line: its number in the file, for messages.
    """

    label: str
    concept: str
    parent: str = ""
    line: int = 0


GivenBins: TypeAlias = (
    "str | os.PathLike[str] | Mapping[str, str | Sequence[str]] | Sequence[BinLine | tuple[str, ...]]"
)


def bin_lines(given: GivenBins) -> tuple[BinLine, ...]:
    """Return the lines of a file (`.tsv`: with tabs), of a mapping label -> concepts, or of rows, checked.

    Raises UsageError for a file that cannot be read, and as `parse_bins`.
    """
    if isinstance(given, (str, os.PathLike)):
        return _read(Path(given))
    if isinstance(given, Mapping):
        pairs = ((label, (one,) if isinstance(one, str) else tuple(one) or ("",)) for label, one in given.items())
        given = [(label, concept) for label, concepts in pairs for concept in concepts]
    rows = []
    for number, row in enumerate(given, 1):
        if not 2 <= len(row) <= 4 or not all(isinstance(cell, str) for cell in row[:3]):
            raise UsageError(f"bins, line {number}: expected label, concept and, where wanted, parent; found {row!r}.")
        found = BinLine(*row)
        rows.append(found if found.line else found._replace(line=number))
    return _checked(rows, "bins")


def _read(path: Path) -> tuple[BinLine, ...]:
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise UsageError(f"The bins '{path}' cannot be read: {error.strerror or error}.") from None
    if len(content) > _MOST_BYTES:
        raise UsageError(f"'{path}' is larger than the {_MOST_BYTES:,} bytes of bins that are read.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"'{path}' is not UTF-8 text (byte {error.start}): save it as UTF-8.") from None
    return parse_bins(text, str(path), "\t" if path.suffix.lower() == ".tsv" else ",")


def parse_bins(text: str, name: str, delimiter: str = ",") -> tuple[BinLine, ...]:
    """Return the lines of a CSV text whose first line names the columns, in any order: label, concept, parent.

    `bin` is another word for label, `class` and `cls` for concept. name: what messages call it. Raises UsageError, with
    the line, for other columns, an empty or a double line, a label named other, and parents that are unknown, several,
    or a cycle.
    """
    import csv
    import io

    table = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        lines = [(table.line_num, [cell.strip() for cell in cells]) for cells in table if any(map(str.strip, cells))]
    except csv.Error as error:
        raise UsageError(f"{name}, line {table.line_num}: {error}.") from None
    if not lines:
        raise UsageError(
            f"{name} holds no line: the first one names the columns, label,concept or label,concept,parent."
        )
    number, titles = lines[0]
    places = _places(titles, f"{name}, line {number}", delimiter)
    if len(lines) == 1:
        raise UsageError(f"{name} names columns, but no label.")
    rows = []
    for number, cells in lines[1:]:
        if len(cells) > len(titles):
            raise UsageError(
                f"{name}, line {number}: {len(cells)} cells where {len(titles)} columns are named: put a cell that has "
                f"a {_MARKS[delimiter]} in double quotes."
            )
        padded = cells + [""] * (len(titles) - len(cells))
        label, concept, parent = (padded[place] if place >= 0 else "" for place in places)
        rows.append(BinLine(label, concept, parent, number))
    return _checked(rows, name)


def _places(titles: list[str], where: str, delimiter: str) -> list[int]:
    """Return in which columns label, concept and parent stand; -1 for no parent."""
    known = [title.lower() for title in titles]
    places = [next((known.index(word) for word in words if word in known), -1) for words in (_LABEL, _CONCEPT, _PARENT)]
    unknown = [title for title in known if title not in (*_LABEL, *_CONCEPT, *_PARENT)]
    if min(places[:2]) >= 0 and not unknown and len(set(known)) == len(known):
        return places
    found = delimiter.join(titles)
    apart = next((mark for mark in _MARKS if mark != delimiter and mark in found), None)
    if len(titles) == 1 and apart is not None:
        ending = ", or call it .tsv" if apart == "\t" else ""
        raise UsageError(
            f"{where}: {_MARKS[apart]}s separate the columns: save the file with {_MARKS[delimiter]}s{ending}."
        )
    raise UsageError(
        f"{where}: it names the columns, label{delimiter}concept or label{delimiter}concept{delimiter}parent, not "
        f"'{found[:80]}'."
    )


def _checked(rows: Sequence[BinLine], name: str) -> tuple[BinLine, ...]:
    first = _labels(rows, name)
    above: dict[str, BinLine] = {}
    for row in rows:
        before = above.setdefault(row.label, row) if row.parent else row
        if before.parent != row.parent:
            raise UsageError(
                f"{name}, line {row.line}: '{row.label}' has the parent '{row.parent}' here and '{before.parent}' "
                f"in line {before.line}."
            )
        if row.parent and row.parent not in first:
            way_out = did_you_mean(row.parent, first) or f" Add '{row.parent},' where it only holds other labels."
            raise UsageError(f"{name}, line {row.line}: the parent '{row.parent}' has no line of its own.{way_out}")
    parent = {label: row.parent for label, row in above.items()}
    for label, row in first.items():
        _refuse_cycle(label, parent, f"{name}, line {row.line}")
    holds = set(parent.values())
    for row in rows:
        if not row.concept and row.label not in holds:
            raise UsageError(
                f"{name}, line {row.line}: '{row.label}' has no concept, and no label has it as its parent."
            )
    return tuple(rows)


def _labels(rows: Sequence[BinLine], name: str) -> dict[str, BinLine]:
    """Return the first line of each label; raises UsageError for what cannot be one, and for lines that stand twice."""
    first: dict[str, BinLine] = {}
    folded: dict[str, BinLine] = {}
    seen: dict[tuple[str, str], BinLine] = {}
    for row in rows:
        where = f"{name}, line {row.line}"
        if not row.label:
            raise UsageError(f"{where}: the label is empty.")
        if row.label.casefold() == OTHER:
            raise UsageError(f"{where}: '{row.label}' is what belongs to no label; call this one otherwise.")
        alike = folded.setdefault(row.label.casefold(), row)
        if alike.label != row.label:
            raise UsageError(
                f"{where}: the labels '{row.label}' and '{alike.label}' (line {alike.line}) differ in case alone."
            )
        twice = seen.setdefault((row.label, row.concept), row)
        if twice is not row:
            raise UsageError(f"{where}: '{row.label},{row.concept}' stands in line {twice.line} already.")
        first.setdefault(row.label, row)
    return first


def _refuse_cycle(label: str, parent: Mapping[str, str], where: str) -> None:
    chain = [label]
    while chain[-1] in parent:
        chain.append(parent[chain[-1]])
        if chain[-1] == label:
            raise UsageError(f"{where}: the parents form a cycle: {' -> '.join(map(repr, chain))}.")
        if len(chain) > len(parent) + 1:
            return  # it leads into a cycle of others, which is found from there


def labels_of(lines: Iterable[BinLine]) -> tuple[str, ...]:
    """Return the labels, in the order in which they appear, *other* last."""
    return (*dict.fromkeys(line.label for line in lines), OTHER)
