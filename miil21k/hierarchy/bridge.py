"""Hang classes that a tree does not have onto it: each below its nearest ancestor that the tree does have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from miil21k.errors import UnknownClass
from miil21k.hierarchy.spaces import LabelSpace
from miil21k.hierarchy.tree import Tree

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Words = tuple[str, str]  # lemmas joined by `|`, gloss

__all__ = ["bridge"]


def bridge(
    name: str,
    classes: Sequence[str],
    base: LabelSpace,
    outside: Callable[[str], tuple[str | None, Words]] | None = None,
) -> LabelSpace:
    """Return the label space of `classes`, in their order, with the ancestors that `base` gives them as inner nodes.

    A class that is a node of `base` keeps its place there. Any other class goes through
    `outside(wnid) -> (parent, words)`, which returns its nearest ancestor among the nodes of `base` (None: it becomes
    a root) and its words. Inner nodes follow the classes in wnid order; unlike the classes they have no logit.
    Raises UnknownClass for a class outside of `base` when `outside` is None.
    """
    parents: dict[str, str | None] = {}
    words: dict[str, Words] = {}
    for wnid in classes:
        if wnid in base.tree.index_of:
            parents[wnid], words[wnid] = _inside(base, wnid)
        elif outside is None:
            raise UnknownClass(f"'{wnid}' is no node of '{base.name}' ({base.tree.num_nodes} nodes).")
        else:
            parents[wnid], words[wnid] = outside(wnid)
    todo = [p for p in parents.values() if p is not None and p not in parents]
    while todo:
        wnid = todo.pop()
        if wnid in parents:
            continue
        parent, words[wnid] = _inside(base, wnid)
        parents[wnid] = parent
        if parent is not None:
            todo.append(parent)
    chosen = frozenset(classes)
    nodes = [*classes, *sorted(w for w in parents if w not in chosen)]
    lemmas = tuple(words[w][0] for w in nodes)
    names = tuple(text.partition("|")[0] for text in lemmas)
    tree = Tree.from_parents(nodes, [parents[w] for w in nodes], names, len(classes))
    return LabelSpace(name, tree, lemmas, tuple(words[w][1] for w in nodes))


def _inside(base: LabelSpace, wnid: str) -> tuple[str | None, Words]:
    node = base.tree.index_of[wnid]
    above = int(base.tree.parent[node])
    return (base.tree.wnids[above] if above >= 0 else None), (base.lemma_text[node], base.gloss_text[node])
