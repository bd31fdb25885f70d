"""`miil21k organize`: pictures in folders named by their answers, as links, copies or moves that can be undone."""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from xml.sax.saxutils import escape

import numpy as np

from miil21k.decode.path import hedge
from miil21k.errors import UsageError
from miil21k.find.moves import KINDS, FileStep, digest_of
from miil21k.options import check, described, option

if TYPE_CHECKING:
    from collections.abc import Iterator

    from miil21k.find.store import Index

__all__ = ["UNSURE", "OrganizeOptions", "Planned", "plan_organize", "sidecars_of"]

UNSURE = "_unsure"
# What no file system refuses; Windows knows more words than these as devices, but none that names a concept.
_UNFIT = re.compile(r'[<>:"/\\|?*\x00-\x1f]')
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_SIDECARS = (".xmp", ".XMP")


@described
@dataclass(frozen=True)
class OrganizeOptions:
    """Into which folders pictures go, and how."""

    by: str = option(
        "tree", "tree: folders are the hedged path; or a file of bins, label,concept[,parent]", metavar="tree|BINS.csv"
    )
    mode: Literal["symlink", "hardlink", "copy", "move"] = option(
        "symlink", "how a picture gets there", choices=("symlink", "hardlink", "copy", "move")
    )
    depth: int | None = option(None, "at most so many folders inside each other", metavar="N", least=1)
    keywords: bool = option(
        False,
        "write the answer as keywords into an XMP sidecar beside each picture in TARGET",
        flags="--keywords --xmp",
    )

    def __post_init__(self) -> None:
        check(self)


class Planned(NamedTuple):
    """steps: what is to be done. folders: pictures per folder below the target. left: one sentence for each picture
    that takes no part."""

    steps: list[FileStep]
    folders: Counter[str]
    left: list[str]


def plan_organize(index: Index, target: Path, options: OrganizeOptions) -> Planned:
    """Return what puts the pictures of `index` into folders below `target`; nothing is done yet.

    Names that collide get a number, in the order of the index; what is there already as planned is planned again, and
    what is not ours is never replaced. A picture's `.xmp` sidecars follow it.
    """
    target = Path(os.path.abspath(target))
    numbers = range(len(index))
    facts = index.take(numbers, "input", "container", "num_bytes", "modified_ns", "sha256")
    taken: set[str] = set()
    claimed: set[str] = set()
    steps: list[FileStep | None] = []
    folders: Counter[str] = Counter()
    left: list[str] = []
    for known, names in zip(facts, _paths(index, options), strict=True):
        if names is None:
            left.append(f"'{known['input']}' could not be read.")
            continue
        if known["container"] is not None or "://" in known["input"]:
            left.append(f"'{known['input']}' is no file of its own.")
            continue
        folder = "/".join(map(_folder_name, names[: options.depth])) or UNSURE
        step = _placed(known, target / folder, options.mode, taken)
        folders[folder] += 1
        steps.append(step)
        for source, suffix in sidecars_of(step.source):
            if source not in claimed:
                claimed.add(source)
                steps.append(_beside(source, step, suffix, options.mode))
        if options.keywords and names:
            steps.append(_keywords(step, names, {other.target for other in steps[-3:] if other is not None}))
    return Planned([step for step in steps if step is not None], folders, left)


