"""One door to every label space: the shipped ones by name, the user's own by path."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from miil21k.errors import UsageError
from miil21k.hierarchy.spaces import LABEL_SPACES, OLDER_SPACES, LabelSpace, shipped
from miil21k.text import near_names

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

__all__ = ["load_label_space", "load_own", "refuse_borrowed_name"]


def load_label_space(name_or_path: str | os.PathLike[str], *, head: LabelSpace | None = None) -> LabelSpace:
    """Return a label space: a shipped one by name (read once per process), or the user's own from a path.

    `goog21k@1` is goog21k as it was before 19 of its roots got a parent; see `spaces.OLDER_SPACES`.

    A path may be a file of format 1 (`.tsv`), a CSV or TSV of child and parent, a JSON export, a list of wnids
    (`.txt`), an official tree (`.pth`) or a folder of class folders; see `docs/label_spaces.md`.
    head: the space in which a model answers. A path that describes it once every node is a class, which is how
    training reads it where an objective needs that, means that space.
    Raises UsageError, with near matches, for a name that is neither a shipped space nor an existing path.
    """
    if name_or_path in LABEL_SPACES or name_or_path in OLDER_SPACES:
        return shipped(str(name_or_path))
    path = Path(name_or_path)
    if not path.exists():
        near = near_names(str(name_or_path), LABEL_SPACES, most=2)
        hint = f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
        raise UsageError(
            f"No label space and no file '{name_or_path}'.{hint} Shipped spaces: {', '.join(LABEL_SPACES)}; "
            "a path to your own hierarchy works too."
        )
    space = load_own(path)
    if head is not None and space.sha256 != head.sha256 and load_own(path, all_nodes=True).sha256 == head.sha256:
        return head
    return space


def load_own(path: Path, *, all_nodes: bool = False) -> LabelSpace:
    """Return the label space that `path` describes, read by its kind: folder, `.csv`, `.tsv`, `.json`, `.txt`, `.pth`.

    all_nodes: every node is a class, not just the leaves (folders: not just those that hold images; lists: not just
    what is listed). Other kinds of file name their classes themselves, and `all_nodes` changes nothing.
    Raises UsageError for another kind of file or a name that belongs to a shipped space of other classes, TreeError
    for a hierarchy that is no forest.
    """
    kind = "folder" if path.is_dir() else path.suffix.lower()
    if kind not in _READERS:
        raise UsageError(
            f"'{path}' is no label space: give a folder, or a file that ends in .csv, .tsv, .json, .txt or .pth."
        )
    space = _READERS[kind](path, all_nodes)
    refuse_borrowed_name(space, str(path))
    return space


def refuse_borrowed_name(space: LabelSpace, origin: str) -> None:
    """Raise UsageError when `space` has the name of a shipped label space, but other classes."""
    if space.name in LABEL_SPACES and shipped(space.name).wnids != space.wnids:
        raise UsageError(f"{origin}: '{space.name}' is a shipped label space with other classes; choose another name.")


# The readers are imported when they are used: a shipped space, which most runs want, needs none of them.
def _folder(path: Path, all_nodes: bool) -> LabelSpace:
    from miil21k.hierarchy.custom import from_folder

    return from_folder(path, all_nodes=all_nodes)


def _csv(path: Path, all_nodes: bool) -> LabelSpace:
    from miil21k.hierarchy.custom import from_csv

    return from_csv(path, all_nodes=all_nodes)


def _json(path: Path, _: bool) -> LabelSpace:
    from miil21k.hierarchy.custom import from_json

    return from_json(path)


def _list(path: Path, all_nodes: bool) -> LabelSpace:
    from miil21k.hierarchy.custom import from_list

    return from_list(path, all_nodes=all_nodes)


def _official(path: Path, _: bool) -> LabelSpace:
    from miil21k.hierarchy.official import load_official_tree

    return load_official_tree(path)


_READERS: dict[str, Callable[[Path, bool], LabelSpace]] = {
    "folder": _folder,
    ".csv": _csv,
    ".tsv": _csv,
    ".json": _json,
    ".txt": _list,
    ".pth": _official,
}
