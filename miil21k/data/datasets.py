"""Labelled images: where they lie, which class of a label space each has, and whether the two belong together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from miil21k.data.annotations import coco_root, is_voc, read_coco, read_voc
from miil21k.data.folders import FolderSource, part_folders
from miil21k.data.images import load_picture
from miil21k.data.lists import LabelSets, ListSource, few, is_list, read_list, split_name
from miil21k.data.options import MAX_PIXELS
from miil21k.data.shards import ShardSource, named_shards
from miil21k.data.sources import SOURCES
from miil21k.data.tar_inputs import is_index
from miil21k.errors import ImageError, LabelSpaceMismatch, UnknownClass, UsageError
from miil21k.hierarchy.labels import Label, find_label
from miil21k.hierarchy.load import load_label_space
from miil21k.hierarchy.spaces import LABEL_SPACES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import TypeAlias

    from numpy.typing import NDArray

    from miil21k.data.images import Picture
    from miil21k.data.lists import Listing
    from miil21k.hierarchy.spaces import LabelSpace
    from miil21k.suffixes import PassedOver

    Opening: TypeAlias = "Callable[[], ClassImages]"
    Parts: TypeAlias = "dict[str, Opening]"

__all__ = [
    "ClassImages",
    "LabelledImages",
    "choose_part",
    "label_images",
    "matching_space",
    "open_parts",
    "open_source",
    "unlabelled_images",
]


class ClassImages(Protocol):
    """Images under class keys, readable in any order; see `FolderSource`, `ShardSource` and `ListSource`.

    keys: the labels that occur. passed: what lies beside them and is no picture. called: what a message calls keys.
    """

    keys: tuple[str, ...]
    passed: PassedOver
    called: str

    @property
    def label_sets(self) -> LabelSets | None:
        """The places in `keys` of the labels of each image, where it may have any number of them."""

    @property
    def weights(self) -> NDArray[np.float32] | None:
        """float32 [N], how much each image counts; None for once each."""

    @property
    def key_of(self) -> NDArray[np.int32]:
        """int32 [N], the place in `keys` of the label of each image; raises UsageError where one has several."""

    def __len__(self) -> int: ...
    def name(self, index: int) -> str:
        """Return what to call image `index`."""

    def read(self, index: int) -> bytes:
        """Return its encoded bytes; raises OSError."""


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images with labels in `space`.

    rows: int64 [N], which images of the source these are. labels: int32 [N], class indices; where nouns are labels,
    node indices too, and from the number of nodes on the place of the label in `outside`; -1 without a label. sets:
    where an image has any number of labels, those of each: nodes, with all above them; `labels` then holds -1. named:
    int32, the nodes that such labels name. weights: float32 [N], how much each image counts; once each without.
    absent: the classes of the space without an image here. skipped: class keys of the source that were left out on
    purpose. outside: labels that are no nodes of the space. notes: which of several meanings a label was taken in.
    reduce_to: JPEGs may be decoded at a fraction as long as no side gets smaller than this; None decodes in full.
    exif, max_pixels: see `read_as`.
    """

    source: ClassImages
    space: LabelSpace
    rows: NDArray[np.int64]
    labels: NDArray[np.int32]
    absent: NDArray[np.int32]
    skipped: tuple[str, ...] = ()
    outside: tuple[Label, ...] = ()
    notes: tuple[str, ...] = ()
    reduce_to: int | None = None
    exif: bool = True
    max_pixels: int = MAX_PIXELS
    sets: LabelSets | None = None
    named: NDArray[np.int32] | None = None
    weights: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return int(self.rows.size)

    def name(self, index: int) -> str:
        """Return what to call image `index` of this set: its path below the root, or SHARD.tar/FILE."""
        return self.source.name(int(self.rows[index]))

    def load(self, index: int) -> Picture:
        """Return image `index` as upright RGB; raises ImageError naming it when it cannot be read."""
        name = self.name(index)
        try:
            content = self.source.read(int(self.rows[index]))
        except OSError as error:
            raise ImageError(f"Cannot read '{name}': {error.strerror or error}.") from None
        return load_picture(content, name=name, reduce_to=self.reduce_to, exif=self.exif, max_pixels=self.max_pixels)

    def taken(self, places: NDArray[np.integer]) -> LabelledImages:
        """Return the images at `places` of this set, in that order."""
        return replace(
            self,
            rows=self.rows[places],
            labels=self.labels[places],
            sets=None if self.sets is None else self.sets.taken(places),
            weights=None if self.weights is None else self.weights[places],
        )

    def targets(self, places: Sequence[int]) -> NDArray[np.int64] | NDArray[np.float32]:
        """Return what is to be learnt of the images at `places`: classes int64 [B], or multi-hot float32 [B, C]."""
        if self.sets is None:
            return self.labels[np.asarray(places, np.int64)].astype(np.int64)
        return self.sets.multi_hot(places, self.space.num_classes)

    def decoded_near(self, size: int) -> LabelledImages:
        """Return the same images, JPEGs decoded at the smallest scale that keeps both sides at `size` or more."""
        return replace(self, reduce_to=size)

    def read_as(self, *, exif: bool, max_pixels: int) -> LabelledImages:
        """Return the same images, upright or as they are stored, those of more than `max_pixels` refused."""
        return replace(self, exif=exif, max_pixels=max_pixels)


