"""Label spaces: what each logit of a head means. A space is an artefact with a name and a hash, never a count.

Four spaces ship with the package, one UTF-8 text file each (`label_spaces/*.tsv`):

| name | classes | what it is |
|---|---|---|
| `fall11` | 11,221 | ImageNet-21K-P on the first release of ImageNet; every published MIIL 21K checkpoint |
| `winter21` | 10,450 | ImageNet-21K-P on the release of winter 2021; equals the official semantic tree |
| `goog21k` | 21,843 | all of ImageNet-21K in the order of the BiT heads |
| `in1k` | 1,000 | ImageNet-1K, bridged onto the tree of winter21 |

File format 1: a line `miil21k-label-space`, `1`, the name and the number of classes; a line of column titles; then
one line per node, classes first in logit order: wnid, parent wnid (`-` for a root), lemmas joined by `|`, gloss.
All fields are separated by tabs. Format 2 is the same for an own hierarchy that is a graph: the parents of a node are
joined by `|`, and the first one is its parent in the tree.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from miil21k.errors import LabelSpaceMismatch, TreeError
from miil21k.hierarchy.tree import Tree

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

__all__ = [
    "LABEL_SPACES",
    "LabelSpace",
    "SpaceIdentity",
    "changed_since",
    "known_texts",
    "parse_label_space",
    "projection",
    "recorded_space",
    "require_same",
    "shipped",
    "shipped_digest",
    "shipped_gloss",
    "withdrawn_classes",
]

LABEL_SPACES = ("fall11", "winter21", "goog21k", "in1k")


class OlderSpace(NamedTuple):
    """A shipped tree as it was before. name: of the space. sha256: of the old tree. reason: what changed since."""

    name: str
    sha256: str
    reason: str


# What `load_label_space` takes beside `LABEL_SPACES`; `label_spaces/NAME.parents.tsv` holds the parents that changed.
OLDER_SPACES = {
    "goog21k@1": OlderSpace(
        "goog21k",
        "f020c7c67140a1590a760bb9198050d82879f2b203115b17741eafbae6bd4ae5",
        "19 of its roots hang from a hypernym since, because another of their hypernyms has a class above it",
    )
}
FORMAT = "miil21k-label-space"
TREE_VERSION, GRAPH_VERSION = "1", "2"
_COLUMNS = "wnid\tparent\tlemmas\tgloss"
_SHIPPED = Path(__file__).parent / "label_spaces"


class SpaceIdentity(NamedTuple):
    """What a head or a checkpoint records about its label space: the name and the digest of the tree."""

    name: str
    sha256: str


@dataclass(frozen=True, eq=False, repr=False)
class LabelSpace:
    """A named hypernym forest with the words for its nodes; the first `num_classes` nodes are the logits.

    name: `winter21` and the like, or the stem of the user's file. tree: the forest, N nodes.
    lemma_text, gloss_text: N raw strings, lemmas joined by `|`; read them through `lemmas` and `glosses`.
    further_parents: (child, parent) keys of an own hierarchy that is a graph, beside the parent that the tree has.
    concepts_sha256: of the space in an export, the digest of the concept graph that its answers were read on; empty
    where they were not. `concepts_of` refuses another graph.
    """

    name: str
    tree: Tree
    lemma_text: Sequence[str]
    gloss_text: Sequence[str]
    further_parents: tuple[tuple[str, str], ...] = ()
    concepts_sha256: str = ""

    def __post_init__(self) -> None:
        if not len(self.lemma_text) == len(self.gloss_text) == self.tree.num_nodes:
            raise TreeError(
                f"Label space '{self.name}' has {self.tree.num_nodes} nodes, but {len(self.lemma_text)} lemma lists "
                f"and {len(self.gloss_text)} glosses."
            )

    def __repr__(self) -> str:
        return f"LabelSpace({self.name!r}, {self.num_classes} classes, {self.tree.num_nodes} nodes)"

    @property
    def sha256(self) -> str:
        """Hex SHA-256 of the tree's canonical text; two spaces with the same digest decode alike."""
        return self.tree.sha256

    @property
    def identity(self) -> SpaceIdentity:
        """Name and digest, the two things that a head records."""
        return SpaceIdentity(self.name, self.sha256)

    @property
    def num_classes(self) -> int:
        """C, the number of logits."""
        return self.tree.num_classes

    @property
    def wnids(self) -> tuple[str, ...]:
        """The C class wnids, in logit order (inner nodes that are no classes are left out)."""
        return self.tree.wnids[: self.tree.num_classes]

    def with_all_nodes(self) -> LabelSpace:
        """Return the space in which every node is a class, named `<name>_nodes`; itself where that is so already.

        The classes keep their indices, and the inner nodes follow.
        """
        tree = self.tree
        if tree.num_nodes == tree.num_classes:
            return self
        whole = Tree(tree.wnids, tree.names, tree.parent, tree.num_nodes)
        return LabelSpace(f"{self.name}_nodes", whole, self.lemma_text, self.gloss_text, self.further_parents)

    @cached_property
    def lemmas(self) -> tuple[tuple[str, ...], ...]:
        """N tuples of synonyms, the display name first; spaces, not underscores."""
        return tuple(tuple(text.split("|")) for text in self.lemma_text)

    @cached_property
    def glosses(self) -> tuple[str, ...]:
        """N definitions; empty where the source has none."""
        return tuple(self.gloss_text)

    @cached_property
    def _shared_names(self) -> frozenset[str]:
        seen: set[str] = set()
        return frozenset(name for name in self.tree.names if name in seen or seen.add(name))  # type: ignore[func-returns-value]

    def display_name(self, node: int) -> str:
        """Return the name of `node`, with its wnid behind it when other nodes share the name."""
        name = self.tree.names[node]
        return f"{name} ({self.tree.wnids[node]})" if name in self._shared_names else name

    def to_text(self) -> str:
        """Return the file of format 1 or 2 that `parse_label_space` reads back; raises TreeError for a tab."""
        tree = self.tree
        parents = ["-" if p < 0 else tree.wnids[p] for p in tree.parent.tolist()]
        version = TREE_VERSION
        if self.further_parents:
            version = GRAPH_VERSION
            for child, parent in self.further_parents:
                if "|" in child + parent + parents[tree.index(child)].split("|")[0]:
                    raise TreeError(f"Nodes with '|' in their key, such as '{child}', cannot have several parents.")
                parents[tree.index(child)] += f"|{parent}"
        lines = [f"{FORMAT}\t{version}\t{self.name}\t{self.num_classes}", _COLUMNS]
        for row in zip(tree.wnids, parents, self.lemma_text, self.gloss_text, strict=True):
            line = "\t".join(row)
            if line.count("\t") != 3 or len(line.splitlines()) != 1:
                raise TreeError(f"Node '{row[0]}' has a tab or a line break in its name or gloss: store it as JSON.")
            lines.append(line)
        return "\n".join(lines) + "\n"


