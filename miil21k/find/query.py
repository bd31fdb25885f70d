"""What is asked of an index: `bird and not parrot`, `bird>0.8 or "musical instrument"`, as classes and a filter.

A noun stands for the classes of its concept. Classes exclude each other, so `and`, `or` and `not` of nouns are those of
their classes, and the probability of the whole is the sum over the classes that are left, exact within the bound of the
index. For sigmoid heads it is the largest of them. A comparison (`bird>0.8`) is a filter besides.

    query  = part {"or" part}         part = item {["and"] item}
    item   = "not" item | "(" query ")" | noun [(">" | ">=" | "<" | "<=") number]
    noun   = words (musical instrument), "words in quotes", a wnid (n01503061) or a synset name (crane.n.04)
"""

from __future__ import annotations

import operator
import re
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from miil21k.errors import UsageError
from miil21k.hierarchy.concepts import concepts_of
from miil21k.hierarchy.questions import resolve

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from miil21k.find.store import Index
    from miil21k.hierarchy.concepts import Concepts
    from miil21k.hierarchy.questions import Question

__all__ = ["Query", "parse_query"]

_TOKEN = re.compile(r"""\s*(?:"([^"]*)"|'([^']*)'(?=[\s()<>]|$)|(>=|<=|[()<>&|!])|([^\s()<>&|!"]+))""")
_COMPARE: dict[str, Callable[..., NDArray[np.bool_]]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}
_WORDS = {"and": "and", "&": "and", "or": "or", "|": "or", "not": "not", "!": "not"}
MAX_DEPTH = 50  # of brackets


class Query(NamedTuple):
    """A query that was understood.

    text: as it was asked. classes: bool [C], those that answer it. wanted: bool [rows], where its comparisons hold,
    None without any. questions: how each noun was understood.
    """

    text: str
    classes: NDArray[np.bool_]
    wanted: NDArray[np.bool_] | None
    questions: tuple[Question, ...]

    def notes(self, concepts: Concepts) -> list[str]:
        """Return one line for each noun of several meanings."""
        return [note for question in self.questions if (note := question.note(concepts)) is not None]


class _Part(NamedTuple):
    classes: NDArray[np.bool_]
    wanted: NDArray[np.bool_] | None


def parse_query(text: str, index: Index) -> Query:
    """Return what `text` asks of `index`.

    Raises UsageError that shows the place of what is no query, UnknownClass for a noun without classes or of several
    meanings, as `miil21k.hierarchy.questions.resolve`.
    """
    reader = _Reader(text, index)
    part = reader.query()
    if reader.next is not None:
        raise reader.refusal()
    return Query(text, part.classes, part.wanted, tuple(reader.questions))


class _Reader:
    def __init__(self, text: str, index: Index) -> None:
        self._text, self._index = text, index
        self._concepts = concepts_of(index.about.space)
        self._tokens = list(_tokens(text))
        self._at = self._depth = 0
        self.questions: list[Question] = []

    @property
    def next(self) -> str | None:
        """The kind of the next token: and, or, not, a bracket, a comparison, or `word`; None behind the last."""
        return self._tokens[self._at][0] if self._at < len(self._tokens) else None

    def refusal(self, wanted: str = "and, or, or nothing more") -> UsageError:
        found = "its end" if self.next is None else f"'{self._tokens[self._at][1]}'"
        return UsageError(f"The query '{self._text}' is not understood at {found}: {wanted} belongs there.")

    def query(self) -> _Part:
        part = self._all_of()
        while self.next == "or":
            self._at += 1
            other = self._all_of()
            wanted = None if part.wanted is None or other.wanted is None else part.wanted | other.wanted
            part = _Part(part.classes | other.classes, wanted)
        return part

    def _all_of(self) -> _Part:
        part = self._item()
        while self.next in {"and", "not", "("}:
            if self.next == "and":
                self._at += 1
            other = self._item()
            filters = [found for found in (part.wanted, other.wanted) if found is not None]
            wanted = filters[0] & filters[-1] if filters else None
            part = _Part(part.classes & other.classes, wanted)
        return part

    def _item(self) -> _Part:
        if self.next == "not":
            self._at += 1
            part = self._item()
            return _Part(~part.classes & self._index.about.shown, None if part.wanted is None else ~part.wanted)
        if self.next == "(":
            self._at += 1
            self._depth += 1
            if self._depth > MAX_DEPTH:
                raise UsageError(f"The query has more than {MAX_DEPTH} brackets inside each other.")
            part = self.query()
            if self.next != ")":
                raise self.refusal("a closing bracket")
            self._at += 1
            self._depth -= 1
            return part
        return self._noun()

    def _noun(self) -> _Part:
        words = []
        while self.next == "word":
            words.append(self._tokens[self._at][1])
            self._at += 1
        if not words:
            raise self.refusal("a noun")
        question = resolve(self._concepts, " ".join(words), self._index.about.shown)
        self.questions.append(question)
        classes = np.zeros(self._concepts.num_classes, bool)
        classes[self._concepts.classes(question.concept)] = True
        if self.next not in _COMPARE:
            return _Part(classes, None)
        compare = _COMPARE[self._tokens[self._at][0]]
        self._at += 1
        try:
            limit = float(self._tokens[self._at][1])
        except (IndexError, ValueError):
            raise self.refusal("a probability") from None
        if not 0 <= limit <= 1:
            raise UsageError(f"A probability lies between 0 and 1, not {limit:g}.")
        self._at += 1
        return _Part(classes, compare(self._index.probability(classes), np.float32(limit)))


def _tokens(text: str) -> list[tuple[str, str]]:
    found, at = [], 0
    text = text.rstrip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise UsageError(f"The query '{text}' is not understood at '{text[at:].strip()}': is a quote missing?")
        at = match.end()
        double, single, sign, word = match.groups()
        quoted = double if double is not None else single
        if quoted is not None:
            found.append(("word", quoted))
        elif sign is not None:
            found.append((_WORDS.get(sign, sign), sign))
        else:
            found.append((_WORDS.get(word.lower(), "word"), word))
    if not found:
        raise UsageError("An empty query asks nothing: name a noun, as in 'bird and not parrot'.")
    return found
