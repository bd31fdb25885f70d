"""What a label says: a class, an inner node, or any other noun of WordNet by what of the space lies at or above it.

A label that is no node of the tree (*okapi*, where the tree has no okapi) is told by nodes: right are all those at or
above it along any hypernym (*ruminant*, *ungulate*, *mammal*), and those below it, of which a noun that no class has
has none. So *zebra* is wrong for an okapi, though it lies below *ungulate*, which is right.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from miil21k.errors import UnknownClass
from miil21k.hierarchy.concepts import concepts_of
from miil21k.hierarchy.nouns import wordnet_nouns
from miil21k.hierarchy.questions import find_meanings, resolve, wordnet_meanings

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from miil21k.hierarchy.concepts import Concepts
    from miil21k.hierarchy.spaces import LabelSpace

__all__ = ["Label", "concepts_above", "find_label"]


class Label(NamedTuple):
    """A label as a label space has it.

    wnid, name: of the noun. node: the node that it is, or the deepest one above it. right: int32, the nodes that are
    right answers; None for a label that is a node, of which the tree says it. note: which meaning of several was taken.
    """

    wnid: str
    name: str
    node: int
    right: NDArray[np.int32] | None = None
    note: str | None = None


def find_label(space: LabelSpace, text: str) -> Label | None:
    """Return what `text` says in `space`: a key of a node, or a noun, a wnid or a synset name of WordNet.

    None for what WordNet does not know, and for a noun with no node of the space above it. Raises UnknownClass, which
    lists them, when it has several meanings and nothing says which is meant.
    """
    tree = space.tree
    if text in tree.index_of:
        node = tree.index_of[text]
        return Label(text, tree.names[node], node)
    concepts = concepts_of(space)
    if find_meanings(concepts, text):
        question = resolve(concepts, text)
        found, note = question.concept, question.note(concepts)
        wnid, name = concepts.wnids[found], concepts.name(found)
        if found < tree.num_nodes:
            return Label(wnid, tree.names[found], found, None, note)
        nodes = _reached(concepts.ancestors(found) | {found}, tree.num_nodes)
        return _outside(concepts, Label(wnid, name, -1, nodes, note), _reached(_below(concepts, found), tree.num_nodes))
    meanings = wordnet_meanings(text)
    if len(meanings) > 1:
        raise UnknownClass(f"'{text}' has {len(meanings)} meanings: {', '.join(meanings)}. Name one by its wnid.")
    if not meanings:
        return None
    name = wordnet_nouns().lemma_text(meanings[0]).partition("|")[0].partition("#")[0]
    nodes = _reached(concepts_above(concepts, meanings[0]), tree.num_nodes)
    return _outside(concepts, Label(meanings[0], name, -1, nodes), np.empty(0, np.int32))


def _outside(concepts: Concepts, label: Label, below: NDArray[np.int32]) -> Label | None:
    """Return the label, whose `right` are the nodes above it, with its own node and the nodes below it."""
    assert label.right is not None
    if not label.right.size:
        return None
    depth, classes = concepts.space.tree.depth, concepts.num_below
    node = max(label.right.tolist(), key=lambda above: (depth[above], -classes[above]))
    return label._replace(node=node, right=np.union1d(label.right, below))


def _reached(concepts: set[int], num_nodes: int) -> NDArray[np.int32]:
    """Return int32, those of the concepts that are nodes of the tree, ascending."""
    return np.array(sorted(concept for concept in concepts if concept < num_nodes), np.int32)


def _below(concepts: Concepts, concept: int) -> set[int]:
    """Return the concepts below along any edge."""
    found: set[int] = set()
    todo = [concept]
    while todo:
        new = set(concepts.children(todo.pop()).tolist()) - found
        found |= new
        todo += new
    return found


def concepts_above(concepts: Concepts, wnid: str) -> set[int]:
    """Return the concepts above a noun that is none."""
    found: set[int] = set()
    todo = [wnid]
    while todo:
        for above in wordnet_nouns().hypernym_text(todo.pop()).replace("-", "").split():
            if above in concepts.index_of:
                found |= {concepts.index_of[above], *concepts.ancestors(concepts.index_of[above])}
            else:
                todo.append(above)
    return found
