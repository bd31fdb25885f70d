"""How a class is called in the output: by wnid, name, with its definition, or by its path."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

from miil21k.errors import UnknownClass

if TYPE_CHECKING:
    from miil21k.hierarchy.spaces import LabelSpace
    from miil21k.writers.rows import Row

__all__ = ["LABEL_TYPES", "LabelType", "add_labels", "label_of"]

LabelType = Literal["wnid", "name", "detailed", "path"]
LABEL_TYPES: tuple[str, ...] = get_args(LabelType)


def label_of(space: LabelSpace, wnid: str, label_type: str) -> str:
    """Return how `label_type` calls the node `wnid`.

    `wnid`; `name`: the first lemma, with the wnid behind it where other nodes share the name; `detailed`: all
    lemmas and the definition; `path`: names from the root, joined by " > ". A concept beside the tree has the first of
    its paths in WordNet. Raises UnknownClass.
    """
    if label_type == "wnid":
        return wnid
    if wnid not in space.tree.index_of:
        return _label_of_concept(space, wnid, label_type)
    node = space.tree.index(wnid)
    if label_type == "name":
        return space.display_name(node)
    if label_type == "path":
        return " > ".join(space.tree.names[i] for i in space.tree.path(node))
    gloss = space.glosses[node]
    return ", ".join(space.lemmas[node]) + (f": {gloss}" if gloss else "")


def _label_of_concept(space: LabelSpace, wnid: str, label_type: str) -> str:
    from miil21k.hierarchy.concepts import concepts_of

    graph = concepts_of(space)
    if wnid not in graph.index_of:
        raise UnknownClass(f"'{wnid}' is neither a node nor a concept of '{space.name}'.")
    concept = graph.index_of[wnid]
    if label_type == "name":
        return graph.display_name(concept)
    if label_type == "path":
        return " > ".join(map(graph.name, next(iter(graph.paths(concept)))))
    gloss = graph.gloss(concept)
    return ", ".join(lemma.word for lemma in graph.lemmas(concept)) + (f": {gloss}" if gloss else "")


def add_labels(row: Row, space: LabelSpace, label_type: str) -> Row:
    """Return `row` with a `label` in every node of its path, topk and parts."""
    for key in {"path", "topk", "parts"} & row.keys():
        row[key] = [{**node, "label": label_of(space, node["wnid"], label_type)} for node in row[key]]
    return row
