"""A label space as JSON, CSV or Graphviz text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from miil21k.hierarchy.concepts import Concepts
    from miil21k.hierarchy.spaces import LabelSpace

__all__ = ["EXPORTS", "neighbourhood_to_dot", "to_csv", "to_dot", "to_json"]


def _nodes(space: LabelSpace, under: int | None) -> list[int]:
    """Return all node indices, or those at and below `under`, in index order."""
    return list(range(space.tree.num_nodes)) if under is None else space.tree.descendants(under).tolist()


def _rows(space: LabelSpace, under: int | None) -> Iterable[tuple[int | None, str, str, str, int]]:
    """Yield (logit index or None, wnid, parent wnid or '', name, node); the top of a cut branch becomes a root."""
    tree = space.tree
    for node in _nodes(space, under):
        above = int(tree.parent[node])
        parent = "" if above < 0 or node == under else tree.wnids[above]
        yield (node if node < tree.num_classes else None), tree.wnids[node], parent, tree.names[node], node


def to_csv(space: LabelSpace, under: int | None = None) -> str:
    """Return CSV with the columns index, wnid, parent_wnid, name, gloss; one row per node, in index order.

    The further parents of a graph follow, one row each.

    index: the logit of a class; empty for an inner node. parent_wnid: empty for a root.
    under: a node index; only this node and what is below it.
    """
    import csv
    import io

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["index", "wnid", "parent_wnid", "name", "gloss"])
    for index, wnid, parent, name, node in _rows(space, under):
        writer.writerow(["" if index is None else index, wnid, parent, name, space.gloss_text[node]])
    for child, parent in space.further_parents if under is None else ():
        writer.writerow(["", child, parent, "", ""])
    return text.getvalue()


def to_json(space: LabelSpace, under: int | None = None) -> str:
    """Return JSON that `load_label_space` reads back: name, number of classes, digest and one object per node.

    A branch (`under`) keeps the logit indices of the whole space, has no digest, and is for reading only.
    """
    import json

    head: dict[str, Any] = {"format": "miil21k-label-space", "version": 1, "name": space.name}
    if under is None:
        head |= {"num_classes": space.num_classes, "sha256": space.sha256}
    else:
        head["under"] = space.tree.wnids[under]
    further: dict[str, list[str]] = {}
    for child, above in space.further_parents if under is None else ():
        further.setdefault(child, []).append(above)
    lines = [
        json.dumps(
            {
                "index": index,
                "wnid": wnid,
                "parent_wnid": parent or None,
                "name": name,
                "lemmas": space.lemma_text[node].split("|"),
                "gloss": space.gloss_text[node],
            }
            | ({"further_parents": further[wnid]} if wnid in further else {}),
            ensure_ascii=False,
        )
        for index, wnid, parent, name, node in _rows(space, under)
    ]
    opening = json.dumps(head, ensure_ascii=False)[:-1]
    return opening + ', "nodes": [\n' + ",\n".join(lines) + "\n]}\n"


def to_dot(space: LabelSpace, under: int | None = None) -> str:
    """Return a Graphviz digraph, left to right; classes are boxes, inner nodes ellipses."""
    lines = [f"digraph {_quoted(space.name)} {{", '  rankdir="LR";']
    edges = []
    for index, wnid, parent, name, _ in _rows(space, under):
        shape = "ellipse" if index is None else "box"
        lines.append(f"  {_quoted(wnid)} [label={_quoted(name)}, shape={shape}];")
        if parent:
            edges.append(f"  {_quoted(parent)} -> {_quoted(wnid)};")
    for child, parent in space.further_parents if under is None else ():
        edges.append(f"  {_quoted(parent)} -> {_quoted(child)} [style=dashed];")
    return "\n".join([*lines, *edges, "}"]) + "\n"


def neighbourhood_to_dot(concepts: Concepts, concept: int) -> str:
    """Return a Graphviz digraph of a concept, everything above it along all edges, and its children.

    Classes are boxes, other concepts ellipses; an edge that is the tree's own is drawn bold.
    """
    shown = [*sorted(concepts.ancestors(concept)), concept, *concepts.children(concept).tolist()]
    lines = [f"digraph {_quoted(concepts.name(concept))} {{", '  rankdir="LR";']
    tree, edges = concepts.space.tree, []
    for node in shown:
        shape = "box" if node < concepts.num_classes else "ellipse"
        label = f"{concepts.name(node)} ({concepts.num_below[node]})"
        lines.append(f"  {_quoted(concepts.wnids[node])} [label={_quoted(label)}, shape={shape}];")
        for parent in concepts.parents(node).tolist():
            if parent in shown:
                style = " [style=bold]" if node < tree.num_nodes and tree.parent[node] == parent else ""
                edges.append(f"  {_quoted(concepts.wnids[parent])} -> {_quoted(concepts.wnids[node])}{style};")
    return "\n".join([*lines, *edges, "}"]) + "\n"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


EXPORTS = {"json": to_json, "csv": to_csv, "dot": to_dot}
