"""What the page of a gallery knows: an index as a few scripts, each made on demand."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote_from_bytes

import numpy as np

from miil21k.decode.compact import compact_masses
from miil21k.errors import UnknownClass
from miil21k.find.store import MIN_ROWS_OF_VECTOR_INDEX
from miil21k.hierarchy.concepts import concepts_of
from miil21k.hierarchy.nouns import ENDINGS
from miil21k.hierarchy.questions import resolve

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from miil21k.find.store import Index

__all__ = ["CHUNK", "PAGE_BOUND", "Links", "data_files", "thumb_keys"]

Links = Literal["file", "relative", "none"]
CHUNK = 2000  # pictures of one file of probabilities, or of nearest pictures
PAGE_BOUND = 0.02  # of a concept's probability on the page, besides that of the index
NEAREST = 12
_BLOCK = 512  # rows that are compared with all others at a time


def data_files(index: Index, edge: int, links: Links, site: Path | None = None) -> dict[str, Callable[[], str]]:
    """Return what makes the content of each data file, by its name.

    edge: of the thumbnails. site: where the page lies, for links `relative` to it; None for a server, whose page asks
    it for originals and sends it corrections.
    """
    chunks = range(0, len(index), CHUNK)
    files: dict[str, Callable[[], str]] = {
        "collection.js": partial(_script, "collection", partial(_collection, index, edge, links, site)),
        "words.js": partial(_script, "words", partial(_words, index)),
    }
    unit = cache(partial(_unit_vectors, index))
    for number, first in enumerate(chunks):
        numbers = range(first, min(first + CHUNK, len(index)))
        files[f"masses-{number}.js"] = partial(_script, f"masses-{number}", partial(_masses, index, numbers))
        files[f"near-{number}.js"] = partial(_script, f"near-{number}", partial(_near, index, numbers, unit))
    return files


def _script(name: str, content: Callable[[], Any]) -> str:
    return f"GALLERY.data({json.dumps(name)},{json.dumps(content(), separators=(',', ':'))});\n"


def thumb_keys(index: Index) -> list[str]:
    """Return how the thumbnail of each picture is called: by the digest of its bytes, else by its name and time."""
    table = index.columns("sha256", "modified_ns")
    return [
        (digest or hashlib.sha256(f"{name}\0{when}".encode("utf-8", "surrogateescape")).hexdigest())[:24]
        for name, digest, when in zip(
            index.names, *(table[name].to_pylist() for name in table.column_names), strict=True
        )
    ]


def _collection(index: Index, edge: int, links: Links, site: Path | None) -> dict[str, Any]:
    concepts = concepts_of(index.about.space)
    place = concepts.index_of
    names = index.names
    table = index.columns("path", "topk", "captured", "width", "height", "status", "error").to_pydict()

    def nodes(column: str) -> list[list[float]]:
        """Concept and probability in turn, since thousands of small objects are slow to read."""
        return [
            [part for node in row or () for part in (place[node["wnid"]], round(node["probability"], 3))]
            for row in table[column]
        ]

    prefix = os.path.commonprefix(names)  # noqa: RUF071 - shards and addresses, too, and cut at a folder
    prefix = prefix[: prefix.rfind("/") + 1]
    absolute = str(Path(index.path).absolute()) if "://" not in index.path else index.path
    return {
        "id": hashlib.sha256(absolute.encode("utf-8", "surrogateescape")).hexdigest()[:16],
        "title": os.path.basename(index.path.rstrip("/")),
        "live": site is None,
        "model": index.about.origin["model"],
        "space": index.about.space.name,
        "head": index.about.head,
        "hedge": index.about.options.get("hedge"),
        "bound": round(index.about.bound + PAGE_BOUND, 4),
        "chunk": CHUNK,
        "edge": edge,
        "wnids": concepts.wnids,
        "names": [concepts.display_name(one) for one in range(len(concepts))],
        "parents": [concepts.parents(one).tolist() for one in range(len(concepts))],
        "classes": concepts.num_classes,
        "hidden": np.flatnonzero(~index.about.shown).tolist(),
        "uncounted": np.flatnonzero(~index.about.counted).tolist(),
        "prefix": prefix,
        "paths": [name[len(prefix) :] for name in names],
        "links": _links(names, links, site),
        "thumbs": thumb_keys(index),
        "answers": nodes("path"),
        "top": nodes("topk"),
        "captured": [taken and taken[:16].replace("T", " ") for taken in table["captured"]],
        "sizes": [[width, height] for width, height in zip(table["width"], table["height"], strict=True)],
        "errors": {n: table["error"][n] for n, status in enumerate(table["status"]) if status != "ok"},
    }


def _links(names: list[str], links: Links, site: Path | None) -> list[str | None]:
    if site is None:
        return [name if "://" in name else f"originals/{number}" for number, name in enumerate(names)]
    return [_LINKS[links](name, site) for name in names]


def _file_link(name: str, site: Path) -> str:  # noqa: ARG001
    return name if "://" in name else Path(name).as_uri() if os.name == "nt" else f"file://{_quoted(name)}"


def _relative_link(name: str, site: Path) -> str:
    return name if "://" in name else _quoted(Path(os.path.relpath(name, site)).as_posix())


def _no_link(name: str, site: Path) -> None:  # noqa: ARG001
    return None


_LINKS: dict[Links, Callable[[str, Path], str | None]] = {
    "file": _file_link,
    "relative": _relative_link,
    "none": _no_link,
}


def _quoted(path: str) -> str:
    return quote_from_bytes(os.fsencode(path))


def _words(index: Index) -> dict[str, Any]:
    """Return what each noun means: the concept taken first, -1 where nothing says which, then the others."""
    concepts = concepts_of(index.about.space)
    counts = concepts.count(index.about.shown)
    found: dict[str, list[int]] = {}
    for word, meanings in concepts.named.items():
        alive = list(dict.fromkeys(concept for concept, _ in meanings if counts[concept]))
        if len(alive) > 1:
            try:
                question = resolve(concepts, word, index.about.shown)
                alive = [question.concept, *question.others]
            except UnknownClass:
                alive = [-1, *alive]
        if alive:
            found[word] = alive
    several = {one for meanings in found.values() if len(meanings) > 1 for one in meanings if one >= 0}
    return {"words": found, "endings": ENDINGS, "glosses": {one: concepts.gloss(one) for one in sorted(several)}}


def _masses(index: Index, numbers: range) -> dict[str, str]:
    """Return what stands out of each row, base64 of little-endian numbers.

    counts: uint16 or uint32 [rows]. classes: the same [M]. probabilities: float16 [M]. rest: float32 [rows].
    """
    about = index.about
    wide = "<u2" if about.space.num_classes < 2**16 else "<u4"
    kept = []
    for first in range(numbers.start, numbers.stop, _BLOCK):
        rows = slice(first, min(first + _BLOCK, numbers.stop))
        dense = index.masses[rows].toarray()
        dense[:, about.counted] += index.rest[rows, None]
        kept += compact_masses(dense, about.head, about.counted, PAGE_BOUND)
    return {
        "counts": _base64(np.array([len(row.classes) for row in kept]), wide),
        "classes": _base64(np.concatenate([row.classes for row in kept]), wide),
        "probabilities": _base64(np.concatenate([row.probabilities for row in kept]), "<f2"),
        "rest": _base64(np.array([row.rest for row in kept]), "<f4"),
        "wide": wide,
    }


def _base64(values: NDArray[Any], kind: str) -> str:
    return base64.b64encode(values.astype(kind).tobytes()).decode()


def _unit_vectors(index: Index) -> NDArray[np.float32]:
    vectors = index.embeddings().astype(np.float32)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return vectors


def _near(index: Index, numbers: range, unit: Callable[[], NDArray[np.float32]]) -> list[list[float]]:
    """Return the most alike pictures of each, the number and the cosine of each in turn, most alike first.

    A few thousand are compared with each other; the index of vectors answers for more.
    """
    if len(index) >= MIN_ROWS_OF_VECTOR_INDEX:
        vectors = index.embeddings(np.arange(numbers.start, numbers.stop)).astype(np.float32)
        found = [index.nearest(vector, NEAREST + 1) if vector.any() else None for vector in vectors]
        return [[] if pair is None else _pairs(*pair, own) for own, pair in zip(numbers, found, strict=True)]
    vectors = unit()
    count = min(NEAREST + 1, len(vectors))
    rows = []
    for first in range(numbers.start, numbers.stop, _BLOCK):
        own = range(first, min(first + _BLOCK, numbers.stop))
        alike = vectors[own.start : own.stop] @ vectors.T
        best = np.argpartition(-alike, count - 1, axis=1)[:, :count]
        for row, number in enumerate(own):
            places = best[row][np.argsort(-alike[row, best[row]], kind="stable")]
            places = places[alike[row, places] > 0]  # a picture that failed is like none
            rows.append(_pairs(places, alike[row, places], number))
    return rows


def _pairs(places: NDArray[np.int64], alike: NDArray[np.float32], own: int) -> list[float]:
    pairs = zip(places.tolist(), alike.tolist(), strict=True)
    others = [(place, round(cosine, 3)) for place, cosine in pairs if place != own][:NEAREST]
    return [part for pair in others for part in pair]