def parse_label_space(text: str, origin: str) -> LabelSpace:
    """Return the label space that `text` (format 1 or 2) holds.

    origin: the file name for messages. Raises TreeError naming the line for anything that is neither format.
    """
    end = text.find("\n")
    title, columns = text[:end], text[end + 1 : text.find("\n", end + 1)]
    header = title.split("\t")
    known = header[0] == FORMAT and header[1:2] in ([TREE_VERSION], [GRAPH_VERSION])
    if len(header) != 4 or not known or not header[3].isdecimal():
        raise TreeError(
            f"{origin}, line 1: expected '{FORMAT}', '{TREE_VERSION}' or '{GRAPH_VERSION}', a name and a class count, "
            f"separated by tabs; found {title[:60]!r}."
        )
    if columns != _COLUMNS or not text.endswith("\n"):
        raise TreeError(f"{origin} is damaged or was cut off: build or download it again.")
    # One flat list of strings and four slices of it: a list per line costs twice the time, in garbage collection.
    # The first two lines have four fields as well, and every copy of the text less saves its page faults.
    fields = text.replace("\n", "\t").split("\t")
    fields.pop()  # what follows the last line: nothing
    if len(fields) != 4 * text.count("\n"):
        raise TreeError(_broken_line(text, origin))
    wnids, parents, lemmas, glosses = (tuple(fields[column::4]) for column in range(8, 12))
    further: list[tuple[str, str]] = []
    if header[1] == GRAPH_VERSION:
        several = [text.split("|") for text in parents]
        parents = tuple([found[0] for found in several])
        further = [(child, parent) for child, found in zip(wnids, several, strict=True) for parent in found[1:]]
    index = dict(zip(wnids, range(len(wnids)), strict=True))
    if unknown := [parent for _, parent in further if parent not in index]:
        raise TreeError(f"{origin}: the parent '{unknown[0]}' is no node of this file.")
    index["-"] = -1
    try:
        parent = np.fromiter(map(index.__getitem__, parents), np.int32, len(parents))
    except KeyError:
        raise TreeError(_broken_line(text, origin)) from None
    names = tuple([text.partition("|")[0] for text in lemmas])
    return LabelSpace(header[2], Tree(wnids, names, parent, int(header[3])), lemmas, glosses, tuple(further))


