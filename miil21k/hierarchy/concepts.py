"""Concepts: the noun graph around the classes of a label space. The tree decides levels; WordNet decides meaning.

A tree gives each class one parent, because a level softmax needs levels: dogs hang under *domestic animal*, so *mammal*
holds 95 of the 218 mammals of ImageNet-1K. A concept is a class, or any hypernym of one along any edge, and knows every
class at or below it. The graph is WordNet's (3.0, instance hypernyms count as hypernyms) where the classes are wnids,
joined with the edges of the space's own hierarchy that WordNet does not imply; else that hierarchy alone.

The graphs of the shipped spaces are found ahead (`concept_files`), so that a question parses nothing; `build_arrays`
finds them as those of own hierarchies are found.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np

from miil21k.errors import LabelSpaceMismatch, TreeError
from miil21k.hierarchy.concept_edges import joined_edges
from miil21k.hierarchy.concept_files import ConceptLines, Cover, KnownGraph, arrays_to_bytes, concept_lines, known_graph
from miil21k.hierarchy.nouns import Lemma, fold, lines_naming, parse_lemma, wordnet_nouns
from miil21k.hierarchy.spaces import LABEL_SPACES, shipped, shipped_gloss
from miil21k.hierarchy.tree import Tree

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from miil21k.hierarchy.spaces import LabelSpace

__all__ = ["Concepts", "build_arrays", "concepts_of"]

GRAPH_HEADER = "miil21k-concept-graph\t1\t"


@dataclass(frozen=True, eq=False, repr=False)
class Concepts:
    """K concepts of a label space of C classes and N tree nodes, and all hypernym edges between them.

    Concept index == node index for the tree's nodes, so the first C concepts are the classes; the other hypernyms
    follow in wnid order. space: the label space. wnids: K keys. child, parent: int32 [E], the edges, ordered by child;
    the first of each child spans a tree. known: of a shipped space, what was found about just these edges ahead.

    Raises TreeError, with the chain, when the edges form a cycle.
    """

    space: LabelSpace
    wnids: tuple[str, ...]
    child: NDArray[np.int32]
    parent: NDArray[np.int32]
    known: KnownGraph | None = None

    def __post_init__(self) -> None:
        for edges in (self.child, self.parent):
            edges.setflags(write=False)
        _ = self.depth  # refuses cycles

    def __repr__(self) -> str:
        return f"Concepts({self.space.name!r}, {len(self)} concepts, {self.num_classes} classes)"

    def __len__(self) -> int:
        return len(self.wnids)

    @property
    def num_classes(self) -> int:
        """C, the classes of the space; they are the first concepts."""
        return self.space.num_classes

    @cached_property
    def sha256(self) -> str:
        """Hex SHA-256 of C and one line per concept, wnid and hypernyms; two graphs of one digest answer alike."""
        if self.known is not None:
            return self.known.sha256
        lines = (" ".join((wnid, *above)) for wnid, above in zip(self.wnids, self._wnids_above, strict=True))
        return hashlib.sha256(("\n".join([f"{self.num_classes}", *lines]) + "\n").encode()).hexdigest()

    @property
    def _wnids_above(self) -> list[list[str]]:
        """The direct hypernyms of each concept."""
        found: list[list[str]] = [[] for _ in self.wnids]
        for child, parent in zip(self.child.tolist(), self.parent.tolist(), strict=True):
            found[child].append(self.wnids[parent])
        return found

    def to_text(self) -> str:
        """Return the graph as an exported file carries it, for those who read it without this package.

        A line `miil21k-concept-graph`, `1`, the name of the space and K; a line of column titles; one line per concept,
        in order: wnid, hypernyms joined by spaces (`-` for a root), name. All separated by tabs.
        """
        lines = [f"{GRAPH_HEADER}{self.space.name}\t{len(self)}", "wnid\thypernyms\tname"]
        above = (" ".join(up) or "-" for up in self._wnids_above)
        lines += ("\t".join(line) for line in zip(self.wnids, above, map(self.name, range(len(self))), strict=True))
        return "\n".join(lines) + "\n"

    @cached_property
    def index_of(self) -> dict[str, int]:
        """Map each wnid to its concept index."""
        return dict(zip(self.wnids, range(len(self)), strict=True))

    def lemmas(self, concept: int) -> tuple[Lemma, ...]:
        """Return the words of `concept`, the display name first: WordNet's, unless the user named it otherwise."""
        own = self.space.lemma_text[concept] if concept < len(self.space.lemma_text) else ""
        text = concept_lines().field(self.wnids[concept], 2)
        if text is None and own:
            return tuple(Lemma(word, 0, 0) for word in own.split("|"))
        text = wordnet_nouns().lemma_text(self.wnids[concept]) if text is None else text
        name = own.partition("|")[0]
        if own and not (text.startswith(name) and text[len(name) : len(name) + 1] in {"", "|", "#"}):
            return tuple(Lemma(word, 0, 0) for word in own.split("|"))
        return tuple(map(parse_lemma, text.split("|")))

    def name(self, concept: int) -> str:
        """Return the display name, the first lemma."""
        return self.lemmas(concept)[0].word

    def display_name(self, concept: int) -> str:
        """Return the name, with the wnid behind it when another node, or a concept of several meanings, has it too."""
        if concept < self.space.tree.num_nodes:
            return self.space.display_name(concept)
        name = self.name(concept)
        meanings = self.named[fold(name)] if self.known is None else self.meanings(fold(name))
        return f"{name} ({self.wnids[concept]})" if len(meanings) > 1 else name

    @cached_property
    def named(self) -> dict[str, list[tuple[int, Lemma]]]:
        """Folded word -> the concepts that it names, each with the lemma that does, in WordNet's order of use."""
        found: dict[str, list[tuple[int, Lemma]]] = {}
        for concept in range(len(self)):
            for lemma in self.lemmas(concept):
                found.setdefault(fold(lemma.word), []).append((concept, lemma))
        for meanings in found.values():
            if len(meanings) > 1:
                meanings.sort(key=lambda meaning: (meaning[1].sense, meaning[0]))
        return found

    def meanings(self, word: str) -> list[tuple[int, Lemma]]:
        """Return what `named` holds for a folded word, by a search that takes no other word apart."""
        lines = concept_lines()
        if not word:
            return []
        if self.known is not None:
            index = self.index_of
            pairs = [(index[wnid], lemma) for wnid, lemma in lines.named(word) if wnid in index]
        elif "named" in vars(self) or not lines.all.keys() >= self.index_of.keys():
            return self.named.get(word, [])
        else:
            own = "\n".join(["", *self.space.lemma_text, ""]).replace("_", " ").casefold()
            found = {self.index_of.get(wnid, -1) for wnid in lines.searched(word)} | set(lines_naming(own, word))
            pairs = [(c, lemma) for c in sorted(found - {-1}) for lemma in self.lemmas(c) if fold(lemma.word) == word]
        return sorted(pairs, key=lambda meaning: (meaning[1].sense, meaning[0]))

    def gloss(self, concept: int) -> str:
        """Return the definition; empty where the source has none."""
        if concept < len(self.space.gloss_text):
            return self.space.gloss_text[concept]
        found = concept_lines().field(self.wnids[concept], 3)
        return "" if found is None else found or shipped_gloss("goog21k", self.wnids[concept])

    @cached_property
    def depth(self) -> NDArray[np.int32]:
        """int32 [K], the longest chain of edges up to a root; raises TreeError for a cycle."""
        if self.known is not None:
            return self.known.depth
        depth = np.zeros(len(self), np.int32)
        for _ in range(len(self) + 1):
            deeper = depth.copy()
            np.maximum.at(deeper, self.child, depth[self.parent] + 1)
            if np.array_equal(deeper, depth):
                depth.setflags(write=False)
                return depth
            depth = deeper
        chain = [int(depth.argmax())]
        while chain.count(chain[-1]) < 2:  # of two equally deep parents each lies on or above a cycle
            up = self.parents(chain[-1])
            chain.append(int(up[depth[up].argmax()]))
        knot = " -> ".join(f"'{self.wnids[c]}'" for c in chain[chain.index(chain[-1]) :])
        raise TreeError(f"The edges of '{self.space.name}' form a cycle: {knot}.")

    @cached_property
    def tree(self) -> Tree:
        """The spanning tree along the first edge of each concept."""
        first = np.full(len(self), -1, np.int32)
        first[self.child[::-1]] = self.parent[::-1]  # the last write wins: the first edge
        return Tree(self.wnids, self.wnids, first, self.num_classes)

    @cached_property
    def _parent_start(self) -> NDArray[np.int64]:
        return np.searchsorted(self.child, np.arange(len(self) + 1))

    def parents(self, concept: int) -> NDArray[np.int32]:
        """Return int32, the direct hypernyms, in the order of the edges (WordNet's: ascending wnids)."""
        start = self._parent_start
        found: NDArray[np.int32] = self.parent[start[concept] : start[concept + 1]]
        return found

    @cached_property
    def _child_order(self) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        order = np.argsort(self.parent, kind="stable")
        return self.child[order], np.searchsorted(self.parent[order], np.arange(len(self) + 1))

    def children(self, concept: int) -> NDArray[np.int32]:
        """Return int32, the direct hyponyms that are concepts, ascending."""
        children, start = self._child_order
        found: NDArray[np.int32] = children[start[concept] : start[concept + 1]]
        return found

    def ancestors(self, concept: int) -> set[int]:
        """Return the concepts above along any edge, `concept` itself not included."""
        found: set[int] = set()
        todo = [concept]
        while todo:
            new = set(self.parents(todo.pop()).tolist()) - found
            found |= new
            todo += new
        return found

    def paths(self, concept: int) -> Iterator[tuple[int, ...]]:
        """Yield every chain of edges from a root down to `concept`, both included, in the order of the edges."""
        above = self.parents(concept).tolist()
        if not above:
            yield (concept,)
        for parent in above:
            yield from ((*chain, concept) for chain in self.paths(parent))

    def meet(self, a: int, b: int) -> int:
        """Return the concept at or above both that has the fewest classes, the lowest of equals; -1 for none."""
        both = (self.ancestors(a) | {a}) & (self.ancestors(b) | {b})
        return min(both, key=lambda c: (self.num_below[c], -self.depth[c], c), default=-1)

    def chain(self, top: int, concept: int) -> tuple[int, ...]:
        """Return one chain from `top` down to `concept`: at each step the parent with the fewest classes below `top`.

        Ties go to the lowest index. Raises TreeError when `top` is neither `concept` nor above it.
        """
        steps = [concept]
        while steps[-1] != top:
            above = [p for p in self.parents(steps[-1]).tolist() if p == top or top in self.ancestors(p)]
            if not above:
                raise TreeError(f"'{self.wnids[top]}' is not above '{self.wnids[concept]}'.")
            steps.append(min(above, key=lambda p: (self.num_below[p], p)))
        return tuple(reversed(steps))

    @cached_property
    def _branches(self) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
        """The classes in depth-first order of the spanning tree, and where the branch of each concept lies in it.

        Returns int32 [C], the classes; int32 [K] and [K], first and one past last.
        """
        first, size = self._spans() if self.known is None else (self.known.first, self.known.size)
        order = np.empty(self.num_classes, np.int32)
        order[first[: self.num_classes]] = np.arange(self.num_classes)
        return order, first, first + size

    def _spans(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Return int32 [K] and [K], where each branch of the spanning tree begins among the classes, and its size."""
        tree = self.tree
        size = np.zeros(len(self), np.int32)
        size[: self.num_classes] = 1
        own = size.copy()
        for family in reversed(tree.families[1:]):
            size[family.parents] += np.add.reduceat(size[family.nodes], family.starts)
        first = np.zeros(len(self), np.int32)
        for family in tree.families:
            before = np.cumsum(size[family.nodes]) - size[family.nodes]
            before -= before[family.starts][family.group]
            inside = 0 if family.parents[0] < 0 else (first[family.parents] + own[family.parents])[family.group]
            first[family.nodes] = inside + before
        return first, size

    @cached_property
    def cover(self) -> Cover:
        """What the spanning tree misses: few, since WordNet nearly is a tree."""
        if self.known is not None:
            return self.known.cover
        _, first, last = self._branches
        more: dict[int, list[int]] = {}
        further = np.flatnonzero(self.child[1:] == self.child[:-1]) + 1
        for child, parent in zip(self.child[further].tolist(), self.parent[further].tolist(), strict=True):
            above = np.array([parent, *self.ancestors(parent)])
            outside = (first[above] > first[child]) | (last[above] < last[child])
            for owner in above[outside].tolist():
                more.setdefault(owner, []).append(child)
        owners = sorted(more)
        branches: list[int] = []
        starts: list[int] = []
        for owner in owners:
            starts.append(len(branches))
            end = -1
            for child in sorted(more[owner], key=lambda c: (first[c], -last[c])):
                if last[child] > end:  # branches are disjoint or nested
                    branches.append(child)
                    end = last[child]
        return Cover(np.array(owners, np.int32), np.array(starts, np.int32), np.array(branches, np.int32))

    def classes(self, concept: int) -> NDArray[np.int32]:
        """Return int32, the classes at or below `concept` along any edge, ascending."""
        order, first, last = self._branches
        parts = [concept]
        at = int(np.searchsorted(self.cover.owners, concept))
        if at < self.cover.owners.size and self.cover.owners[at] == concept:
            end = self.cover.starts[at + 1] if at + 1 < self.cover.owners.size else None
            parts += self.cover.branches[self.cover.starts[at] : end].tolist()
        return np.sort(np.concatenate([order[first[part] : last[part]] for part in parts]))

    @cached_property
    def num_below(self) -> NDArray[np.int32]:
        """int32 [K], how many classes are at or below each concept."""
        return self.count(np.ones(self.num_classes, bool))

    def within(self, concept: int) -> NDArray[np.bool_]:
        """Return bool [K], the concepts all of whose classes are at or below `concept`, itself included."""
        own = np.zeros(self.num_classes, bool)
        own[self.classes(concept)] = True
        inside: NDArray[np.bool_] = self.count(own) == self.num_below
        return inside

    def count(self, classes: NDArray[np.bool_]) -> NDArray[np.int32]:
        """Return int32 [K], how many of `classes` (bool [C]) are at or below each concept."""
        return self.totals(classes.astype(np.int64)).astype(np.int32)

    def totals(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return int64 [K], the sum over the classes at or below each concept of `values` (int64 [C]), modulo 2^64."""
        order, first, last = self._branches
        total = np.concatenate([[0], np.cumsum(values[order])])
        branch: NDArray[np.int64] = total[last] - total[first]
        found = branch.copy()
        owners, starts, branches = self.cover
        if owners.size:
            found[owners] += np.add.reduceat(branch[branches], starts)
        return found


@lru_cache(maxsize=8)
def concepts_of(space: LabelSpace) -> Concepts:
    """Return the concepts of `space`; made once per space, since a label space never changes.

    WordNet's edges stand first where every class is a wnid; an own edge is added where they do not imply it.
    Raises TreeError when the edges of both together form a cycle, LabelSpaceMismatch where the space is that of an
    export whose answers were read on another graph.
    """
    found = _known(space) if _is_shipped(space) else _joined(space, concept_lines())
    if space.concepts_sha256 and space.concepts_sha256 != found.sha256:
        raise LabelSpaceMismatch(
            f"The export was made with another graph of concepts ({space.concepts_sha256[:12]}) than that of "
            f"'{space.name}' here ({found.sha256[:12]}), so its words may mean other classes: export the model again, "
            "or use the miil21k that made it (its metadata say which)."
        )
    return found


def _is_shipped(space: LabelSpace) -> bool:
    """Return whether the space is a shipped one, or the one of an export that has its tree and words."""
    if space.name not in LABEL_SPACES:
        return False
    today = shipped(space.name)
    return space.tree is today.tree and space.lemma_text is today.lemma_text


def _known(space: LabelSpace) -> Concepts:
    known = known_graph(space.name)
    wnids = (*space.tree.wnids, *known.wnids)
    return Concepts(
        space, wnids, np.repeat(np.arange(len(wnids), dtype=np.int32), known.above), known.parent, known=known
    )


def _joined(space: LabelSpace, lines: ConceptLines) -> Concepts:
    return Concepts(space, *joined_edges(space, lines))


def build_arrays(text: str) -> bytes:
    """Return the bytes of `label_spaces/concepts.bin`, which follow from the text of concepts.tsv and the spaces."""
    content = text.encode()
    lines, graphs = ConceptLines(content), dict[str, KnownGraph]()
    for name in LABEL_SPACES:
        found = _joined(shipped(name), lines)
        first, size = found._spans()
        graphs[name] = KnownGraph(
            found.wnids[found.space.tree.num_nodes :],
            found.sha256,
            found.depth,
            np.bincount(found.child, minlength=len(found)).astype(np.int32),
            found.parent,
            first,
            size,
            found.cover,
        )
    return arrays_to_bytes(content, lines.places_of_words(), graphs)
