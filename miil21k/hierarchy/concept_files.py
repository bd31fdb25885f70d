"""The files of concepts that ship: the nouns as text, and what is known of each space's graph ahead of any question.

`label_spaces/concepts.tsv` holds the graph around all shipped classes, of which those of the spaces are parts. A line
`miil21k-concepts`, `1`, `wordnet` and the number of synsets; a line of column titles; then one line per synset in wnid
order: wnid, hypernyms joined by spaces (`-` for the root), lemmas joined by `|`, gloss (empty where goog21k has it).
A lemma that has several senses, or a tag count, says behind `#` which sense this is in WordNet's order of use, and
behind `:` how often it was tagged: `dog#1:42`.

`label_spaces/concepts.bin` follows from it and from the spaces, so that a question costs searches and no parse. A line
`miil21k-concept-arrays`, `1` and the bytes of concepts.tsv; one line per array: name, type (`u1`, `u2`, `u4`:
little-endian; `text`) and length; an empty line; the arrays, one behind the other. `words` says where the lemmas of
concepts.tsv stand, in bytes, ordered by the folded word. The others are those of `KnownGraph`, of each space.
`miil21k tree build concepts` makes both files: same bytes.
"""

from __future__ import annotations

from bisect import bisect_left
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from miil21k.errors import TreeError
from miil21k.hierarchy.nouns import Lemma, fold, lines_naming, parse_lemma

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

__all__ = [
    "CONCEPT_COLUMNS",
    "CONCEPT_HEADER",
    "ConceptLines",
    "Cover",
    "KnownGraph",
    "arrays_to_bytes",
    "concept_lines",
    "known_graph",
]

CONCEPT_HEADER = "miil21k-concepts\t1\twordnet\t"
CONCEPT_COLUMNS = "wnid\thypernyms\tlemmas\tgloss"
_ARRAYS_HEADER = "miil21k-concept-arrays\t1\t"
_TEXT = Path(__file__).parent / "label_spaces" / "concepts.tsv"
_ARRAYS = _TEXT.with_suffix(".bin")
_FEW = 64  # searches for single lines; whoever wants more is served faster by a dictionary of all


class Cover(NamedTuple):
    """Concepts with classes outside of their branch of the spanning tree, and the branches that they miss.

    owners: int32 [M], such concepts, ascending. starts: int32 [M], where the branches of each begin in `branches`.
    branches: int32 [X], concepts; the branch of an owner and those listed for it are disjoint and hold all its classes.
    """

    owners: NDArray[np.int32]
    starts: NDArray[np.int32]
    branches: NDArray[np.int32]


class KnownGraph(NamedTuple):
    """The graph of K concepts and E edges around the classes of a shipped space, found ahead.

    wnids: the concepts that are no nodes of the tree. sha256, depth (int32 [K]), cover: those of `Concepts`. above:
    int32 [K], how many hypernyms each concept has. parent: int32 [E], these, in the order of the concepts. first,
    size: int32 [K], the branch of each concept among the classes in depth-first order of the spanning tree.
    """

    wnids: tuple[str, ...]
    sha256: str
    depth: NDArray[np.int32]
    above: NDArray[np.int32]
    parent: NDArray[np.int32]
    first: NDArray[np.int32]
    size: NDArray[np.int32]
    cover: Cover

    def sections(self) -> dict[str, tuple[str, Any]]:
        """Return name -> type and values of what is stored."""
        small = {"depth": self.depth, "above": self.above}
        large = {"parent": self.parent, "first": self.first, "size": self.size, **self.cover._asdict()}
        texts: dict[str, tuple[str, Any]] = {"wnids": ("text", " ".join(self.wnids)), "sha256": ("text", self.sha256)}
        return texts | {n: ("u1", a) for n, a in small.items()} | {n: ("u2", a) for n, a in large.items()}


