"""Two sets of answers over the same inputs: where they differ, and by how much.

`relation` of two answers, by their paths: `same`; `deeper`, the second one goes on where the first one stops (cat, then
tabby); `shallower`, the other way round; `different`, they part before either ends (cat and dog); `none`, one of them
gives no answer; `error`, one of them could not read the image.
"""

from __future__ import annotations

import heapq
from collections import Counter
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

from miil21k.errors import UsageError
from miil21k.predict.html_page import html_page, table, thumbnail
from miil21k.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from miil21k.writers.rows import Row

__all__ = ["RELATIONS", "Compared", "Difference", "compare_rows", "comparison_page", "most_different", "summary"]

RELATIONS = ("same", "deeper", "shallower", "different", "none", "error")
MOST_SHOWN = 100


class ComparedAnswer(NamedTuple):
    """One answer. name, wnid, probability: of its last node, None without one. top: the wnid of the likeliest class."""

    wnid: str | None
    name: str | None
    probability: float | None
    top: str | None
    top_probability: float | None


class Difference(NamedTuple):
    """Two answers to one input. relation: one of `RELATIONS`. meets: the last node that both paths share.

    steps: nodes of both paths behind it. same_top: the likeliest class is the same. shift: how far the probability of
    the first one's likeliest class moved, None where the second does not list it.
    """

    input: str
    relation: str
    first: ComparedAnswer
    second: ComparedAnswer
    meets: str | None
    steps: int
    same_top: bool
    shift: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return the row of `miil21k compare`: one level, the answers as `first_wnid`, `first_name` and so on."""
        row: dict[str, Any] = {"input": self.input, "relation": self.relation}
        for which in ("first", "second"):
            row.update({f"{which}_{name}": value for name, value in getattr(self, which)._asdict().items()})
        return {**row, "meets": self.meets, "steps": self.steps, "same_top": self.same_top, "shift": self.shift}


class Compared(NamedTuple):
    """What a comparison came to. images: inputs. relations: how many of each. same_top: share of images that both read.

    mean_shift: of the probability of the likeliest class; max_shift: the largest.
    """

    images: int
    relations: dict[str, int]
    same_top: float
    mean_shift: float
    max_shift: float


def _answer(row: Row) -> ComparedAnswer:
    last: Row = row["path"][-1] if row["path"] else {}
    top: Row = row["topk"][0] if row["topk"] else {}
    return ComparedAnswer(
        last.get("wnid"), last.get("name"), last.get("probability"), top.get("wnid"), top.get("probability")
    )


def compare_rows(first: Iterable[Row], second: Iterable[Row]) -> Iterator[Difference]:
    """Yield how two rows of each input differ, in the order of the first; `Prediction.to_dict` gives such rows.

    Both must hold the same inputs in the same order; raises UsageError, with the place, when they do not, or when rows
    have no paths (those of CSV).
    """
    one, other = iter(first), iter(second)
    for number, row in enumerate(one, 1):
        again = next(other, None)
        if again is None or again["input"] != row["input"]:
            raise UsageError(
                f"Row {number:,} is '{row['input']}' in the first and "
                f"'{'nothing' if again is None else again['input']}' in the second: compare answers to the same inputs."
            )
        if not isinstance(row.get("path"), list) or not isinstance(again.get("path"), list):
            raise UsageError("Rows of CSV have no paths that can be compared: write jsonl or parquet.")
        yield _difference(row, again)
    if next(other, None) is not None:
        raise UsageError("The second has more rows than the first: compare answers to the same inputs.")


def _difference(row: Row, again: Row) -> Difference:
    first, second = _answer(row), _answer(again)
    if "error" in (row["status"], again["status"]):
        return Difference(row["input"], "error", first, second, None, 0, False, None)
    paths = [[node["wnid"] for node in found["path"]] for found in (row, again)]
    # Paths of two readings or spaces pass by other words: what counts is which nodes both have.
    shared = [node for node in row["path"] if node["wnid"] in paths[1]]
    steps = sum(len(path) - (path.index(shared[-1]["wnid"]) + 1 if shared else 0) for path in paths)
    if not paths[0] or not paths[1]:
        relation = "same" if paths[0] == paths[1] else "none"
    elif first.wnid == second.wnid:
        relation = "same"
    elif first.wnid in paths[1]:
        relation = "deeper"
    elif second.wnid in paths[0]:
        relation = "shallower"
    else:
        relation = "different"
    shift = None
    if first.top is not None and first.top_probability is not None:
        now = next((node["probability"] for node in again["topk"] if node["wnid"] == first.top), None)
        shift = None if now is None else round(now - first.top_probability, 6)
    meets = shared[-1]["name"] if shared else None
    return Difference(row["input"], relation, first, second, meets, steps, first.top == second.top, shift)


def summary(differences: Iterable[Difference]) -> Compared:
    """Return what all differences come to."""
    relations: Counter[str] = Counter()
    tops, shifts = 0, []
    for found in differences:
        relations[found.relation] += 1
        tops += found.same_top
        shifts += [] if found.shift is None else [abs(found.shift)]
    count = sum(relations.values())
    read = count - relations["error"]
    counted = {relation: relations[relation] for relation in RELATIONS}
    mean = sum(shifts) / len(shifts) if shifts else 0.0
    return Compared(count, counted, tops / read if read else 0.0, mean, max(shifts, default=0.0))


def comparison_page(
    names: tuple[str, str], compared: Compared, worst: Sequence[Difference], read: Callable[[str], bytes]
) -> str:
    """Return a page of HTML: the counts, and the images that differ most. read: the bytes of an image, by its name."""
    counts = [(relation, f"{count:,}", f"{count / max(1, compared.images):.1%}") for relation, count in _kept(compared)]
    title = f"{names[0]} and {names[1]} over {compared.images:,} images"
    shown = [
        f"<figure>{thumbnail(found.input, read)}<figcaption>{_words(found)}</figcaption></figure>"
        for found in worst[:MOST_SHOWN]
    ]
    same = (
        f"The likeliest class is the same for {compared.same_top:.1%}; its probability moves by "
        f"{compared.mean_shift:.3f} on average, by {compared.max_shift:.3f} at most."
    )
    return html_page(
        title,
        [
            f"<h1>{_text(title)}</h1>",
            f"<p>{same}</p>",
            table(("second against first", "images", "share"), counts),
            f"<h2>Where they differ most</h2><div class='photos'>{''.join(shown)}</div>" if shown else "",
        ],
    )


def _kept(compared: Compared) -> list[tuple[str, int]]:
    return [(relation, count) for relation, count in compared.relations.items() if count]


def _words(found: Difference) -> str:
    said = [
        "nothing sure enough" if answer.name is None else f"{answer.name} {answer.probability:.2f}"
        for answer in (found.first, found.second)
    ]
    return f"<b>{_text(said[0])}</b> | <b>{_text(said[1])}</b><br><span class='soft'>{_text(found.input)}</span>"


def _text(text: str) -> str:
    return escape(printable(text))


def most_different(differences: Iterable[Difference], count: int = MOST_SHOWN) -> list[Difference]:
    """Return the differences that matter most: other things first, then more steps apart, then larger shifts."""
    weight = {"different": 3, "none": 2, "deeper": 1, "shallower": 1, "error": 1, "same": 0}

    def key(found: Difference) -> tuple[int, int, float]:
        return weight[found.relation], found.steps, abs(found.shift or 0)

    return heapq.nlargest(count, (found for found in differences if found.relation != "same"), key=key)
