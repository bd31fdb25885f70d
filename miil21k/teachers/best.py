"""The best images of every class from a stream of any length: in bounded memory, then in sorted runs on disk.

An image offers itself to a few classes. Candidates wait in a buffer; when it is full, each class keeps its best, and
if that frees less than half, they go to disk as one sorted run. Runs are merged class by class. Which images a class
ends up with depends on scores and names alone, not on the order of the stream, so the best of parts, merged, are the
best of the whole.
"""

from __future__ import annotations

import hashlib
import shutil
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from miil21k.files import atomic_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    _Floats = NDArray[np.float32]
    _Digests = NDArray[np.uint64]

__all__ = ["BestOfClass", "ClassBests", "name_digest"]

BYTES_PER_CANDIDATE = 12  # class int32, score float32, image int32
BYTES_PER_IMAGE = 16  # digest uint64, end of the name int64; and the name itself
SHARE = 0.25  # of the memory that the buffer may have: the cut sorts it, which takes twice as much again
MOST_RUNS = 16  # before they are merged into one
_STAGED = 1024  # images that wait in lists of Python
_GATHERED = 1 << 20  # bytes of names that are gathered at a time


class BestOfClass(NamedTuple):
    """The best images of one class, best first. scores: float32 [n]. digests: uint64 [n]. names: n encoded names."""

    wnid: str
    scores: _Floats
    digests: _Digests
    names: list[bytes]


def name_digest(name: bytes) -> int:
    """Return 64 bits that stand for a name; of images with equal scores the one with the smaller number is better."""
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little")


