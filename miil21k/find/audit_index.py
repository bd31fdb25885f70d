"""`miil21k audit`: labels of pictures, as folders or a list name them, against the answers of an index.

The classes of a label that has several go together: *bird* is likely where any bird is. A class that lies below two
labels is of the lower one. All other classes stay on their own, so that what a wrong label should be may be any class.
A label whose classes the model does not have (*okapi*) is checked as the nearest concept above it that has some
(*ruminant*), without statistics: its quality is the probability of that concept.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from miil21k.data.lists import read_list
from miil21k.errors import UnknownClass, UsageError
from miil21k.find.audit import Doubt, audit, tree_distance
from miil21k.hierarchy.concepts import concepts_of
from miil21k.hierarchy.nouns import parse_lemma, wordnet_nouns
from miil21k.hierarchy.questions import find_meanings, nearest_with_classes, resolve, wordnet_meanings
from miil21k.hierarchy.spaces import LabelSpace
from miil21k.hierarchy.tree import Tree
from miil21k.options import check, described, option
from miil21k.predict.html_page import html_page, table, thumbnail
from miil21k.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    from miil21k.find.store import Index
    from miil21k.hierarchy.concepts import Concepts

__all__ = ["COLUMNS", "AuditOptions", "Audited", "audit_index", "audit_page"]

FOLDERS = "folders"
COLUMNS = (
    "path",
    "label",
    "label_name",
    "verdict",
    "suggested",
    "suggested_name",
    "probability",
    "quality",
    "distance",
)
MOST_SHOWN = 500  # pictures of a page
_BLOCK = 4096  # rows of probabilities at a time


@described
@dataclass(frozen=True)
class AuditOptions:
    """Which labels are checked, and how strictly."""

    labels: str = option(
        FOLDERS,
        "folders: a picture's label is the name of its folder; or a list, path,label: wnids, nouns or bins",
        metavar="folders|LABELS.csv",
    )
    bins: str | None = option(None, "the labels are these, label,concept[,parent]", metavar="BINS.csv")
    least: float = option(
        0.5, "a label of less quality is doubtful where another is likelier", metavar="Q", least=0, most=1
    )
    limit: int | None = option(None, "at most so many, the worst first", flags="-n --limit", metavar="N", least=1)

    def __post_init__(self) -> None:
        check(self)


class Audited(NamedTuple):
    """rows: pictures in doubt, the worst first, with the keys `COLUMNS`. checked: pictures with a label that was
    understood. notes: one sentence for each label that was not, or that is checked as another concept."""

    rows: list[dict[str, Any]]
    checked: int
    notes: list[str]


class _Labels(NamedTuple):
    """What labels are checked against.

    space: classes, of which the first are the labels' own. owner: int32 [C], the class of `space` that each class of
    the model belongs to. own: the class of each label, by its text. above: the node of `space`, and the classes of the
    model below it (bool [C]), that stand for a label without any.
    """

    space: LabelSpace
    owner: NDArray[np.int32]
    own: dict[str, int]
    above: dict[str, tuple[int, NDArray[np.bool_]]]
    notes: list[str]


def audit_index(index: Index, options: AuditOptions) -> Audited:
    """Return the pictures of `index` whose label is likely wrong, or doubtful.

    verdict: `wrong` where confident learning counts it so, else `doubtful`. quality: of the label, in [0, 1], low is
    bad. distance: edges of the tree between label and suggestion. Raises UsageError where no label is understood.
    """
    given = _given(index, options.labels)
    answered = index.answered
    numbers = [number for number, label in sorted(given.items()) if answered[number]]
    texts = dict.fromkeys(given[number] for number in numbers)
    labels = _of_bins(index, options.bins, texts) if options.bins is not None else _of_concepts(index, texts)
    known = [number for number in numbers if given[number] in labels.own]
    others = [number for number in numbers if given[number] in labels.above]
    if not known and not others:
        raise UsageError(" ".join(["No picture has a label that is understood.", *labels.notes[:3]]))
    own = np.array([labels.own[given[number]] for number in known], np.int64)
    found = audit(_probabilities(index, labels, known), own, labels.space, least=options.least)
    doubts = [doubt._replace(row=known[doubt.row]) for doubt in found]
    doubts += _against(index, labels, others, given, options.least)
    doubts.sort(key=lambda doubt: (not doubt.mislabelled, doubt.quality))
    rows = [
        {
            "path": index.names[doubt.row],
            "label": given[doubt.row],
            "label_name": _called(given[doubt.row]),
            "verdict": "wrong" if doubt.mislabelled else "doubtful",
            "suggested": labels.space.tree.wnids[doubt.suggested],
            "suggested_name": labels.space.display_name(doubt.suggested),
            "probability": doubt.probability,
            "quality": doubt.quality,
            "distance": doubt.distance,
        }
        for doubt in doubts[: options.limit]
    ]
    return Audited(rows, len(known) + len(others), labels.notes)


def _against(index: Index, labels: _Labels, numbers: list[int], given: dict[int, str], least: float) -> list[Doubt]:
    """Return the pictures that look like something outside of the concept that stands for their label."""
    found = []
    inside = {text: index.probability(classes) for text, (_, classes) in labels.above.items()}
    for first in range(0, len(numbers), _BLOCK):
        part = numbers[first : first + _BLOCK]
        probabilities = _probabilities(index, labels, part)
        for row, number in enumerate(part):
            node, classes = labels.above[given[number]]
            outside = probabilities[row].copy()
            outside[labels.owner[classes & (labels.owner >= 0)]] = 0
            best, quality = int(outside.argmax()), float(inside[given[number]][number])
            if quality < least and outside[best] > quality:
                far = tree_distance(labels.space.tree, np.array([node]), np.array([best]))
                found.append(
                    Doubt(number, node, best, round(quality, 4), round(float(outside[best]), 4), False, int(far[0]))
                )
    return found


def _given(index: Index, source: str) -> dict[int, str]:
    """Return the label of each picture that has one, by its number."""
    if source == FOLDERS:
        return {number: os.path.basename(os.path.dirname(name)) for number, name in enumerate(index.names)}
    path = Path(source)
    if not path.is_file():
        raise UsageError(f"There is no file '{printable(source)}': --labels takes {FOLDERS}, or a list path,label.")
    listing = read_list(path)
    if listing.several:
        raise UsageError(f"{listing.origin} has several labels per picture: an audit takes one.")
    number_of = dict(zip(index.names, range(len(index)), strict=True))
    root = os.path.abspath(path.parent)
    named = ((os.path.normpath(os.path.join(root, name)) if "://" not in name else name) for name in listing.paths)
    found = {number_of[name]: label for name, label in zip(named, listing.labels, strict=True) if name in number_of}
    if not found:
        raise UsageError(f"{listing.origin} names no picture of the index, such as '{printable(listing.paths[0])}'.")
    return found


def _of_bins(index: Index, path: str | None, texts: Iterable[str]) -> _Labels:
    from miil21k.hierarchy.bin_lines import bin_lines
    from miil21k.hierarchy.bins import bins_of

    assert path is not None
    concepts = concepts_of(index.about.space)
    bins = bins_of(bin_lines(path), concepts, index.about.shown)
    own, notes = {}, []
    for text in texts:
        try:
            own[text] = bins.find(concepts, text)
        except (UnknownClass, UsageError) as error:  # noqa: PERF203 - a label, not a picture
            notes.append(f"{error} Its pictures are left out.")
    space = LabelSpace("bins", bins.tree, bins.labels, [""] * len(bins))
    return _Labels(space, bins.owner, own, {}, notes)


def _of_concepts(index: Index, texts: Iterable[str]) -> _Labels:
    """Return the concepts that labels name, each with its classes, and every other class on its own."""
    concepts = concepts_of(index.about.space)
    named: dict[str, int] = {}
    stand_ins: dict[str, int] = {}
    notes = []
    for text in texts:
        try:
            named[text] = resolve(concepts, text, index.about.shown).concept
        except UnknownClass as error:  # noqa: PERF203 - a label, not a picture
            instead = None if find_meanings(concepts, text) else _nearest(index, concepts, text)
            if instead is None:
                notes.append(f"{error} Its pictures are left out.")
            else:
                stand_ins[text] = instead
                name = concepts.display_name(instead)
                notes.append(f"'{printable(text)}' has no class of the model: it is checked as '{name}'.")
    groups = sorted(set(named.values()), key=lambda concept: (-int(concepts.num_below[concept]), concept))
    owner = np.full(concepts.num_classes, -1, np.int32)
    for place, concept in enumerate(groups):  # the lower ones take theirs afterwards
        owner[concepts.classes(concept)] = place
    alone = [one for one in np.flatnonzero(owner < 0).tolist() if one not in groups]
    owner[alone] = np.arange(len(groups), len(groups) + len(alone), dtype=np.int32)
    space, place_of = _space_of(concepts, [*groups, *alone], stand_ins.values())
    above = {}
    for text, concept in stand_ins.items():
        classes = np.zeros(concepts.num_classes, bool)
        classes[concepts.classes(concept)] = True
        above[text] = (place_of[concept], classes)
    own = {text: place_of[concept] for text, concept in named.items()}
    return _Labels(space, owner, own, above, notes)


def _called(label: str) -> str:
    """Return the first word for a wnid; another label is its own name."""
    nouns = wordnet_nouns()
    return parse_lemma(nouns.lemma_text(label).partition("|")[0]).word if label in nouns else label


def _nearest(index: Index, concepts: Concepts, text: str) -> int | None:
    meanings = wordnet_meanings(text)
    found = nearest_with_classes(concepts, text, meanings, concepts.count(index.about.shown)) if meanings else None
    return None if found is None else found[1]


def _space_of(concepts: Concepts, columns: list[int], more: Iterable[int]) -> tuple[LabelSpace, dict[int, int]]:
    """Return the label space whose classes are the concepts `columns`, below the same nodes as in the model's.

    more: concepts that are nodes of it, too. Also returns the node of each concept.
    """
    nodes = list(dict.fromkeys([*columns, *more]))
    place = {concept: at for at, concept in enumerate(nodes)}
    parents = []
    for concept in nodes:  # grows while it is walked
        above = _above(concepts, concept)
        if above >= 0 and above not in place:
            place[above] = len(nodes)
            nodes.append(above)
        parents.append(place.get(above, -1))
    names = tuple(map(concepts.name, nodes))
    tree = Tree(tuple(concepts.wnids[one] for one in nodes), names, np.array(parents, np.int32), len(columns))
    return LabelSpace("labels", tree, names, [""] * len(nodes)), place


def _above(concepts: Concepts, concept: int) -> int:
    tree = concepts.space.tree
    if concept < tree.num_nodes:
        return int(tree.parent[concept])
    return int(next(iter(concepts.parents(concept).tolist()), -1))


def _probabilities(index: Index, labels: _Labels, numbers: list[int]) -> NDArray[np.float32]:
    """Return float32 [n, classes of the labels], rows that sum to 1, but for what the index is off by."""
    from scipy.sparse import csr_matrix

    owned = np.flatnonzero(labels.owner >= 0)
    shape = (len(labels.owner), labels.space.num_classes)
    into = csr_matrix((np.ones(len(owned), np.float32), (owned, labels.owner[owned])), shape=shape)
    counted = np.asarray(into[index.about.counted].sum(axis=0), np.float32).ravel()
    blocks = []
    for first in range(0, len(numbers), _BLOCK):
        rows = numbers[first : first + _BLOCK]
        blocks.append((index.masses[rows] @ into).toarray() + index.rest[rows, None] * counted)
    empty = np.zeros((0, labels.space.num_classes), np.float32)
    found: NDArray[np.float32] = np.clip(np.concatenate([empty, *blocks]), 0, None)
    found /= np.maximum(found.sum(axis=1, keepdims=True), 1e-12)
    return found


def audit_page(title: str, found: Audited, read: Callable[[str], bytes]) -> str:
    """Return a page of the pictures in doubt, the worst first. read: the bytes of a picture, by its name."""
    wrong = sum(row["verdict"] == "wrong" for row in found.rows)
    pairs: dict[tuple[str, str], int] = {}
    for row in found.rows:
        pair = (row["label_name"], row["suggested_name"])
        pairs[pair] = pairs.get(pair, 0) + 1
    often = sorted(pairs.items(), key=lambda pair: (-pair[1], pair[0]))[:20]
    doubtful = len(found.rows) - wrong
    counts = f"labels are likely wrong, {doubtful:,} doubtful, of {found.checked:,} checked."
    parts = [
        f"<h1>{escape(title)}</h1>",
        f"<p><span class='big'>{wrong:,}</span> {counts}</p>",
        "<h2>What is confused</h2>",
        table(("labelled", "looks like", "pictures"), [(*pair, count) for pair, count in often]),
        "<h2>Pictures, the worst first</h2><div class='photos'>",
        *(_figure(row, read) for row in found.rows[:MOST_SHOWN]),
        "</div>",
    ]
    if len(found.rows) > MOST_SHOWN:
        parts.append(f"<p class='soft'>and {len(found.rows) - MOST_SHOWN:,} more</p>")
    if found.notes:
        parts.append("<h2>Labels that were not taken as they are</h2><ul>")
        parts += [f"<li>{escape(printable(note))}</li>" for note in found.notes]
        parts.append("</ul>")
    return html_page(title, parts)


def _figure(row: dict[str, Any], read: Callable[[str], bytes]) -> str:
    words = (
        f"<b>{escape(printable(row['label_name']))}</b>: {escape(row['verdict'])} ({row['quality']:.2f})<br>"
        f"looks like {escape(row['suggested_name'])} ({row['probability']:.2f}), {row['distance']} edges away<br>"
        f"<span class='soft'>{escape(printable(row['path']))}</span>"
    )
    return f"<figure>{thumbnail(row['path'], read)}<figcaption>{words}</figcaption></figure>"
