"""A user's own hierarchy: from a CSV of child and parent, nested folders, a list of wnids, or one of our exports.

A CSV may be a graph: a node with several parents has a line for each. Levels need one parent each, and that is the
one whose line comes first; the others stay in `LabelSpace.further_parents`, where concepts find them.
Every problem is refused with the file and the line: a cycle, two folders of one name, an unknown parent, a node or
class that stands twice. A node's key (`wnid` in a `LabelSpace`) may be any text; it need not be a WordNet id.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from miil21k.errors import TreeError, UnknownClass, UsageError
from miil21k.hierarchy.bridge import bridge
from miil21k.hierarchy.spaces import FORMAT, LabelSpace, parse_label_space, shipped
from miil21k.hierarchy.tree import Tree
from miil21k.records import StrictJsonError, read_json
from miil21k.suffixes import JUNK_FOLDERS, is_image_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["from_csv", "from_folder", "from_json", "from_labels", "from_list", "numbered"]

_CHILD, _PARENT = ("child", "wnid"), ("parent", "parent_wnid")
_YES, _NO = frozenset({"1", "true", "yes"}), frozenset({"0", "false", "no", ""})


class HierarchyRow(NamedTuple):
    """One node as the user wrote it; `where` is the line or folder that a message names, `logit` None without one."""

    where: str
    key: str
    parent: str | None
    name: str
    gloss: str = ""
    logit: int | None = None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise TreeError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8.") from None


def from_csv(path: Path, *, all_nodes: bool = False) -> LabelSpace:
    """Return the label space of a CSV (or, by its suffix, TSV) file with one row per node and parent.

    Columns, named in the first line: `child` (or `wnid`), `parent` (or `parent_wnid`; empty for a root), and where
    wanted `name` (synonyms after it, joined by `|`), `gloss`, and `class` (1/0) or `index` (the logit; empty for
    none). Without such a first line the columns are child, parent, name. A file of format 1 is read as such.
    Classes: the marked rows; else all rows with `all_nodes`; else the leaves. Order: `index`, else first appearance.
    Of several rows of one node the first gives its parent in the tree, its name and gloss.
    """
    text = _text(path)
    if text.startswith(FORMAT + "\t"):
        return parse_label_space(text, str(path))
    import csv
    import io

    table = csv.reader(io.StringIO(text, newline=""), delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
    try:
        lines = [(table.line_num, [cell.strip() for cell in cells]) for cells in table if any(map(str.strip, cells))]
    except csv.Error as error:
        raise TreeError(f"{path}, line {table.line_num}: {error}.") from None
    titles = [title.lower() for title in lines[0][1]] if lines else []
    if set(titles) & set(_CHILD) and set(titles) & set(_PARENT):
        lines = lines[1:]
    else:
        titles = ["child", "parent", "name"]
    rows = []
    for number, cells in lines:
        where = f"line {number}"
        if len(cells) > len(titles) or len(cells) < 2:
            raise TreeError(f"{path}, {where}: expected {', '.join(titles)}; found {len(cells)} fields.")
        rows.append(_row(path, where, dict(zip(titles, cells, strict=False))))
    rows, further = _one_per_node(path, rows)
    if "index" in titles:
        _check_logits(path, rows)
    marked = "class" in titles or "index" in titles
    return _assemble(path, rows, further, lambda r, leaf: r.logit is not None if marked else all_nodes or leaf)


def _row(path: Path, where: str, cells: dict[str, str]) -> HierarchyRow:
    key = next(cells[title] for title in _CHILD if title in cells)
    parent = next((cells[title] for title in _PARENT if title in cells), "")
    if not key:
        raise TreeError(f"{path}, {where}: the node has no key.")
    logit = None
    mark = cells.get("index", cells.get("class", "")).lower()
    if "index" in cells:
        if mark and not mark.isdecimal():
            raise TreeError(f"{path}, {where}: the index {mark!r} is no number.")
        logit = int(mark) if mark else None
    elif mark in _YES:
        logit = 0  # all marked rows tie: the order of appearance decides
    elif mark not in _NO:
        raise TreeError(f"{path}, {where}: class must be 1 or 0, not {mark!r}.")
    return HierarchyRow(where, key, parent or None, cells.get("name") or key, cells.get("gloss", ""), logit)


def from_folder(path: Path, *, all_nodes: bool = False) -> LabelSpace:
    """Return the label space of nested folders: a folder's name is its key, the folder around it its parent.

    Classes: the folders that hold images themselves (or all, with `all_nodes`), sorted by name, which for folders
    side by side is the order of torchvision's ImageFolder. Hidden folders are left out; links are followed.
    Folders side by side that are all named by wnids stand in WordNet's tree, as a list of them would (`from_list`).
    """
    rows: list[HierarchyRow] = []

    def walk(folder: Path, parent: str | None, above: tuple[str, ...]) -> bool:
        """Add the folders in `folder`; return whether it holds images."""
        real = os.path.realpath(folder)
        if real in above:
            raise TreeError(
                f"{path}: the folder '{folder.relative_to(path)}' leads back to a folder around it (cycle)."
            )
        shown = (e for e in os.scandir(folder) if not e.name.startswith(".") and e.name not in JUNK_FOLDERS)
        entries = sorted(shown, key=lambda e: e.name)
        for entry in entries:
            if entry.is_dir():
                inside = Path(entry.path)
                at = len(rows)
                rows.append(HierarchyRow(f"folder '{inside.relative_to(path)}'", entry.name, parent, entry.name))
                if walk(inside, entry.name, (*above, real)):
                    rows[at] = rows[at]._replace(logit=0)
        return any(e.is_file() and is_image_name(e.name) for e in entries)

    walk(path, None, ())
    rows.sort(key=lambda row: row.key)
    images = [row for row in rows if row.logit is not None]
    if images and all(row.parent is None and _is_wnid(row.key) for row in images):
        return _in_wordnet(path, {row.key: row.where for row in images}, all_nodes=all_nodes)
    rows, further = _one_per_node(path, rows)
    if further:
        row = further[0]
        first = next(other for other in rows if other.key == row.key)
        parents = f"'{first.parent or '-'}' and '{row.parent or '-'}'"
        raise TreeError(f"{path}, {row.where}: '{row.key}' has two parents, {parents} (first: {first.where}).")
    return _assemble(path, rows, (), lambda r, _: all_nodes or r.logit is not None)


def from_list(path: Path, *, all_nodes: bool = False) -> LabelSpace:
    """Return the label space of a list of wnids, or of names, one per line, in the file's order; `#` begins a comment.

    The tree is WordNet's: each class hangs from its nearest ancestor among the 21,843 nodes of goog21k, which ship
    with the package, and the ancestors that are not in the list become inner nodes; with `all_nodes` they are
    classes too, in wnid order behind those of the list. A wnid outside of goog21k is looked up in WordNet 3.0 where
    that is installed. Where no line is a wnid, the lines are classes without a hierarchy.
    """
    first: dict[str, int] = {}
    for number, line in enumerate(_text(path).splitlines(), 1):
        wnid = line.partition("#")[0].strip()
        if wnid in first:
            raise TreeError(f"{path}, line {number}: '{wnid}' stands in line {first[wnid]} already.")
        if wnid:
            first[wnid] = number
    if not first:
        raise TreeError(f"{path} holds no wnid; expected one per line.")
    strange = next((wnid for wnid in first if not _is_wnid(wnid)), None)
    if strange is not None and any(map(_is_wnid, first)):
        raise TreeError(
            f"{path}, line {first[strange]}: '{strange}' is no wnid ('n' and eight digits, like n02084071)."
        )
    return from_labels(path, {wnid: f"line {number}" for wnid, number in first.items()}, all_nodes=all_nodes)


def from_labels(
    path: Path, where: dict[str, str], *, all_nodes: bool = False, glosses: Mapping[str, str] | None = None
) -> LabelSpace:
    """Return the label space of the labels of `where`, in their order, named by the stem of `path`.

    where: label -> what a message calls its place. Wnids stand in WordNet's tree (see `from_list`), other words side by
    side, without a hierarchy. glosses: what such a word means, where that is known.
    """
    if all(map(_is_wnid, where)):
        return _in_wordnet(path, where, all_nodes=all_nodes)
    known = glosses or {}
    rows = [HierarchyRow(at, label, None, label, known.get(label, "")) for label, at in where.items()]
    return _assemble(path, rows, (), lambda *_: True)


def _is_wnid(text: str) -> bool:
    return text[:1] == "n" and len(text) == 9 and text[1:].isdecimal()


def _in_wordnet(path: Path, where: dict[str, str], *, all_nodes: bool) -> LabelSpace:
    """Return the space of the wnids of `where` (wnid -> what a message calls its place), with WordNet's ancestors."""
    base = shipped("goog21k")
    strangers = [wnid for wnid in where if wnid not in base.tree.index_of]
    found = {}
    try:
        if strangers:
            from miil21k.hierarchy.wordnet import open_wordnet

            with open_wordnet() as wordnet:
                found = {w: (wordnet.nearest(w, base.tree.index_of), wordnet.words(w)) for w in strangers}
    except (UnknownClass, UsageError) as error:
        place = next((at for w, at in where.items() if f"'{w}'" in str(error)), where[strangers[0]])
        raise TreeError(f"{path}, {place}: {error}") from None
    space = bridge(path.stem, list(where), base, found.__getitem__)
    if not all_nodes:
        return space
    tree = Tree(space.tree.wnids, space.tree.names, space.tree.parent, space.tree.num_nodes)
    return LabelSpace(space.name, tree, space.lemma_text, space.gloss_text)


