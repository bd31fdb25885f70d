"""`miil21k index`: one pass over pictures into an index, and later passes over what is new, changed, moved or gone.

A picture is unchanged when its name, size and time of change are those of its row. A new name with the bytes of a known
picture takes over that row: a copy, or a move when the old name is gone. Rows are handed over a few hundred at a time,
whole; after a kill the same command goes on with what has no row yet.
"""

from __future__ import annotations

import glob
import hashlib
import logging
import os
import threading
import time
from collections import Counter, defaultdict, deque
from contextlib import closing, nullcontext
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from miil21k.data.cloud import is_address
from miil21k.data.documents import Document
from miil21k.data.inputs import Unfolded, expand_units, require_images
from miil21k.data.opening import read_file
from miil21k.data.parts import file_of, split_part
from miil21k.data.pipes import is_pipe
from miil21k.data.tar_inputs import Shard, has_braces, is_shard
from miil21k.decode.compact import BOUND
from miil21k.errors import Miil21kError, UsageError
from miil21k.find.store import About, Index, import_store, is_index
from miil21k.hierarchy.spaces import recorded_space
from miil21k.suffixes import PassedOver
from miil21k.writers.lock import locked

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence
    from contextlib import AbstractContextManager

    from miil21k.data.images import ImageInput
    from miil21k.data.inputs import AnyUnit, Unit
    from miil21k.find.options import IndexOptions
    from miil21k.predict.bulk import BulkPredictor
    from miil21k.predict.options import PredictOptions
    from miil21k.predict.prediction import Prediction
    from miil21k.predict.predictor import Predictor
    from miil21k.predict.run import BarOf

__all__ = ["Indexed", "build_index", "model_of"]

log = logging.getLogger("miil21k.find")
ROWS, SECONDS = 512, 20.0  # of rows that wait to be handed over
_TWIN = "twin"  # in a row that waits: whose answer it takes over
MOST_GONE, MOST_GONE_OF = 20, 0.5  # more than both under one input: is a disk missing?
# Answers do not depend on these.
_FREE = {"workers", "threads", "offline", "cache_dir", "device", "make_export", "batch_size", "embeddings", "facts"}


class Indexed(NamedTuple):
    """What a pass did, in pictures. total: rows of the index now; failed: of them, those that could not be read."""

    new: int
    changed: int
    moved: int
    unchanged: int
    removed: int
    failed: int
    total: int
    seconds: float


class _Known(NamedTuple):
    """What an index knows of a picture by its name."""

    num_bytes: int
    modified_ns: int
    sha256: str
    ok: bool

    def is_of(self, state: os.stat_result) -> bool:
        """Return whether it was made from the file as it is now, and could be read."""
        return self.ok and (self.num_bytes, self.modified_ns) == (state.st_size, state.st_mtime_ns)


def model_of(path: str, model: str | None) -> str | None:
    """Return the model that goes on with the index at `path`: its own where none is named.

    Raises UsageError for another one.
    """
    if not is_index(path):
        return model
    about = Index.open(path).about
    if model is not None and model not in (about.model, about.origin["model"]):
        raise UsageError(
            f"'{path}' was made with {about.origin['model']}: leave -m out to go on with it, give another -o, or "
            "--overwrite it."
        )
    return about.model if about.model is not None else about.origin["model"]


def build_index(
    inputs: Sequence[str],
    model: str | None,
    answer: PredictOptions,
    options: IndexOptions,
    answering: Callable[[], AbstractContextManager[Predictor | BulkPredictor]],
    *,
    bar: BarOf | None = None,
) -> Indexed:
    """Bring the index `options.output` up to date with `inputs`; returns what that took.

    inputs: as `expand_units` takes them; files are kept under their absolute names. model, answer: what the rows depend
    on, with `facts` and `embeddings`; those of an existing index must be the same. answering: gives what answers, once
    something is to be answered. bar: shows how far it is.
    Raises UsageError for what cannot work, before anything is loaded; Miil21kError where the index cannot be written.
    """
    names = [_absolute(name) for name in inputs]
    require_images(names, recursive=options.recursive)
    missing = next((name for name in names if _names_one_file(name) and not os.path.lexists(file_of(name))), None)
    if missing is not None:
        raise UsageError(f"There is no '{missing}'.")
    local = "://" not in options.output
    if local and not Path(options.output).absolute().parent.is_dir():
        raise UsageError(f"There is no folder '{Path(options.output).parent}'.")
    if local and not is_index(options.output) and _holds_something(Path(options.output)):
        raise UsageError(f"'{options.output}' exists and is no index: give another name.")
    with locked([options.output]) if local else nullcontext():
        return _Pass(names, model, answer, options, bar).perform(answering)