def _broken_line(text: str, origin: str) -> str:
    """Return the message about the first line that lacks a field, or else about the first unknown parent."""
    rows = [line.split("\t") for line in text[:-1].split("\n")[2:]]
    for number, row in enumerate(rows, 3):
        if len(row) != 4:
            return f"{origin}, line {number}: expected 4 fields (wnid, parent, lemmas, gloss)."
    known = {"-", *(row[0] for row in rows)}
    number, unknown = next((n, row[1]) for n, row in enumerate(rows, 3) if row[1] not in known)
    return f"{origin}, line {number}: the parent {unknown!r} is no node of this file."


@cache
def shipped(name: str) -> LabelSpace:
    """Return the shipped space `name`, one of `LABEL_SPACES` or `OLDER_SPACES`; it is read once per process.

    An older space has the name of today's, as in the records that were made with it, and its own digest.
    """
    if name not in OLDER_SPACES:
        return parse_label_space(_content(name).decode(), f"{name}.tsv")
    today = shipped(OLDER_SPACES[name].name)
    tree, parent = today.tree, today.tree.parent.copy()
    for line in _content(f"{name}.parents").decode().splitlines():
        child, above = line.split("\t")
        parent[tree.index(child)] = -1 if above == "-" else tree.index(above)
    old = Tree(tree.wnids, tree.names, parent, tree.num_classes)
    return LabelSpace(today.name, old, today.lemma_text, today.gloss_text)


def recorded_space(name: str, sha256: str) -> LabelSpace | None:
    """Return the shipped space of that name and digest, today's or an older one; None when neither is it."""
    older = [key for key, old in OLDER_SPACES.items() if (old.name, old.sha256) == (name, sha256)]
    if older:
        return shipped(older[0])
    return shipped(name) if name in LABEL_SPACES and shipped(name).sha256 == sha256 else None


def known_texts(name: str) -> tuple[str, ...]:
    """Return the files of the shipped space `name`, today's and older ones; none for another name."""
    older = [shipped(key) for key, old in OLDER_SPACES.items() if old.name == name]
    return tuple(space.to_text() for space in [*([shipped(name)] if name in LABEL_SPACES else []), *older])


def changed_since(name: str, *digests: str) -> str | None:
    """Return why trees of one name and these digests differ and how to load the older one; None where none is known."""
    for key, old in OLDER_SPACES.items():
        if old.name == name and old.sha256 in digests:
            return (
                f"'{name}' was changed: {old.reason}. '--label-space {key}' is the tree before "
                f"({old.sha256[:12]}); everything made with it stays readable."
            )
    return None


@cache
def shipped_digest(name: str) -> str:
    """Return the SHA-256 of the file of a shipped space; parsing it and digesting its tree takes ten times as long."""
    return hashlib.sha256(_content(name)).hexdigest()


