"""Find nodes of a label space by wnid or by name, and concepts by words in their lemmas and glosses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from miil21k.errors import UnknownClass
from miil21k.text import near_names

if TYPE_CHECKING:
    from miil21k.hierarchy.concepts import Concepts
    from miil21k.hierarchy.spaces import LabelSpace

__all__ = ["find", "find_one", "near", "search_concepts"]


def _folded(text: str) -> str:
    return " ".join(text.replace("_", " ").casefold().split())


def _by_lemma(space: LabelSpace) -> dict[str, list[int]]:
    nodes: dict[str, list[int]] = {}
    for node, lemmas in enumerate(space.lemmas):
        for lemma in dict.fromkeys(map(_folded, lemmas)):
            nodes.setdefault(lemma, []).append(node)
    return nodes


def find(space: LabelSpace, key: str) -> list[int]:
    """Return the nodes that `key` names: one for a wnid, all that share it for a name or a synonym.

    Case, underscores and repeated spaces do not matter. Raises UnknownClass, with near matches, for no node.
    """
    node = space.tree.index_of.get(key)
    found = [node] if node is not None else _by_lemma(space).get(_folded(key), [])
    if not found:
        close = ", ".join(f"'{space.tree.names[n]}' ({space.tree.wnids[n]})" for n in near(space, key)[:3])
        raise UnknownClass(
            f"No node '{key}' in label space '{space.name}' ({space.num_classes} classes)."
            + (f" Near: {close}." if close else " Try 'miil21k tree search'.")
        )
    return found


def find_one(space: LabelSpace, key: str) -> int:
    """Return the one node that `key` names; raises UnknownClass when several do, listing them, or none does."""
    found = find(space, key)
    if len(found) > 1:
        listed = "; ".join(f"{space.tree.wnids[n]} ({space.gloss_text[n]})" for n in found)
        raise UnknownClass(f"{len(found)} nodes of '{space.name}' are named '{key}', say which by wnid: {listed}.")
    return found[0]


def search_concepts(concepts: Concepts, query: str) -> list[int]:
    """Return the concepts that hold every word of `query`, best first; the nodes of the tree are among them.

    Order: the whole query is a lemma; the words are in one lemma; the words are in lemmas and gloss together. Within
    each, index order. Words match from their beginning (`cat` finds *cat* and *cattle*, not *education*).
    """
    whole = _spaced(query)
    words = [" " + word for word in whole.split()]
    ranked: list[tuple[int, int]] = []
    if not words:
        return []
    for concept in range(len(concepts)):
        texts = [" " + _spaced(lemma.word) for lemma in concepts.lemmas(concept)]
        everything = " ".join(texts) + " " + _spaced(concepts.gloss(concept))
        if not all(word in everything for word in words):
            continue
        if any(text == " " + whole for text in texts):
            ranked.append((0, concept))
        else:
            ranked.append((1 if any(all(w in text for w in words) for text in texts) else 2, concept))
    return [concept for _, concept in sorted(ranked)]


def _spaced(text: str) -> str:
    """Return `text` folded, its punctuation turned into spaces, so that every word begins behind a space."""
    return _folded(text.translate(_PUNCTUATION))


_PUNCTUATION = str.maketrans(dict.fromkeys("()[]{}\"'`,;:/-", " "))


def near(space: LabelSpace, key: str, count: int = 8) -> list[int]:
    """Return up to `count` nodes whose wnid or lemmas are spelled most like `key`, best first."""
    lemmas = _by_lemma(space)
    if key[:1] == "n" and key[1:].isdecimal():
        wnids = near_names(key, space.tree.wnids, most=count, alike=0.8)
        return [space.tree.index_of[wnid] for wnid in wnids]
    close = near_names(_folded(key), lemmas, most=count, alike=0.75)
    return list(dict.fromkeys(node for lemma in close for node in lemmas[lemma]))[:count]