class _Pass:
    """One pass over the inputs."""

    def __init__(
        self, names: list[str], model: str | None, answer: PredictOptions, options: IndexOptions, bar: BarOf | None
    ) -> None:
        self._names, self._model, self._options = names, model, options
        self._recorded = {**_recorded(answer), "frames": options.frames}
        self._offline = bool(answer.offline)
        self._bar = bar
        self._clock = time.perf_counter()
        self._index: Index | None = None
        if is_index(options.output) and not options.overwrite:
            self._index = Index.open(options.output)
            self._index.require_made_with(self._recorded)
        self._known = {} if self._index is None else _known(self._index)
        self._sizes = {known.num_bytes for known in self._known.values()}
        self._by_digest = {known.sha256: name for name, known in self._known.items() if known.ok}
        self._parts: defaultdict[str, list[str]] = defaultdict(list)
        for name in self._known:
            if (file := file_of(name)) != name:
                self._parts[file].append(name)
        self._seen: set[str] = set()
        self._stats: dict[str, os.stat_result] = {}
        self._waiting: list[dict[str, Any]] = []
        self._handed = time.perf_counter()
        self._counts: Counter[str] = Counter()
        self._shards: deque[str] = deque()
        self._replacing = False
        self._moved_from: list[str] = []

    def perform(self, answering: Callable[[], AbstractContextManager[Predictor | BulkPredictor]]) -> Indexed:
        passed = PassedOver()
        units = self._to_answer(
            expand_units(
                self._names,
                recursive=self._options.recursive,
                offline=self._offline,
                frames=self._options.frames,
                passed=passed,
            )
        )
        first = next(units, None)
        if first is not None and self._index is None:
            # The store takes a second to import: beside the network's loading, on a processor that waits for it.
            threading.Thread(target=import_store).start()
        shown = nullcontext(None) if self._bar is None else self._bar(None, 0)
        with shown as bar:
            if first is not None:
                with answering() as answers:
                    self._answer(answers, chain([first], units), bar)
            self._hand_over()
        if self._index is None:
            raise Miil21kError("None of these pictures can be read, so there is nothing to index.")
        self._remove_gone()
        changed = sum(self._counts[kind] for kind in ("new", "changed", "moved", "removed"))
        if changed and self._index.tidy(vectors=self._options.vectors):
            log.debug("the embeddings are indexed")
        if sentence := passed.sentence():
            log.info("%s", sentence)
        count = self._counts
        return Indexed(
            count["new"],
            count["changed"],
            count["moved"],
            count["unchanged"],
            count["removed"],
            count["failed"],
            len(self._index),
            time.perf_counter() - self._clock,
        )

    # -- which pictures have to be looked at ------------------------------------------------------------------------

    def _to_answer(self, units: Iterator[AnyUnit]) -> Iterator[Unit]:
        for unit in units:
            if isinstance(unit, Shard):
                yield from self._of_shard(unit)
            elif isinstance(unit, Document):
                yield from self._of_document(unit)
            elif unit.name not in self._seen:
                self._seen.add(unit.name)
                if not self._is_settled(unit):
                    yield unit

    def _of_shard(self, shard: Shard) -> Iterator[Unit]:
        """Yield a shard that is new or changed; its rows are handed over together, so that one row stands for all."""
        if shard.name in self._seen:
            return
        self._seen.add(shard.name)
        state = _stat(shard.path)
        prefix = f"{shard.name}/"
        members = [name for name in self._known if name.startswith(prefix)]
        self._seen.update(members)
        if state is not None and members and self._known[members[0]].modified_ns == state.st_mtime_ns:
            self._counts["unchanged"] += len(members)
            return
        self._seen.difference_update(members)  # those that the shard no longer holds are gone
        if state is not None:
            self._stats[shard.name] = state
        self._shards.append(shard.name)
        yield shard

    def _of_document(self, document: Document) -> Iterator[Unit]:
        """Yield the pages of a file that is new or changed; their rows are handed over together."""
        members = [name for name in (document.name, *self._parts.get(document.name, ())) if name in self._known]
        state = _stat(document.path)
        if state is not None and members and all(self._known[name].is_of(state) for name in members):
            self._seen.update(members)
            self._counts["unchanged"] += len(members)
            return
        self._shards.append(document.name)
        yield from self._to_answer(document.images())

    def _is_settled(self, image: ImageInput) -> bool:
        """Return whether the row of a picture stands, or follows from that of another one with the same bytes."""
        known = self._known.get(image.name)
        if not isinstance(image.source, str) or is_address(image.source):  # nothing says whether it changed
            if known is not None and known.ok:
                self._counts["unchanged"] += 1
                return True
            return False
        file, part = split_part(image.source)
        state = _stat(file)
        if state is None:
            return False
        if known is not None and known.is_of(state):
            self._counts["unchanged"] += 1
            return True
        self._stats[image.name] = state
        return part is None and state.st_size in self._sizes and self._has_known_bytes(image, state)

    def _has_known_bytes(self, image: ImageInput, state: os.stat_result) -> bool:
        try:
            digest = hashlib.sha256(read_file(cast("str", image.source), image.name)).hexdigest()
        except (Miil21kError, OSError):
            return False
        twin = self._by_digest.get(digest)
        if twin is None:
            return False
        moved = twin != image.name and twin not in self._moved_from and not _there(twin)
        if moved:
            self._moved_from.append(twin)
        self._count(image.name, moved=moved)
        self._wait({_TWIN: twin, "input": image.name, "container": None, **_state(state)})
        return True

    def _wait(self, row: dict[str, Any]) -> None:
        """Let a row wait to be handed over; what it replaces is no longer a twin of what comes."""
        self._waiting.append(row)
        known = self._known.get(row["input"])
        self._replacing = self._replacing or known is not None
        if known is not None and self._by_digest.get(known.sha256) == row["input"] != row.get(_TWIN):
            del self._by_digest[known.sha256]

    # -- answers become rows ----------------------------------------------------------------------------------------

    def _answer(self, answers: Predictor | BulkPredictor, units: Iterator[Unit], bar: Any) -> None:
        images: Any = units if answers.takes_shards else Unfolded(units)
        stream = cast("Generator[Prediction, None, None]", answers.stream(images))
        with closing(stream):
            for prediction in stream:
                if self._index is None and prediction.embedding is not None:
                    self._index = self._created(answers, len(prediction.embedding))
                container = self._container(prediction.input)
                enough = len(self._waiting) >= ROWS or time.perf_counter() - self._handed > SECONDS
                if enough and (container is None or container != self._waiting[-1]["container"]):
                    self._hand_over()
                self._wait(self._row(prediction, container))
                self._count(prediction.input, moved=False)
                self._seen.add(prediction.input)
                if bar is not None:
                    bar.advance()

    def _created(self, answers: Predictor | BulkPredictor, width: int) -> Index:
        decoder = answers.decoder
        space = answers.space
        shipped = recorded_space(space.name, space.sha256) is not None
        withdrawn = () if decoder.withdrawn is None else tuple(int(c) for c in decoder.withdrawn.nonzero()[0])
        about = About(
            self._model,
            answers.origin._asdict(),
            self._recorded,
            decoder.head,
            BOUND,
            withdrawn,
            None if shipped else space.to_text(),
        )
        return Index.create(self._options.output, about, width, overwrite=self._options.overwrite)

    def _container(self, name: str) -> str | None:
        """Return the shard or document that a picture lies in; predictions come in their order."""
        for place, holder in enumerate(self._shards):
            if name == holder or name.startswith((f"{holder}/", f"{holder}#")):
                for _ in range(place):
                    self._shards.popleft()
                whole = name == holder and not is_shard(holder)  # a document that is one picture, or none
                return None if whole else holder
        return None

    def _row(self, prediction: Prediction, container: str | None) -> dict[str, Any]:
        row = prediction.to_dict()
        facts, masses = prediction.facts, prediction.masses
        state = self._stats.pop(prediction.input, None) or self._stats.get(container or "")
        found: dict[str, Any] = {
            "input": prediction.input,
            "container": container,
            **{name: row[name] for name in ("status", "error", "path", "stop", "topk")},
            "classes": [] if masses is None else masses.classes,
            "probabilities": [] if masses is None else masses.probabilities,
            "rest": None if masses is None else masses.rest,
            "embedding": None if prediction.embedding is None else prediction.embedding.astype("float16"),
            **({} if facts is None else facts._asdict()),
        }
        return {**found, **({} if state is None else _state(state))}

    def _count(self, name: str, *, moved: bool) -> None:
        self._counts["changed" if name in self._known else "moved" if moved else "new"] += 1

    def _hand_over(self) -> None:
        if self._waiting and self._index is not None:
            copies = [row for row in self._waiting if _TWIN in row]
            answered = [row for row in self._waiting if _TWIN not in row]
            for first in range(0, len(copies), ROWS):
                part = copies[first : first + ROWS]
                twins = {row["input"]: row for row in self._index.stored(sorted({row[_TWIN] for row in part}))}
                self._put([{**twins[row.pop(_TWIN)], **row} for row in part])
            self._put(answered)
            self._waiting, self._replacing = [], False
        self._handed = time.perf_counter()

    def _put(self, rows: list[dict[str, Any]]) -> None:
        assert self._index is not None
        if rows:
            self._index.put(rows, known=self._replacing)
            self._counts["failed"] += sum(row["status"] != "ok" for row in rows)

    # -- what is gone -----------------------------------------------------------------------------------------------

    def _remove_gone(self) -> None:
        """Remove the rows of pictures that an input held and no longer holds; not where most are gone at once."""
        assert self._index is not None
        self._index.remove(self._moved_from)
        for name in self._moved_from:
            self._known.pop(name, None)
        looked_into = {file_of(name) for name in self._seen}

        def is_old(name: str) -> bool:
            """Return whether the file was looked into, and has this page no more."""
            return file_of(name) in looked_into

        for name in self._names:
            prefixes = (name.rstrip("/") + "/", f"{name}#")
            under = [known for known in self._known if known == name or known.startswith(prefixes)]
            gone = [known for known in under if known not in self._seen and (is_old(known) or not _there(known))]
            if not gone:
                continue
            if len(gone) > MOST_GONE and len(gone) > MOST_GONE_OF * len(under) and not self._options.prune:
                log.warning(
                    "%d of %d pictures under '%s' are gone; is a disk missing? They stay in the index: --prune drops "
                    "them.",
                    len(gone),
                    len(under),
                    name,
                )
                continue
            self._index.remove(gone)
            self._counts["removed"] += len(gone)
            for known in gone:
                del self._known[known]