class ClassBests:
    """Keeps the `most` best images of every class.

    folder: where runs lie; it may be missing. memory: bytes, about, that the process may use for this. runs: names of
    the runs that an earlier process left in `folder` and that count; others there are removed.
    A name that comes twice counts once in a class, with its best score. Scores are above 0. Raises OSError.
    """

    def __init__(self, folder: Path, most: int, memory: int, runs: Sequence[str] = ()) -> None:
        self.folder, self.most = folder, most
        self.buffer_bytes = max(1 << 16, int(memory * SHARE))
        self.runs = list(runs)
        self.spilled = 0  # runs that were written because memory was full
        self._number: dict[str, int] = {}
        self._floor = np.zeros(0, np.float32)  # a score below cannot be among the best of the class
        self._staged: list[tuple[bytes, Sequence[int], Sequence[float]]] = []
        self._empty()
        if folder.is_dir():
            for path in folder.iterdir():
                if path.name not in self.runs and path.name.startswith("run-"):
                    shutil.rmtree(path)
        for name in self.runs:
            self._learn_floor(_SortedRun(folder / name))

    def _empty(self) -> None:
        self._classes: list[NDArray[np.int32]] = []
        self._scores: list[_Floats] = []
        self._images: list[NDArray[np.int32]] = []
        self._digests: list[_Digests] = []
        self._lengths: list[NDArray[np.int64]] = []
        self._names: list[bytes] = []
        self._candidates = self._held = self._name_bytes = 0

    def __repr__(self) -> str:
        return f"ClassBests({self.most} of each of {len(self._number)} classes, {self.used():,} bytes)"

    def used(self) -> int:
        """Return how many bytes the buffer holds."""
        return self._candidates * BYTES_PER_CANDIDATE + self._held * BYTES_PER_IMAGE + self._name_bytes

    def add(self, name: bytes, wnids: Sequence[str], scores: Sequence[float]) -> None:
        """Let an image offer itself to classes, with a score above 0 for each."""
        number = self._number
        places = [number.setdefault(wnid, len(number)) for wnid in wnids]
        self._staged.append((name, places, scores))
        if len(self._staged) >= _STAGED:
            self._unstage()
            if self.used() > self.buffer_bytes:
                self._cut()
                if self.used() > self.buffer_bytes // 2:
                    self.spilled += 1
                    self._write_run()

    def _unstage(self) -> None:
        staged, self._staged = self._staged, []
        if len(self._floor) < len(self._number):
            self._floor = np.concatenate([self._floor, np.zeros(len(self._number) - len(self._floor), np.float32)])
        counts = np.fromiter((len(places) for _, places, _ in staged), np.int64, len(staged))
        total = int(counts.sum())
        classes = np.fromiter(chain.from_iterable(places for _, places, _ in staged), np.int32, total)
        scores = np.fromiter(chain.from_iterable(scores for _, _, scores in staged), np.float32, total)
        images = np.repeat(np.arange(len(staged)), counts)
        good = (scores >= self._floor[classes]) & (scores > 0)
        kept, images = np.unique(images[good], return_inverse=True)
        if not kept.size:
            return
        names = [staged[place][0] for place in kept.tolist()]
        self._classes.append(classes[good])
        self._scores.append(scores[good])
        self._images.append((images + self._held).astype(np.int32))
        self._digests.append(np.fromiter(map(name_digest, names), np.uint64, len(names)))
        self._lengths.append(np.fromiter(map(len, names), np.int64, len(names)))
        joined = b"".join(names)
        self._names.append(joined)
        self._candidates += int(good.sum())
        self._held += len(names)
        self._name_bytes += len(joined)

    def _cut(self) -> None:
        """Keep the best of every class in the buffer, sorted by class."""
        classes, scores = np.concatenate(self._classes), np.concatenate(self._scores)
        images: NDArray[np.signedinteger[Any]] = np.concatenate(self._images)
        digests, lengths = np.concatenate(self._digests), np.concatenate(self._lengths)
        order = np.argsort(classes, kind="stable")
        bounds = np.searchsorted(classes[order], np.arange(len(self._number) + 1))
        kept = []
        for place in range(len(self._number)):
            mine = order[bounds[place] : bounds[place + 1]]
            if mine.size:
                best = _best(scores[mine], digests[images[mine]], self.most)
                if best.size == self.most:
                    self._floor[place] = max(self._floor[place], scores[mine[best]].min())
                kept.append(mine[best])
        chosen = np.concatenate(kept)
        del order
        self._classes, self._scores = [classes[chosen]], [scores[chosen]]
        used, images = np.unique(images[chosen], return_inverse=True)
        self._images = [images.astype(np.int32)]
        names = b"".join(self._names)
        self._names = [_gathered(names, np.cumsum(lengths) - lengths, lengths, used)]
        self._digests, self._lengths = [digests[used]], [lengths[used]]
        self._candidates, self._held, self._name_bytes = chosen.size, used.size, len(self._names[0])

    def flush(self) -> None:
        """Bring all that was added to disk; `runs` then names everything that counts."""
        if self._staged:
            self._unstage()
        if self._candidates:
            self._cut()
            self._write_run()

    def _write_run(self) -> None:
        """Write the buffer, which was cut, and begin an empty one; may merge runs."""
        classes, scores, images = self._classes[0], self._scores[0], self._images[0]
        digests, lengths, names = self._digests[0], self._lengths[0], self._names[0]
        wnids = list(self._number)
        order = np.lexsort((digests[images], -scores, classes))
        bounds = np.searchsorted(classes[order], np.arange(len(wnids) + 1))
        starts = np.cumsum(lengths) - lengths

        def of_class(place: int) -> BestOfClass:
            mine = order[bounds[place] : bounds[place + 1]]
            of = images[mine]
            ends = (starts[of] + lengths[of]).tolist()
            found = [names[start:end] for start, end in zip(starts[of].tolist(), ends, strict=True)]
            return BestOfClass(wnids[place], scores[mine], digests[of], found)

        present = sorted(np.flatnonzero(np.diff(bounds)).tolist(), key=wnids.__getitem__)
        self._store(of_class(place) for place in present)
        self._empty()
        if len(self.runs) > MOST_RUNS:
            self._merge_runs()

    def _store(self, bests: Iterator[BestOfClass]) -> None:
        last = max((int(name.rpartition("-")[2]) for name in self.runs), default=0)
        name = f"run-{last + 1:06d}"
        _write(self.folder / name, bests)
        self.runs.append(name)

    def _merge_runs(self) -> None:
        old = list(self.runs)
        self._store(self.merged())
        self.runs = self.runs[-1:]
        self._learn_floor(_SortedRun(self.folder / self.runs[0]))
        self.superseded = old

    superseded: Sequence[str] = ()  # runs that a merge has replaced: to be dropped once `runs` is on record

    def drop_superseded(self) -> None:
        """Remove the runs that a merge has replaced; call it when `runs` is recorded where a later process finds it."""
        for name in self.superseded:
            shutil.rmtree(self.folder / name, ignore_errors=True)
        self.superseded = ()

    def _learn_floor(self, run: _SortedRun) -> None:
        for place, wnid in enumerate(run.wnids):
            number = self._number.setdefault(wnid, len(self._number))
            if len(self._floor) < len(self._number):
                self._floor = np.concatenate([self._floor, np.zeros(len(self._number), np.float32)])
            if run.starts[place + 1] - run.starts[place] == self.most:
                self._floor[number] = max(self._floor[number], run.last_score(place))

    def merged(self) -> Iterator[BestOfClass]:
        """Yield the best of every class that has any, in bytewise order of wnids; what was not flushed is missing."""
        runs = [_SortedRun(self.folder / name) for name in self.runs]
        for wnid in sorted({wnid for run in runs for wnid in run.wnids}):
            parts = [run.read(wnid) for run in runs if wnid in run.place]
            scores = np.concatenate([part.scores for part in parts])
            digests = np.concatenate([part.digests for part in parts])
            names = [name for part in parts for name in part.names]
            best = _best(scores, digests, self.most)
            best = best[np.lexsort((digests[best], -scores[best]))]
            yield BestOfClass(wnid, scores[best], digests[best], [names[place] for place in best.tolist()])