class ConceptLines:
    """The lines of concepts.tsv, found by wnid or word; all are taken apart only for those who ask for many.

    content: the file. words: uint32 [W], where its lemmas stand, ordered by the folded word; None where that is not
    known, and `named` cannot be asked. Raises TreeError when lines are damaged, once all are taken apart.
    """

    def __init__(self, content: bytes, words: NDArray[np.uint32] | None = None) -> None:
        self._content, self._words, self._searches = content, words, 0

    @cached_property
    def all(self) -> dict[str, str]:
        """Wnid -> line, in the order of the file."""
        text = self._content.decode()
        lines = text.split("\n")[2:-1]
        whole = text.startswith(f"{CONCEPT_HEADER}{len(lines)}\n{CONCEPT_COLUMNS}\n") and text.endswith("\n")
        if not whole or text.count("\t") != 3 * (len(lines) + 2):
            raise TreeError(_damaged(_TEXT))
        return {line[:9]: line for line in lines}

    def field(self, wnid: str, column: int) -> str | None:
        """Return what stands in a line: column 1 the hypernyms, 2 the lemmas, 3 the gloss; None for no such wnid."""
        if "all" in vars(self) or self._searches >= _FEW:
            line = self.all.get(wnid)
        else:
            self._searches += 1
            line = self._search(wnid)
        return None if line is None else line.split("\t", column + 1)[column]

    def _search(self, wnid: str) -> str | None:
        key, text = wnid.encode(), self._content
        start = text.index(b"\n", text.index(b"\n") + 1) + 1  # behind the two lines of titles
        inside = range(start, len(text))  # a place in the file -> the wnid of its line, ascending
        place = bisect_left(inside, key, key=lambda at: text[(line := text.rfind(b"\n", 0, at) + 1) : line + 9])
        at = start + place
        return text[at : text.index(b"\n", at)].decode() if text[at : at + 10] == key + b"\t" else None

    def named(self, word: str) -> list[tuple[str, Lemma]]:
        """Return (wnid, lemma) of the synsets that a folded word names, in wnid order."""
        assert self._words is not None
        found = []
        for place in range(bisect_left(self._words, word, key=lambda at: fold(self._lemma(at).word)), len(self._words)):
            at = int(self._words[place])
            lemma = self._lemma(at)
            if fold(lemma.word) != word:
                break
            line = self._content.rfind(b"\n", 0, at) + 1
            found.append((self._content[line : line + 9].decode(), lemma))
        return found

    def _lemma(self, at: int) -> Lemma:
        return parse_lemma(self._content[at : self._content.index(b"\t", at)].partition(b"|")[0].decode())

    @cached_property
    def _folded(self) -> str:
        return "\n".join(["", *self.all.values(), ""]).casefold()

    def searched(self, word: str) -> list[str]:
        """Return the wnids of the lines that hold a folded word as a field or as a word of one, without an index."""
        lines = list(self.all)
        return [lines[number] for number in lines_naming(self._folded, word)]

    def places_of_words(self) -> NDArray[np.uint32]:
        """Return uint32 [W], where each lemma stands, in bytes, ordered by the folded word, then by place."""
        return np.array([at for _, at in sorted(self._folded_words())], np.uint32)

    def _folded_words(self) -> Iterator[tuple[str, int]]:
        at = self._content.index(b"\n", self._content.index(b"\n") + 1) + 1
        for line in self.all.values():
            wnid, hypernyms, lemmas, _ = line.split("\t")
            place = at + len(wnid) + len(hypernyms) + 2
            for lemma in lemmas.split("|"):
                yield fold(parse_lemma(lemma).word), place
                place += len(lemma.encode()) + 1
            at += len(line.encode()) + 1


def arrays_to_bytes(lines: bytes, words: NDArray[np.uint32], graphs: Mapping[str, KnownGraph]) -> bytes:
    """Return the bytes of concepts.bin. lines: the bytes of concepts.tsv. words: where its lemmas stand."""
    sections: dict[str, tuple[str, Any]] = {"words": ("u4", words)}
    for space, graph in graphs.items():
        sections |= {f"{space}/{name}": section for name, section in graph.sections().items()}
    titles, content = [f"{_ARRAYS_HEADER}{len(lines)}"], b""
    for name, (kind, values) in sections.items():
        if kind == "text":
            stored = values.encode()
        else:
            assert int(values.max()) <= np.iinfo(kind).max
            stored = values.astype(f"<{kind}").tobytes()
        titles.append(f"{name}\t{kind}\t{len(stored) if kind == 'text' else len(values)}")
        content += stored
    return "\n".join([*titles, "", ""]).encode() + content


class _Section(NamedTuple):
    kind: str
    start: int
    length: int


class _Arrays:
    """The arrays of concepts.bin, each read when it is asked for; TreeError for a file that was cut off."""

    def __init__(self, content: bytes) -> None:
        titles, _, _ = content.partition(b"\n\n")
        title, *lines = titles.decode().split("\n")
        self._content, self._sections, at = content, dict[str, _Section](), len(titles) + 2
        for line in lines:
            name, kind, length = line.split("\t")
            self._sections[name] = _Section(kind, at, int(length))
            at += int(length) * (1 if kind == "text" else int(kind[1:]))
        if at != len(content) or not title.startswith(_ARRAYS_HEADER):
            raise TreeError(_damaged(_ARRAYS))
        self.bytes_of_text = int(title.removeprefix(_ARRAYS_HEADER))

    def text(self, name: str) -> str:
        _, start, length = self._sections[name]
        return self._content[start : start + length].decode()

    def array(self, name: str) -> NDArray[Any]:
        kind, start, length = self._sections[name]
        return np.frombuffer(self._content, f"<{kind}", length, start)

    def integers(self, name: str) -> NDArray[np.int32]:
        found = self.array(name).astype(np.int32)
        found.setflags(write=False)
        return found


@cache
def _arrays() -> _Arrays:
    return _Arrays(_ARRAYS.read_bytes())


@cache
def concept_lines() -> ConceptLines:
    """Return the shipped nouns; TreeError when the file was cut off, or is not the one that the arrays belong to."""
    content = _TEXT.read_bytes()
    if len(content) != _arrays().bytes_of_text:
        raise TreeError(_damaged(_TEXT))
    return ConceptLines(content, _arrays().array("words"))


def known_graph(space: str) -> KnownGraph:
    """Return the graph of a shipped space; raises TreeError when the file is damaged."""
    stored = _arrays()
    part = {name: stored.integers(f"{space}/{name}") for name in ("depth", "above", "parent", "first", "size")}
    cover = Cover(*(stored.integers(f"{space}/{name}") for name in Cover._fields))
    return KnownGraph(
        tuple(stored.text(f"{space}/wnids").split(" ")), stored.text(f"{space}/sha256"), **part, cover=cover
    )


def _damaged(file: Path) -> str:
    return f"{file} is damaged or was cut off: install miil21k again."