def _recorded(answer: PredictOptions) -> dict[str, Any]:
    chosen = {name: value for name, value in asdict(answer).items() if name not in _FREE}
    return {name: str(value) if isinstance(value, Path) else value for name, value in chosen.items()}


def _known(index: Index) -> dict[str, _Known]:
    table = index.columns("num_bytes", "modified_ns", "sha256", "status")
    columns = [table[name].to_pylist() for name in ("num_bytes", "modified_ns", "sha256", "status")]
    rows = zip(index.names, *columns, strict=True)
    return {name: _Known(size, when, digest, status == "ok") for name, size, when, digest, status in rows}


def _state(state: os.stat_result) -> dict[str, int]:
    return {"num_bytes": state.st_size, "modified_ns": state.st_mtime_ns}


def _stat(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None


def _there(name: str) -> bool:
    return is_address(name) or os.path.lexists(file_of(name))


def _names_one_file(name: str) -> bool:
    several = name.startswith("@") or has_braces(name) or glob.has_magic(name)
    return not (several or name == "-" or is_pipe(name) or is_address(name))


def _holds_something(path: Path) -> bool:
    return any(path.iterdir()) if path.is_dir() else path.exists()


def _absolute(name: str) -> str:
    if name in ("-", "@-") or is_pipe(name) or is_address(name):
        return name
    if name.startswith("@") and not os.path.isfile(name):
        return f"@{os.path.abspath(name[1:])}"
    return os.path.abspath(name)