def _best(scores: _Floats, digests: _Digests, most: int) -> NDArray[np.int64]:
    """Return the places of the `most` best, in no order: each digest once, equal scores by the smaller digest."""
    _, first = np.unique(digests, return_index=True)
    places = np.arange(scores.size)
    if first.size < scores.size:
        order = np.lexsort((-scores, digests))
        places = order[np.concatenate([[True], np.diff(digests[order]) != 0])]
    if places.size <= most:
        return places
    found = scores[places]
    edge = found[np.argpartition(-found, most - 1)[most - 1]]
    sure, tied = places[found > edge], places[found == edge]
    room = most - sure.size
    if room < tied.size:
        tied = tied[np.argpartition(digests[tied], room - 1)[:room]]
    return np.concatenate([sure, tied])


def _gathered(names: bytes, starts: NDArray[np.int64], lengths: NDArray[np.int64], chosen: NDArray[np.int64]) -> bytes:
    """Return the names of the chosen images, one behind the other."""
    source = np.frombuffer(names, np.uint8)
    ends = np.cumsum(lengths[chosen])
    found = np.empty(int(ends[-1]), np.uint8)
    done = first = 0
    while first < chosen.size:
        last = max(first + 1, int(np.searchsorted(ends, done + _GATHERED)))
        some = chosen[first:last]
        shift = np.repeat(starts[some] - (ends[first:last] - lengths[some]), lengths[some])
        found[done : ends[last - 1]] = source[np.arange(done, ends[last - 1]) + shift]
        done, first = int(ends[last - 1]), last
    return found.tobytes()


_FILES: dict[str, np.dtype[Any]] = {"scores": np.dtype("<f4"), "digests": np.dtype("<u8"), "lengths": np.dtype("<i4")}


def _write(folder: Path, bests: Iterator[BestOfClass]) -> None:
    """Write a run: per class, in order, scores, digests, lengths of names, and the names."""
    wnids, starts, name_starts = [], [0], [0]
    with atomic_folder(folder) as part:
        files = {field: (part / field).open("wb") for field in (*_FILES, "names")}
        try:
            for best in bests:
                joined = b"".join(best.names)
                files["scores"].write(best.scores.astype("<f4").tobytes())
                files["digests"].write(best.digests.astype("<u8").tobytes())
                files["lengths"].write(np.fromiter(map(len, best.names), "<i4", len(best.names)).tobytes())
                files["names"].write(joined)
                wnids.append(best.wnid)
                starts.append(starts[-1] + len(best.names))
                name_starts.append(name_starts[-1] + len(joined))
        finally:
            for file in files.values():
                file.close()
        (part / "classes").write_text("\n".join(wnids), encoding="utf-8")
        np.save(part / "starts.npy", np.array([starts, name_starts], np.int64))


class _SortedRun:
    """A run on disk, of which one class at a time is read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.wnids = [wnid for wnid in (folder / "classes").read_text(encoding="utf-8").split("\n") if wnid]
        self.place = {wnid: place for place, wnid in enumerate(self.wnids)}
        self.starts, self._name_starts = np.load(folder / "starts.npy", allow_pickle=False)

    def last_score(self, place: int) -> np.float32:
        return np.float32(self._read("scores", int(self.starts[place + 1]) - 1, 1)[0])

    def read(self, wnid: str) -> BestOfClass:
        place = self.place[wnid]
        start, count = int(self.starts[place]), int(self.starts[place + 1] - self.starts[place])
        scores, digests, lengths = (self._read(field, start, count) for field in _FILES)
        with (self.folder / "names").open("rb") as file:
            file.seek(int(self._name_starts[place]))
            joined = file.read(int(lengths.sum()))
        ends = np.cumsum(lengths).tolist()
        return BestOfClass(wnid, scores, digests, [joined[a:b] for a, b in zip([0, *ends[:-1]], ends, strict=True)])

    def _read(self, field: str, start: int, count: int) -> NDArray[Any]:
        kind = _FILES[field]
        found: NDArray[Any] = np.fromfile(self.folder / field, kind, count, offset=start * kind.itemsize)
        return found
