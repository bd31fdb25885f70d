"""`miil21k find`: the pictures of an index that answer a query, or look like one, or were taken then and there."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from miil21k.errors import UsageError
from miil21k.find.query import parse_query
from miil21k.options import check, described, option

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from miil21k.find.query import Query
    from miil21k.find.store import Index

__all__ = ["COUNTS", "CountedNode", "FindOptions", "FoundPictures", "Near", "count_by", "find", "row_of"]

EARTH_KM = 6371.0088  # mean radius
_DATE = re.compile(r"\d{4}(-\d{2}(-\d{2}([T ]\d{2}:\d{2}(:\d{2})?)?)?)?")


class Near(NamedTuple):
    """A circle on the ground. latitude, longitude: degrees. km: its radius."""

    latitude: float
    longitude: float
    km: float


def _near(text: str) -> Near:
    try:
        found = Near(*(float(part) for part in text.split(",")))
    except (TypeError, ValueError):
        raise UsageError(f"'{text}' is no place: give LATITUDE,LONGITUDE,KM, as in 48.137,11.575,5.") from None
    if not (-90 <= found.latitude <= 90 and -180 <= found.longitude <= 180 and found.km > 0):
        raise UsageError(f"'{text}' lies nowhere: latitudes end at 90, longitudes at 180, and KM is above 0.")
    return found


def _date(text: str) -> str:
    if not _DATE.fullmatch(text):
        raise UsageError(f"'{text}' is no date: give 2024, 2024-05, 2024-05-31 or 2024-05-31T14:00.")
    try:
        datetime.fromisoformat((text + "-01-01"[len(text) - 4 :] if len(text) < 10 else text).replace(" ", "T"))
    except ValueError:
        raise UsageError(f"'{text}' is no day of the calendar.") from None
    return text.replace(" ", "T")


@described
@dataclass(frozen=True)
class FindOptions:
    """What is wanted of an index, besides the query."""

    like: str | None = option(None, "look like this picture, most alike first", metavar="IMAGE")
    since: str | None = option(None, "taken on or after this day, as the file says", metavar="DATE", parse=_date)
    until: str | None = option(None, "taken on or before this day", metavar="DATE", parse=_date)
    near: Near | None = option(None, "taken within KM of a place", metavar="LAT,LON,KM", parse=_near)
    threshold: float = option(
        0.5, "least probability of the query", flags="--threshold --conf", metavar="P", least=0, most=1
    )
    limit: int | None = option(
        None, "at most so many pictures (default: all; 20 with --like)", flags="-n --limit", metavar="N", least=1
    )

    def __post_init__(self) -> None:
        check(self)


class FoundPictures(NamedTuple):
    """The pictures that were found, best first.

    numbers: int64 [F], their rows. probability: float32 [F], P(query), None without a query. similarity: float32 [F],
    the cosine to the picture of `like`, None without one. query: as it was understood.
    """

    numbers: NDArray[np.int64]
    probability: NDArray[np.float32] | None
    similarity: NDArray[np.float32] | None
    query: Query | None


def find(
    index: Index, text: str | None, options: FindOptions, embed: Callable[[str], NDArray[np.float32]] | None = None
) -> FoundPictures:
    """Return the pictures of `index` that answer `text` and hold all of `options`.

    text: a query (`miil21k.find.query`), None for every picture. embed: gives the embedding [D] of a picture, for
    `options.like`. Ordered by similarity where a picture is given, else by probability, else as in the index; ties keep
    the order of the index. Pictures without a time or a place are left out where one is asked for.
    Raises what `parse_query` does.
    """
    query = None if text is None else parse_query(text, index)
    wanted = index.answered.copy()
    probability = None
    if query is not None:
        probability = index.probability(query.classes)
        wanted &= probability >= np.float32(options.threshold) - 1e-6
        if query.wanted is not None:
            wanted &= query.wanted
    if options.since is not None or options.until is not None:
        wanted &= _within(index, options.since, options.until)
    if options.near is not None:
        wanted &= _distance_km(index, options.near) <= options.near.km
    if options.like is not None:
        assert embed is not None
        numbers, similarity = _most_alike(index, embed(options.like), wanted, options.limit or 20)
    else:
        numbers, similarity = np.flatnonzero(wanted), None
        if probability is not None:
            numbers = numbers[np.argsort(-probability[numbers], kind="stable")]
        numbers = numbers[: options.limit]
    return FoundPictures(numbers, None if probability is None else probability[numbers], similarity, query)


def _within(index: Index, since: str | None, until: str | None) -> NDArray[np.bool_]:
    """Return bool [rows]: taken in that time, on the clock of the place where it was taken."""
    taken = index.columns("captured")["captured"].to_pylist()
    return np.array(
        [
            time is not None
            and (since is None or time[: len(since)] >= since)
            and (until is None or time[: len(until)] <= until)
            for time in taken
        ],
        bool,
    )


def _distance_km(index: Index, near: Near) -> NDArray[np.float64]:
    """Return float64 [rows], kilometres along the ground (haversine); infinite without a place."""
    table = index.columns("latitude", "longitude")
    latitude, longitude = (
        np.radians(table[name].to_numpy(zero_copy_only=False).astype(np.float64)) for name in ("latitude", "longitude")
    )
    here_lat, here_lon = np.radians(near.latitude), np.radians(near.longitude)
    half = (
        np.sin((latitude - here_lat) / 2) ** 2
        + np.cos(latitude) * np.cos(here_lat) * np.sin((longitude - here_lon) / 2) ** 2
    )
    distance = 2 * EARTH_KM * np.arcsin(np.sqrt(np.clip(half, 0, 1)))
    return np.where(np.isnan(distance), np.inf, distance)


def _most_alike(
    index: Index, vector: NDArray[np.float32], wanted: NDArray[np.bool_], count: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the `count` wanted pictures most like `vector`, and their cosines.

    Few wanted ones are compared one by one; of many, the nearest of all are taken until enough of them are wanted.
    """
    total = len(wanted)
    if wanted.all() or wanted.sum() > total / 4:
        ask = min(total, max(count, int(2 * count * total / max(1, wanted.sum()))))
        numbers, similarity = index.nearest(vector, ask)
        keep = wanted[numbers]
        if keep.sum() >= min(count, int(wanted.sum())):
            return numbers[keep][:count], similarity[keep][:count]
    numbers = np.flatnonzero(wanted)
    vectors = index.embeddings(numbers).astype(np.float32)
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(vector)
    similarity = np.where(lengths > 0, vectors @ vector / np.maximum(lengths, 1e-12), -np.inf).astype(np.float32)
    order = np.argsort(-similarity, kind="stable")[:count]
    order = order[np.isfinite(similarity[order])]
    return numbers[order], similarity[order]