@cache
def _content(name: str) -> bytes:
    """Return the file of a shipped space, which a start both digests and parses."""
    return (_SHIPPED / f"{name}.tsv").read_bytes()


def shipped_gloss(name: str, wnid: str) -> str:
    """Return the definition that a shipped space has for a node, without parsing the space; KeyError for no node."""
    content = _content(name)
    start = content.find(f"\n{wnid}\t".encode()) + 1
    if not start:
        raise KeyError(wnid)
    return content[start : content.index(b"\n", start)].decode().rpartition("\t")[2]


@cache
def _withdrawn_wnids() -> frozenset[str]:
    """Return the classes of goog21k at or below person (n00007846) that winter21 lacks, found ahead."""
    return frozenset((_SHIPPED / "withdrawn_persons.txt").read_text(encoding="utf-8").split())


@lru_cache(maxsize=8)
def withdrawn_classes(space: LabelSpace) -> NDArray[np.bool_]:
    """Return bool [C], read-only, True for the person classes that ImageNet withdrew in winter 2021.

    fall11: exactly the 771 classes that winter21 lacks. goog21k: every class at or below person (n00007846) that
    winter21 lacks; the complete list of classes that ImageNet withdrew from the 21,841 is not public, so this errs
    on the side of removing. All other spaces, a user's own included: none.
    """
    if space.name not in {"fall11", "goog21k"}:
        found = np.zeros(space.num_classes, np.bool_)
    else:
        found = np.fromiter(map(_withdrawn_wnids().__contains__, space.wnids), np.bool_, space.num_classes)
    found.setflags(write=False)
    return found


def _lacking(source: LabelSpace, wanted: Iterable[str]) -> list[str]:
    has = frozenset(source.wnids)
    return [wnid for wnid in wanted if wnid not in has]


def projection(source: LabelSpace, target: LabelSpace) -> NDArray[np.int32]:
    """Return int32 [C_target], where each class of `target` stands in `source`.

    `logits[:, projection(source, target)]` is a head of `target`: a selection of columns, bit-equal, no retraining.
    Raises LabelSpaceMismatch when `source` lacks a class of `target`.
    """
    missing = _lacking(source, target.wnids)
    if missing:
        raise LabelSpaceMismatch(
            f"A head of '{source.name}' cannot answer in '{target.name}': {len(missing)} of its {target.num_classes} "
            f"classes are missing ({', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}). Keep the head's own "
            f"label space (--label-space {source.name}), or choose a model whose head has them all."
        )
    index = source.tree.index_of
    return np.fromiter((index[wnid] for wnid in target.wnids), np.int32, target.num_classes)


def require_same(head: LabelSpace, other: LabelSpace | SpaceIdentity, other_is: str = "data set") -> None:
    """Check that a head and what it meets speak of the same classes in the same tree; returns nothing.

    other: the space, or the recorded identity, of a data set or a checkpoint; other_is: what to call it.
    Raises LabelSpaceMismatch that gives both names and digests, and the way out, when the digests differ.
    """
    if head.sha256 == other.sha256:
        return
    missing: list[str] = []
    if isinstance(other, LabelSpace):
        missing = _lacking(head, other.wnids)
    if missing:
        way_out = (
            f"No projection exists, since the head lacks {len(missing)} classes ({', '.join(missing[:3])}"
            f"{', ...' if len(missing) > 3 else ''}): use a model of '{other.name}', or a {other_is} of '{head.name}'."
        )
    elif head.name == other.name and (reason := changed_since(head.name, head.sha256, other.sha256)):
        way_out = reason
    elif head.name == other.name:
        way_out = "Same name, different trees: give both the same label-space file."
    else:
        way_out = f"Project the head with --label-space {other.name}, or use a {other_is} of '{head.name}'."
    raise LabelSpaceMismatch(
        f"The head is of label space '{head.name}' ({head.sha256[:12]}), the {other_is} of '{other.name}' "
        f"({other.sha256[:12]}). {way_out}"
    )