def open_source(
    path: str,
    cache: Path | None = None,
    *,
    root: str | Path | None = None,
    split: str | None = None,
    rather: Sequence[str] = (),
) -> ClassImages:
    """Return the images at `path`: class folders, a folder of .tar shards, or shards: one, a glob, `a-{000..003}.tar`,
    or the `index.json` that `miil21k prepare` wrote; or a list (see `miil21k.data.lists` and `annotations`); or, where
    nothing is called so, one of `miil21k.data.sources`, such as `hfds/FOLDER`.

    cache: where the indices of shards are kept. root: the folder that the paths of a list start from, if not the
    list's own. split: which part of the data set, of a list that has a column for it or of folders that are called
    `train`, `val` and the like. rather: without `split`, the first of these parts that is there. Raises UsageError when
    there is nothing there, or several parts and nothing says which.
    """
    return choose_part(path, open_parts(path, cache, root=root), split, rather)()


def choose_part(path: str, parts: Parts, split: str | None = None, rather: Sequence[str] = ()) -> Opening:
    """Return what opens the part that is meant; arguments and errors as for `open_source`."""
    names = [name for name in parts if name]
    if split is not None:
        chosen = split_name(split)
        if chosen not in names:
            has = f"it has {few(names, 9)}" if names else "it has no parts"
            raise UsageError(f"'{path}' has no split '{split}': {has}.")
        return parts[chosen]
    found = next((name for name in rather if name in parts), next(iter(parts)) if len(parts) == 1 else None)
    if found is not None:
        return parts[found]
    folder = Path(path).is_dir()
    such = f"'{Path(path) / names[0]}'" if folder else f"--split {names[0]}"
    raise UsageError(
        f"'{path}' holds {' and '.join(names)}, the parts of a data set: give one of them, such as {such}"
        f"{', or say which with --split' if folder else ''}."
    )


def open_parts(path: str, cache: Path | None = None, *, root: str | Path | None = None) -> Parts:
    """Return what opens each part of the data set at `path`, by name; a data set of one piece is called "".

    Arguments and errors as for `open_source`.
    """
    place = Path(path)
    kind, _, rest = path.partition("/")
    if rest and kind in SOURCES and not place.exists():
        if root is not None:
            raise UsageError(f"--root goes with a list of images, and '{path}' is none.")
        return dict(SOURCES[kind](rest, cache))
    listing, start = _listing(place)
    if listing is not None:
        start = start if root is None else Path(root)
        if listing.splits is None:
            return {"": partial(ListSource, listing, start)}
        return {name: partial(_listed, listing, name, start) for name in listing.counts()}
    if root is not None:
        raise UsageError(f"--root goes with a list of images, and '{path}' is none.")
    folders = part_folders(place) if place.is_dir() else {}
    if folders:
        named = {split_name(name): partial(_folder, folder, cache) for name, folder in folders.items()}
        if len(named) < len(folders):
            raise UsageError(f"'{path}' holds two folders for one part of a data set: {few(list(folders), 9)}.")
        return dict(named)
    if place.is_dir():
        return {"": partial(_folder, place, cache)}
    found = list(named_shards(path))
    if not found:
        raise UsageError(
            f"'{path}' is neither a folder nor a tar shard, nor a list, and begins with none of "
            f"{', '.join(f'{kind}/' for kind in SOURCES)}: give the folder that holds the class folders."
        )
    return {"": partial(ShardSource, found, cache)}