def from_json(path: Path) -> LabelSpace:
    """Return the label space of a whole JSON export (`miil21k tree export SPACE -f json`); its digest is checked."""
    try:
        content = read_json(path)
    except StrictJsonError as error:
        raise TreeError(str(error)) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT or "num_classes" not in content:
        raise TreeError(f"{path} is no whole label space: expected the output of 'miil21k tree export SPACE -f json'.")
    try:
        rows = [_json_row(number, node) for number, node in enumerate(content["nodes"])]
        lemmas = {row.key: "|".join(node["lemmas"]) for row, node in zip(rows, content["nodes"], strict=True)}
        rows += [
            row._replace(parent=str(parent))
            for row, node in zip(list(rows), content["nodes"], strict=True)
            for parent in node.get("further_parents", ())
        ]
    except (KeyError, TypeError) as error:
        raise TreeError(f"{path}: a node lacks {error}.") from None
    rows, further = _one_per_node(path, rows)
    _check_logits(path, rows)
    space = _assemble(path, rows, further, lambda r, _: r.logit is not None)
    if content.get("sha256") not in {None, space.sha256}:
        raise TreeError(f"{path} was changed: its tree has the digest {space.sha256}, not {content['sha256']}.")
    words = tuple(lemmas[w] for w in space.tree.wnids)
    return LabelSpace(content["name"], space.tree, words, space.gloss_text, space.further_parents)


