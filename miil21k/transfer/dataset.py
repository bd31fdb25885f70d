"""The images of a transfer: whose classes they are, which are learnt from and which are judged by."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from miil21k.data.datasets import LabelledImages, choose_part, label_images, matching_space, open_parts, open_source
from miil21k.data.lists import ListSource, few, is_list
from miil21k.errors import UsageError
from miil21k.hierarchy.custom import from_labels
from miil21k.hierarchy.load import load_label_space, load_own, refuse_borrowed_name
from miil21k.hierarchy.spaces import LABEL_SPACES, LabelSpace
from miil21k.hierarchy.tree import Tree

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from miil21k.data.datasets import ClassImages, Parts
    from miil21k.transfer.options import TransferOptions

__all__ = ["TransferData", "open_data", "restricted", "taken"]


@dataclass(frozen=True, eq=False)
class TransferData:
    """Images of classes that all have some.

    images: to learn from. test: to be judged by, None where a share of `images` is to be held out. notes: what the user
    should know.
    """

    space: LabelSpace
    images: LabelledImages
    test: LabelledImages | None
    notes: tuple[str, ...]


def open_data(options: TransferOptions) -> TransferData:
    """Return the images of `options.data` in a label space of their classes alone.

    Raises UsageError for fewer than two classes, two spellings of one name, and what opening a source does;
    LabelSpaceMismatch for labels outside of the hierarchy.
    """
    parts = open_parts(options.data, root=options.root)
    source = choose_part(options.data, parts, options.split, ("train",))()
    _refuse_spellings(source.keys)
    space = _space_of(options, source)
    images = label_images(source, space, partial=True, numbered=options.label_space is not None)
    notes = [*images.notes, *_passed_over(source)]
    if images.absent.size:
        notes.append(
            f"{images.absent.size:,} of the {space.num_classes:,} classes of '{space.name}' have no images here and "
            "are left out."
        )
    kept = restricted(space, np.unique(images.labels), _name_of(options))
    images = _moved(images, kept)
    test, more = _test_images(options, parts, kept)
    counts = np.bincount(images.labels, minlength=kept.num_classes)
    alone = [kept.display_name(int(c)) for c in np.flatnonzero(counts == 1)]
    if kept.num_classes < 2:
        raise UsageError(f"'{options.data}' holds images of one class, and there is nothing to tell apart.")
    if alone and test is None:
        notes.append(
            f"{len(alone):,} classes have a single image, which is learnt from, so nothing is measured on them: "
            f"{few(alone)}."
        )
    if counts.max() == 1 and test is None:
        raise UsageError(
            f"Every class in '{options.data}' has a single image, so that none can be held out: name images to judge "
            "by with --test."
        )
    return TransferData(kept, images, test, (*notes, *more))


def _space_of(options: TransferOptions, source: ClassImages) -> LabelSpace:
    named = options.label_space
    if named is not None:
        return load_label_space(named)
    shipped = matching_space(key.rpartition("/")[2] for key in source.keys)
    if shipped is not None:
        return load_label_space(shipped)
    path = Path(options.data)
    folder = path / options.split if options.split is not None and (path / options.split).is_dir() else path
    train = next((folder / name for name in ("train", "training") if (folder / name).is_dir()), folder)
    if not isinstance(source, ListSource) and train.is_dir() and not next(train.glob("*.tar"), None):
        return replace(load_own(train), name=_name_of(options))
    return from_labels(path, {key: f"label '{key}'" for key in source.keys})


def _name_of(options: TransferOptions) -> str:
    name = Path(options.data).resolve().stem
    return f"{name}_classes" if name in LABEL_SPACES else name


def restricted(space: LabelSpace, classes: NDArray[np.integer], name: str) -> LabelSpace:
    """Return the space of these classes alone, in their order, and of the nodes above them; itself if that is all."""
    if len(classes) == space.num_classes:
        return space
    tree = space.tree
    above = np.unique(tree.level_target[classes])
    nodes = [*classes.tolist(), *(n for n in above.tolist() if n >= 0 and n not in set(classes.tolist()))]
    parents = [tree.wnids[tree.parent[node]] if tree.parent[node] >= 0 else None for node in nodes]
    keys = [tree.wnids[node] for node in nodes]
    smaller = Tree.from_parents(keys, parents, [tree.names[node] for node in nodes], len(classes))
    known = set(keys)
    edges = tuple(edge for edge in space.further_parents if known.issuperset(edge))
    words, glosses = [space.lemma_text[node] for node in nodes], [space.gloss_text[node] for node in nodes]
    found = LabelSpace(name, smaller, tuple(words), tuple(glosses), edges)
    refuse_borrowed_name(found, name)
    return found


def _moved(images: LabelledImages, space: LabelSpace) -> LabelledImages:
    """Return the images labelled in `space`, which has their classes by the same keys."""
    place = np.array([space.tree.index_of.get(wnid, -1) for wnid in images.space.wnids], np.int32)
    return replace(images, space=space, labels=place[images.labels], absent=np.empty(0, np.int32))


def _test_images(options: TransferOptions, parts: Parts, space: LabelSpace) -> tuple[LabelledImages | None, list[str]]:
    """Return the images to be judged by, and what was left out of them."""
    if options.test is not None:
        root = options.root if is_list(options.test) else None
        source = open_source(options.test, root=root, rather=("test", "val"))
    else:
        own = options.split or "train"
        name = next((name for name in ("test", "val") if name in parts and name != own), None)
        if name is None:
            return None, []
        source = parts[name]()
    known = set(space.wnids) | {space.tree.names[node] for node in range(space.num_classes)}
    strangers = [key for key in source.keys if key.rpartition("/")[2] not in known and key not in known]
    if len(strangers) == len(source.keys):
        raise UsageError(f"None of the classes of the images to judge by is learnt from: {few(strangers)}.")
    found = label_images(source, space, partial=True, skip=[key.rpartition("/")[2] for key in strangers])
    notes = _passed_over(source)
    if strangers:
        notes.append(
            f"{len(strangers):,} classes of the images to judge by have none to learn from and are left out: "
            f"{few(strangers)}."
        )
    return found, notes


def _passed_over(source: ClassImages) -> list[str]:
    sentence = source.passed.sentence()
    return [f"{sentence}."] if sentence else []


def taken(images: LabelledImages, rows: NDArray[np.integer] | NDArray[np.bool_]) -> LabelledImages:
    """Return these of the images."""
    return replace(images, rows=images.rows[rows], labels=images.labels[rows])


def _refuse_spellings(keys: tuple[str, ...]) -> None:
    """Raise UsageError for two names that differ in case, blanks, hyphens or underscores alone."""
    seen: dict[str, str] = {}
    for key in keys:
        plain = "".join(key.casefold().replace("_", " ").replace("-", " ").split())
        first = seen.setdefault(plain, key)
        if first != key:
            raise UsageError(
                f"The classes '{first}' and '{key}' look like two spellings of one name: give their images one name, "
                "or rename one of them."
            )