def _listing(place: Path) -> tuple[Listing | None, Path]:
    """Return the list at `place`, if there is one, and the folder that its paths start from."""
    if place.is_dir():
        return (read_voc(place), place) if is_voc(place) else (None, place)
    if is_list(place):
        return read_list(place), place.parent
    if is_index(str(place)):
        return read_coco(place), coco_root(place)
    return None, place


def _listed(listing: Listing, split: str, root: Path) -> ClassImages:
    return ListSource(listing.part(split), root)


def _folder(root: Path, cache: Path | None) -> ClassImages:
    shards = sorted(root.glob("*.tar"))
    return ShardSource(shards, cache) if shards else FolderSource(root)


def matching_space(keys: Iterable[str]) -> str | None:
    """Return the shipped label space whose classes are exactly `keys`, None when there is none."""
    found = frozenset(keys)
    return next((name for name in LABEL_SPACES if found == frozenset(load_label_space(name).wnids)), None)


def label_images(
    source: ClassImages,
    space: LabelSpace,
    *,
    partial: bool = False,
    skip: Sequence[str] = (),
    nouns: bool = False,
    numbered: bool = False,
    several: bool = False,
) -> LabelledImages:
    """Return the images of `source` labelled in `space`.

    A class key is a wnid or the name of a class of the space, or a path whose last part is one. partial: classes of the
    space may be without images. skip: class keys to leave out. nouns: a key may also be an inner node, or any noun of
    WordNet (see `find_label`). numbered: whole numbers that are no keys of the space count its classes. several: an
    image may have any number of labels, which are nodes then. Raises UsageError for such images otherwise;
    LabelSpaceMismatch when a key is none of these, there are no images of a class or of any class below it (unless
    partial), or the keys are exactly the classes of another shipped space; UnknownClass for a noun of several meanings.
    """
    left_out = frozenset(skip)
    index = space.tree.index_of
    names = [key if key in index else key.rpartition("/")[2] for key in source.keys]
    if all(name.isascii() and name.isdecimal() for name in names) and not index.keys() >= set(names):
        names = _counted(source, names, space, numbered)
    places = [index.get(name, -1) for name in names]
    if not left_out and sorted(places) != list(range(space.num_classes)):
        _refuse_another_space(names, space)
    found: list[Label | None] = [
        Label(name, name, place) if 0 <= place < space.num_classes else _named(space, name, nouns)
        for name, place in zip(names, places, strict=True)
    ]
    outside = {label.wnid: label for label in found if label is not None and label.right is not None}
    place_of = {wnid: space.tree.num_nodes + place for place, wnid in enumerate(outside)}
    label_of = np.array([-2 if it is None else place_of.get(it.wnid, it.node) for it in found], np.int32)
    label_of[
        [name in left_out or (it is not None and it.wnid in left_out) for name, it in zip(names, found, strict=True)]
    ] = -1
    _check(source, label_of, space, partial, tuple(outside))
    sets = named = None
    if several and source.label_sets is not None:
        if outside:
            raise LabelSpaceMismatch(
                f"{len(outside)} of {len(source.keys)} {source.called} are no nodes of '{space.name}': "
                f"{few([label.name for label in outside.values()])}."
            )
        sets, named = _upward(source.label_sets, label_of, space), np.unique(label_of[label_of >= 0])
    labels = label_of[source.key_of] if sets is None else np.full(len(source), -1, np.int32)
    rows = np.flatnonzero(labels >= 0) if sets is None else np.arange(len(source))
    return LabelledImages(
        source,
        space,
        rows,
        labels[rows],
        absent=np.setdiff1d(np.arange(space.num_classes, dtype=np.int32), label_of),
        skipped=tuple(key for key, place in zip(source.keys, label_of, strict=True) if place == -1),
        outside=tuple(outside.values()),
        notes=tuple(label.note for label in found if label is not None and label.note),
        sets=sets,
        named=named,
        weights=None if source.weights is None else source.weights[rows],
    )