def _json_row(number: int, node: dict[str, Any]) -> HierarchyRow:
    texts = (node["wnid"], node["parent_wnid"] or "", node["name"], node["gloss"])
    if not all(isinstance(text, str) for text in texts) or not isinstance(node["index"], int | None):
        raise TypeError(f"the right types in node {number}")
    return HierarchyRow(f"node {number}", texts[0], texts[1] or None, texts[2], texts[3], node["index"])


def _check_logits(path: Path, rows: Sequence[HierarchyRow]) -> None:
    """Refuse indices that do not count 0, 1, 2, ... without gap: a logit belongs to exactly one class."""
    marked = sorted((row for row in rows if row.logit is not None), key=lambda row: row.logit or 0)
    for expected, row in enumerate(marked):
        if row.logit != expected:
            raise TreeError(
                f"{path}, {row.where}: '{row.key}' has the index {row.logit} where {expected} is next; the indices of "
                f"the classes must be 0 to {len(marked) - 1}, each once (or leave the index column out)."
            )


def _one_per_node(path: Path, rows: Sequence[HierarchyRow]) -> tuple[list[HierarchyRow], list[HierarchyRow]]:
    """Return the first row of each node, with the logit of any, and the rows that give a node another parent.

    Raises TreeError for a node that stands twice with one parent, with two logits, or as a root and below a parent.
    """
    by_key: dict[str, list[HierarchyRow]] = {}
    for row in rows:
        before = by_key.setdefault(row.key, [])
        first = before[0] if before else row
        if any(row.parent == other.parent for other in before):
            raise TreeError(f"{path}, {row.where}: '{row.key}' stands twice (first: {first.where}).")
        if before and None in {row.parent, first.parent}:
            raise TreeError(f"{path}, {row.where}: '{row.key}' is a root and has a parent (first: {first.where}).")
        if None not in {row.logit, first.logit} and row.logit != first.logit:
            raise TreeError(f"{path}, {row.where}: '{row.key}' has two indices (first: {first.where}).")
        before.append(row)
        if first.logit is None and row.logit is not None:
            before[0] = first._replace(logit=row.logit)
    return [found[0] for found in by_key.values()], [row for found in by_key.values() for row in found[1:]]


