"""The edges of a graph of concepts: WordNet's, where every class is a noun, and those of the space's own hierarchy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from miil21k.hierarchy.nouns import wordnet_nouns

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from miil21k.hierarchy.concept_files import ConceptLines
    from miil21k.hierarchy.spaces import LabelSpace

__all__ = ["joined_edges"]


def joined_edges(
    space: LabelSpace, lines: ConceptLines
) -> tuple[tuple[str, ...], NDArray[np.int32], NDArray[np.int32]]:
    """Return the K concepts of `space`, the nodes of its tree first, and int32 [E] children and [E] parents.

    WordNet's edges stand first where every class is a wnid; an own edge is added where they do not imply it.
    lines: the nouns around the shipped classes; others are looked up among all of WordNet.
    """
    own = _own_edges(space)
    edges = _wordnet_edges(space, lines)
    for key, parents in own.items():
        above = edges.get(key, [])
        edges[key] = [*above, *(p for p in parents if p not in above and not (above and _reaches(edges, key, p)))]
    wnids = (*own, *sorted(edges.keys() - own.keys()))
    index = dict(zip(wnids, range(len(wnids)), strict=True))
    above_each = [edges[wnid] for wnid in wnids]
    child = np.repeat(np.arange(len(wnids), dtype=np.int32), [len(up) for up in above_each])
    return wnids, child, np.array([index[p] for up in above_each for p in up], np.int32)


def _own_edges(space: LabelSpace) -> dict[str, tuple[str, ...]]:
    """Return key -> parents in the space's own hierarchy, the chosen one first."""
    wnids = space.tree.wnids
    above = zip(wnids, space.tree.parent.tolist(), strict=True)
    own: dict[str, tuple[str, ...]] = {wnid: (wnids[node],) if node >= 0 else () for wnid, node in above}
    for child, parent in space.further_parents:
        own[child] = (*own[child], parent)
    return own


def _wordnet_edges(space: LabelSpace, lines: ConceptLines) -> dict[str, list[str]]:
    """Return wnid -> hypernyms for every node that is a noun and all above it; nothing unless every class is one."""
    todo = list(space.tree.wnids)
    if not lines.all.keys() >= set(todo):
        if not all(_is_noun(key, lines) for key in space.wnids):
            return {}
        todo = [key for key in todo if _is_noun(key, lines)]
    found: dict[str, list[str]] = {}
    while todo:
        wnid = todo.pop()
        if wnid not in found:
            text = lines.field(wnid, 1)
            text = wordnet_nouns().hypernym_text(wnid) if text is None else text
            found[wnid] = text.split() if text != "-" else []
            todo += found[wnid]
    return found


def _is_noun(key: str, lines: ConceptLines) -> bool:
    return key in lines.all or (key[:1] == "n" and len(key) == 9 and key[1:].isdecimal() and key in wordnet_nouns())


def _reaches(edges: dict[str, list[str]], start: str, goal: str) -> bool:
    """Return whether `goal` lies above `start`."""
    seen, todo = {start}, [start]
    while todo:
        new = [p for p in edges.get(todo.pop(), ()) if p not in seen]
        if goal in new:
            return True
        seen.update(new)
        todo += new
    return False