def _upward(sets: LabelSets, label_of: NDArray[np.int32], space: LabelSpace) -> LabelSets:
    """Return the nodes that the label sets name, with all nodes above them; a label that is left out has none."""
    chains = space.tree.level_target
    above = [chains[label][chains[label] >= 0].tolist() if label >= 0 else [] for label in label_of.tolist()]
    each = (sets[row].tolist() for row in range(len(sets.ends)))
    return LabelSets.of([sorted({node for label in labels for node in above[label]}) for labels in each])


def unlabelled_images(source: ClassImages, space: LabelSpace) -> LabelledImages:
    """Return every image of `source`, whatever its folder is called, without a label: -1 for each."""
    count = len(source)
    nobody = np.empty(0, np.int32)
    labels = np.full(count, -1, np.int32)
    return LabelledImages(source, space, np.arange(count), labels, nobody, weights=source.weights)


def _named(space: LabelSpace, name: str, nouns: bool) -> Label | None:
    """Return what a label that is no key of a class says; None unless it is one of what is allowed."""
    try:
        label = find_label(space, name)
    except UnknownClass:
        if nouns:
            raise
        return None  # a word of several meanings, none of which is a class
    return label if nouns or (label is not None and label.node < space.num_classes and label.right is None) else None


def _counted(source: ClassImages, numbers: Sequence[str], space: LabelSpace, allowed: bool) -> list[str]:
    """Return the keys of the classes that `numbers` count; raises LabelSpaceMismatch when they count nothing known."""
    if not allowed:
        raise LabelSpaceMismatch(
            f"The {source.called} are numbers ({few(numbers)}), which do not say in which label space they count: name "
            "it with --label-space."
        )
    beyond = [number for number in numbers if int(number) >= space.num_classes]
    if beyond:
        raise LabelSpaceMismatch(
            f"The label space '{space.name}' has the classes 0 to {space.num_classes - 1:,}: {few(beyond)} are none."
        )
    return [space.wnids[int(number)] for number in numbers]


def _refuse_another_space(names: Sequence[str], space: LabelSpace) -> None:
    """Raise LabelSpaceMismatch when the names are exactly the classes of another shipped space."""
    other = matching_space(names)
    if other is not None and other != space.name:
        raise LabelSpaceMismatch(
            f"The images are of label space '{other}' ({len(names):,} classes), not of '{space.name}' "
            f"({space.num_classes:,}): use --label-space {other}, or images of '{space.name}'."
        )


def _check(
    source: ClassImages, label_of: NDArray[np.int32], space: LabelSpace, partial: bool, outside: Sequence[str]
) -> None:
    """Raise LabelSpaceMismatch as `label_images` says; outside: the wnids of labels that are no nodes."""
    unknown = [key for key, found in zip(source.keys, label_of, strict=True) if found == -2]
    known = label_of[label_of >= 0]
    if known.size != np.unique(known).size:
        twice = int(np.bincount(known).argmax())
        both = [key for key, found in zip(source.keys, label_of, strict=True) if found == twice]
        wnid = (*space.tree.wnids, *outside)[twice]
        words = source.called.removeprefix("class ")
        raise LabelSpaceMismatch(f"The {words} '{both[0]}' and '{both[1]}' both mean the class '{wnid}'.")
    if "." in unknown:
        raise LabelSpaceMismatch(
            "Images lie in the folder itself, beside no class: give the folder around it, whose subfolders are classes."
        )
    if unknown:
        raise LabelSpaceMismatch(
            f"{len(unknown)} of {len(source.keys)} {source.called} are no classes of label space '{space.name}': "
            f"{few(unknown)}. Choose the label space that the images were labelled in with --label-space."
        )
    lacking = [] if partial else _without_images(space, known)
    if lacking:
        raise LabelSpaceMismatch(
            f"{len(lacking):,} of the {space.num_classes:,} classes of label space '{space.name}' have no images: "
            f"{few(lacking)}. Give a label space of these classes only, or accept that with --partial."
        )


def _without_images(space: LabelSpace, present: NDArray[np.int32]) -> list[str]:
    """Return the classes that are neither among `present` nor above one of them."""
    reached = np.zeros(space.tree.num_nodes + 1, np.bool_)  # the last place takes the -1 of missing levels
    reached[space.tree.level_target[present]] = True
    return [wnid for wnid, found in zip(space.wnids, reached[: space.num_classes], strict=True) if not found]