def _assemble(
    path: Path,
    rows: Sequence[HierarchyRow],
    further: Sequence[HierarchyRow],
    is_class: Callable[[HierarchyRow, bool], bool],
) -> LabelSpace:
    """Return the space of `rows`, one per node, and the further parents of some.

    is_class(row, is_leaf) says which have a logit. Raises TreeError for unknown parents and cycles.
    """
    if not rows:
        raise TreeError(f"{path} holds no node.")
    keys = {row.key for row in rows}
    for row in (*rows, *further):
        if row.key == "-":
            raise TreeError(f"{path}, {row.where}: '-' marks a root and cannot be the key of a node.")
        if row.parent is not None and row.parent not in keys:
            raise TreeError(
                f"{path}, {row.where}: the parent '{row.parent}' of '{row.key}' is unknown; give it a row of its own "
                "(with an empty parent when it is a root)."
            )
    _refuse_cycles(path, (*rows, *further))
    inner = {row.parent for row in (*rows, *further)}
    classes = sorted((r for r in rows if is_class(r, r.key not in inner)), key=lambda r: r.logit or 0)
    if not classes:
        raise TreeError(f"{path} has {len(rows)} nodes, but none of them is a class.")
    chosen = {row.key for row in classes}
    nodes = [*classes, *(row for row in rows if row.key not in chosen)]
    names = tuple(r.name.partition("|")[0] for r in nodes)
    tree = Tree.from_parents([r.key for r in nodes], [r.parent for r in nodes], names, len(classes))
    edges = tuple((row.key, row.parent) for row in further if row.parent is not None)
    return LabelSpace(path.stem, tree, tuple(r.name for r in nodes), tuple(r.gloss for r in nodes), edges)


def _refuse_cycles(path: Path, rows: Sequence[HierarchyRow]) -> None:
    """Take away every row whose parent has no row any more, again and again; what cannot be taken holds a cycle."""
    left: dict[str, list[HierarchyRow]] = {}
    for row in rows:
        left.setdefault(row.key, []).append(row)
    below: dict[str | None, list[HierarchyRow]] = {}
    for row in rows:
        below.setdefault(row.parent, []).append(row)
    free = below.get(None, [])
    while free:
        row = free.pop()
        left[row.key].remove(row)
        if not left[row.key]:
            del left[row.key]
            free += below.get(row.key, [])
    if not left:
        return
    chain = [next(iter(left.values()))[0]]
    while [row.key for row in chain].count(chain[-1].key) < 2:
        chain.append(next(row for row in left[str(chain[-1].parent)] if row.parent in left))
    knot = chain[[row.key for row in chain].index(chain[-1].key) :]
    steps = " -> ".join(f"'{row.key}' ({row.where})" for row in knot)
    raise TreeError(f"{path}, {knot[0].where}: the parents form a cycle: {steps}.")


def numbered(count: int) -> LabelSpace:
    """Return a space of `count` classes that have numbers and nothing else, side by side: nobody says what they are."""
    names = [f"class {number}" for number in range(count)]
    return LabelSpace("numbered", Tree.from_parents(names, [None] * count, names, count), names, [""] * count)
