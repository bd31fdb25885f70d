"""How a class is called in the output: by wnid, name, with its definition, or by its path."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from miil21k.hierarchy.spaces import LabelSpace
    from miil21k.writers.rows import Row

__all__ = ["LABEL_TYPES", "LabelType", "add_labels", "label_of"]

LabelType = Literal["wnid", "name", "detailed", "path"]
LABEL_TYPES: tuple[str, ...] = get_args(LabelType)


def label_of(space: LabelSpace, wnid: str, label_type: str) -> str:
    """Return how `label_type` calls the node `wnid`.

    `wnid`; `name`: the first lemma, with the wnid behind it where other nodes share the name; `detailed`: all
    lemmas and the definition; `path`: names from the root, joined by " > ". Raises UnknownClass.
    """
    node = space.tree.index(wnid)
    if label_type == "wnid":
        return wnid
    if label_type == "name":
        return space.display_name(node)
    if label_type == "path":
        return " > ".join(space.tree.names[i] for i in space.tree.path(node))
    gloss = space.glosses[node]
    return ", ".join(space.lemmas[node]) + (f": {gloss}" if gloss else "")


def add_labels(row: Row, space: LabelSpace, label_type: str) -> Row:
    """Return `row` with a `label` in every node of its path and topk."""
    for key in ("path", "topk"):
        row[key] = [{**node, "label": label_of(space, node["wnid"], label_type)} for node in row[key]]
    return row