def _paths(index: Index, options: OrganizeOptions) -> Iterator[list[str] | None]:
    """Yield the names of the answer of each picture, the highest first; None for one that could not be read."""
    if options.by == "tree":
        shared = Counter(name for name, _ in _named(index))
        for path, ok in zip(index.columns("path")["path"].to_pylist(), index.answered.tolist(), strict=True):
            yield [_distinct(node, shared) for node in path or []] if ok else None
        return
    from miil21k.decode.bins import bin_probabilities
    from miil21k.hierarchy.bin_lines import bin_lines
    from miil21k.hierarchy.bins import bins_of
    from miil21k.hierarchy.concepts import concepts_of

    if not Path(options.by).is_file():
        raise UsageError(f"There is no file '{options.by}': --by takes tree, or a file of bins.")
    bins = bins_of(bin_lines(options.by), concepts_of(index.about.space), index.about.shown)
    own = np.stack([index.probability(bins.owner == label) for label in range(len(bins))], axis=1)
    probabilities = bin_probabilities(bins, own, index.about.head)
    level = index.about.options.get("hedge") or 0.5
    found = hedge(bins.tree, probabilities, level)
    nodes_of = found.paths.nodes.tolist()
    for nodes, length, ok in zip(nodes_of, found.length.tolist(), index.answered.tolist(), strict=True):
        yield [bins.labels[node] for node in nodes[:length]] if ok else None


def _named(index: Index) -> set[tuple[str, str]]:
    paths = index.columns("path")["path"].to_pylist()
    return {(node["name"], node["wnid"]) for path in paths for node in path or []}


def _distinct(node: dict[str, Any], shared: Counter[str]) -> str:
    return f"{node['name']} ({node['wnid']})" if shared[node["name"]] > 1 else str(node["name"])


def _folder_name(name: str) -> str:
    found = _UNFIT.sub("_", name).rstrip(". ") or "_"
    return f"{found}_" if _RESERVED.fullmatch(found) else found


def _placed(known: dict[str, Any], folder: Path, mode: str, taken: set[str]) -> FileStep:
    """Return the step that puts a picture into `folder`, under its name or the next free one."""
    stem, suffix = os.path.splitext(os.path.basename(known["input"]))
    number = 1
    while True:
        name = f"{stem}{suffix}" if number == 1 else f"{stem}-{number}{suffix}"
        path = str(folder / name)
        number += 1
        if path.casefold() in taken:
            continue
        step = FileStep(mode, known["input"], path, known["num_bytes"], known["modified_ns"], known["sha256"])
        if os.path.lexists(path) and not KINDS[mode].is_done(step):
            continue
        taken.add(path.casefold())
        return step


def sidecars_of(picture: str) -> Iterator[tuple[str, str]]:
    """Yield the XMP files of a picture, each with what its name adds to the picture's: `.jpg.xmp` or `.xmp`."""
    stem = os.path.splitext(picture)[0]
    for suffix in _SIDECARS:
        for name, added in ((picture + suffix, os.path.splitext(picture)[1] + suffix), (stem + suffix, suffix)):
            if os.path.isfile(name):
                yield name, added


def _beside(source: str, picture: FileStep, added: str, mode: str) -> FileStep:
    state = os.stat(source)
    target = os.path.splitext(picture.target)[0] + added
    digest = digest_of(source) if mode == "copy" else ""
    return FileStep(mode, source, target, state.st_size, state.st_mtime_ns, digest)


def _keywords(picture: FileStep, names: list[str], others: set[str]) -> FileStep | None:
    """Return the step that writes the keywords of a picture; None where a sidecar of its own follows it."""
    target = f"{picture.target}.xmp"
    if target in others or os.path.splitext(picture.target)[0] + ".xmp" in others:
        return None
    return FileStep("write", "", target, content=_xmp(names))


def _xmp(names: list[str]) -> str:
    """Return an XMP packet: each name a keyword (`dc:subject`), and the path as one (`lr:hierarchicalSubject`)."""
    subjects = "".join(f"<rdf:li>{escape(name)}</rdf:li>" for name in names)
    path = escape("|".join(name.replace("|", "/") for name in names))
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">\n'
        '<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" '
        'xmlns:lr="http://ns.adobe.com/lightroom/1.0/">\n'
        f"<dc:subject><rdf:Bag>{subjects}</rdf:Bag></dc:subject>\n"
        f"<lr:hierarchicalSubject><rdf:Bag><rdf:li>{path}</rdf:li></rdf:Bag></lr:hierarchicalSubject>\n"
        '</rdf:Description></rdf:RDF></x:xmpmeta>\n<?xpacket end="w"?>\n'
    )