class CountedNode(NamedTuple):
    """A line of a count. depth: below the top. name, key: what is counted. pictures: at or below it."""

    depth: int
    name: str
    key: str
    pictures: int


def _by_level(index: Index, numbers: NDArray[np.int64]) -> list[CountedNode]:
    """Return the hedged answers as a tree: every node of a path, with the pictures whose path runs over it."""
    chains: Counter[tuple[str, ...]] = Counter()
    names: dict[str, str] = {}
    paths = index.columns("path")["path"].to_pylist()
    for number in numbers.tolist():
        path = paths[number] or []
        names.update((node["wnid"], node["name"]) for node in path)
        wnids = tuple(node["wnid"] for node in path)
        chains.update(wnids[: depth + 1] for depth in range(len(wnids)))
        chains.update([()] if not wnids else [])
    unsure = chains.pop((), 0)

    def below(top: tuple[str, ...]) -> list[tuple[str, ...]]:
        inside = [chain for chain in chains if len(chain) == len(top) + 1 and chain[: len(top)] == top]
        return sorted(inside, key=lambda chain: (-chains[chain], chain))

    lines: list[CountedNode] = []

    def walk(top: tuple[str, ...]) -> None:
        for chain in below(top):
            lines.append(CountedNode(len(top), names[chain[-1]], chain[-1], chains[chain]))
            walk(chain)

    walk(())
    return [*lines, *([CountedNode(0, "not sure enough", "", unsure)] if unsure else [])]


def _by(key_of: Callable[[str | None], str], column: str) -> Callable[[Index, NDArray[np.int64]], list[CountedNode]]:
    def counted(index: Index, numbers: NDArray[np.int64]) -> list[CountedNode]:
        values = index.columns(column)[column].to_pylist()
        found = Counter(key_of(values[number]) for number in numbers.tolist())
        return [CountedNode(0, key, key, count) for key, count in sorted(found.items())]

    return counted


def _month(captured: str | None) -> str:
    return "unknown" if captured is None else captured[:7]


def _folder(name: str | None) -> str:
    return (name or "").rpartition("/")[0]


COUNTS: dict[str, Callable[[Index, NDArray[np.int64]], list[CountedNode]]] = {
    "level": _by_level,
    "month": _by(_month, "captured"),
    "folder": _by(_folder, "input"),
}


def count_by(index: Index, kind: str, numbers: NDArray[np.int64]) -> list[CountedNode]:
    """Return what these pictures are, counted by `kind`, a key of `COUNTS`; raises UsageError for another one."""
    if kind not in COUNTS:
        raise UsageError(f"Nothing counts by '{kind}': there are {', '.join(COUNTS)}.")
    return COUNTS[kind](index, numbers)


def row_of(found: FoundPictures, place: int, row: dict[str, Any]) -> dict[str, Any]:
    """Return `row` with what the search knows of it."""
    numbers = {"probability": found.probability, "similarity": found.similarity}
    return {**row, **{name: None if of is None else round(float(of[place]), 6) for name, of in numbers.items()}}
