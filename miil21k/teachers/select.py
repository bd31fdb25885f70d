"""From a pool without labels to the images that train a student: for each class the K that a teacher is surest of.

One pass over the pool, by the prediction run; what is selected so far lies beside the output until that is written, and
an interrupted pass goes on from there. Source: Yalniz et al. 2019, "Billion-scale semi-supervised learning for image
classification", section 3: the P best classes of each image, and of those images the K best of each class.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from miil21k.errors import UsageError
from miil21k.files import replace_file
from miil21k.hierarchy.load import load_label_space
from miil21k.hierarchy.spaces import LABEL_SPACES, withdrawn_classes
from miil21k.predict.options import RunOptions, listed
from miil21k.predict.run import Taken, run
from miil21k.records import read_json
from miil21k.store.integrity import sha256_of
from miil21k.teachers.best import ClassBests
from miil21k.teachers.candidates import OF_SELECTIONS, Candidates, of_prediction, of_row
from miil21k.teachers.listing import csv_line, require_list, write_list
from miil21k.teachers.options import LEAST_CONCEPT, SelectOptions
from miil21k.writers.lock import locked
from miil21k.writers.output import same_options
from miil21k.writers.reading import read_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from miil21k.hierarchy.spaces import LabelSpace
    from miil21k.predict.options import PredictOptions
    from miil21k.predict.prediction import Origin, Prediction
    from miil21k.predict.run import Answering, BarOf

__all__ = ["answer_options", "report_path", "select_pool", "select_rows", "unfinished_path"]

log = logging.getLogger("miil21k.teachers")
SCHEMA = 1
CHECKPOINT_SECONDS = 300.0
CHECKPOINT_IMAGES = 256  # between two looks at the clock
# What the list depends on; the rest says where it goes and what does the work.
_DECIDES = (
    "per_class",
    "per_image",
    "on",
    "threshold",
    "under",
    "classes",
    "exclude",
    "rule",
    "calibration",
    "include_removed_labels",
)


def unfinished_path(output: Path) -> Path:
    """Return the folder of what is selected so far; it goes when the list is written."""
    return output.with_name(f"{output.name}.unfinished")


def report_path(output: Path) -> Path:
    """Return where the report of a selection lies: counts, options, what answered, and the digest of the list."""
    return output.with_name(f"{output.stem}.report.json")


def _unreadable_path(output: Path) -> Path:
    return output.with_name(f"{output.stem}.unreadable.csv")


def answer_options(options: SelectOptions, answer: PredictOptions) -> PredictOptions:
    """Return how the teacher answers, so that its predictions hold what the selection reads."""
    if options.on == "concepts":
        least = max(options.threshold, LEAST_CONCEPT)
        return replace(answer, topk=1, threshold=0.0, hedge=None, classes=None, min_node=least)
    chosen = {name: getattr(options, name) for name in ("under", "classes", "exclude")}
    return replace(answer, topk=options.per_image, threshold=0.0, hedge=None, **chosen)


def select_pool(
    pool: Sequence[str],
    model: str | None,
    answer: PredictOptions,
    options: SelectOptions,
    answering: Callable[[str | None], AbstractContextManager[Answering]],
    *,
    bar: BarOf | None = None,
) -> dict[str, Any]:
    """Select images of a pool by what a model answers; returns the report, which lies beside the list.

    pool: files, folders, globs, shards, as for prediction. answer: as `answer_options` returns it. answering: gives
    what answers, see `miil21k.predict.run.run`. Raises UsageError for what cannot work, before anything is loaded.
    """
    path = Path(options.output)
    recorded = {"model": model, **{name: _plain(value) for name, value in asdict(answer).items() if name in _ANSWER}}
    with _selection(path, options, recorded) as selection:
        if selection.report is None:
            how = RunOptions(output=path, recursive=options.recursive, engine=options.engine, address=options.address)
            run(pool, model, answer, how, answering, sink=selection, bar=bar, behind=selection.taken)
        return selection.told()


_ANSWER = (
    "checkpoint",
    "label_space",
    "head",
    "revision",
    "img_size",
    "crop_pct",
    "crop_mode",
    "interpolation",
    "dtype",
    "exif",
    "max_pixels",
    "resizer",
    "decode",
)


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value


def select_rows(files: Sequence[str], options: SelectOptions, label_space: str | None = None) -> dict[str, Any]:
    """Select from rows that predict wrote (JSON lines, Parquet, CSV), or merge selections; returns the report.

    The best of parts, merged, are the best of the whole. label_space: that of the rows, where it is none that ships.
    Raises UsageError for rows of two label spaces, and as `miil21k.writers.reading.read_rows` does.
    """
    restricting = [name for name in ("under", "exclude", "rule", "calibration") if getattr(options, name) is not None]
    if restricting:
        raise UsageError(f"--{restricting[0]} decides how a model answers: the rows are answered already.")
    path = Path(options.output)
    if path.resolve() in {Path(name).resolve() for name in files}:
        raise UsageError(f"'{path}' is among the rows that are read: give another -o.")
    with _selection(path, options, {"rows": list(map(os.fspath, files)), "label_space": label_space}) as selection:
        if selection.report is None:
            selection.take_rows([Path(name) for name in files], label_space)
            selection.finish()
        return selection.told()


@contextmanager
def _selection(path: Path, options: SelectOptions, recorded: dict[str, Any]) -> Iterator[Selection]:
    require_list(path)
    with locked([path]):
        selection = Selection(path, options, recorded)
        try:
            yield selection
        except BaseException as error:
            selection.abandon()
            if selection.images:
                ended = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
                log.error(
                    "%s: %s images are taken; the same command with --resume goes on.", ended, f"{selection.images:,}"
                )
            raise


class Selection:
    """What is selected so far, on disk beside the output: a `Sink` of the prediction run.

    images: taken so far; unreadable: those among them that could not be read. taken: where an earlier process came to.
    report: of a list that is complete already. Raises UsageError when there is a list and it is not to be replaced,
    or another one was begun.
    """

    def __init__(self, path: Path, options: SelectOptions, recorded: dict[str, Any]) -> None:
        self.path, self._options = path, options
        decides = {name: _plain(getattr(options, name)) for name in _DECIDES}
        self._recorded: dict[str, Any] = json.loads(json.dumps({**recorded, **decides}))
        self._folder = unfinished_path(path)
        self.images = self.unreadable = self._unreadable_bytes = 0
        self._last = ""
        self._origin: dict[str, Any] = {}
        self._space: tuple[str, str] = ("", "")
        self._possible: dict[str, str] | None = None  # what an image may stand for, with names
        self._parts: list[Path] = []  # the selections that are merged
        self.taken: Taken | None = None
        self.report: dict[str, Any] | None = None
        state = self._state()
        memory = int(options.memory * 1e9)
        self._bests = ClassBests(self._folder, options.per_class, memory, state["runs"] if state else ())
        self._saved = time.monotonic()

    def _state(self) -> dict[str, Any] | None:
        """Return what an interrupted selection left, if it shall be gone on with; clears what shall be replaced."""
        path, begun = self.path, (self._folder / "state.json").exists()
        if self._options.overwrite:
            shutil.rmtree(self._folder, ignore_errors=True)
            return None
        if self._options.resume and not begun and path.exists() and report_path(path).exists():
            report: dict[str, Any] = read_json(report_path(path), dict)
            same_options(path, report["options"], self._recorded)
            log.info("'%s' is complete already: nothing to do.", path)
            self.report = report
            return None
        if not self._options.resume and (begun or path.exists()):
            way = "--resume goes on with it, " if begun else ""
            raise UsageError(
                f"'{path}' exists{' from an unfinished selection' if begun else ''}: {way}--overwrite replaces it."
            )
        if not begun:
            shutil.rmtree(self._folder, ignore_errors=True)
            return None
        state: dict[str, Any] = read_json(self._folder / "state.json", dict)
        same_options(path, state["options"], self._recorded)
        self.images, self.unreadable, self._last = state["images"], state["unreadable"], state["last"]
        self._origin, self._unreadable_bytes = state["origin"], state["unreadable_bytes"]
        self.taken = Taken(self.images, self._last)
        with (self._folder / "unreadable.csv").open("rb+") as file:
            file.truncate(self._unreadable_bytes)
        return state

    def begin(self, origin: Origin, space: LabelSpace) -> None:
        """Take what answers; raises UsageError when another model, device or precision began this selection."""
        found = origin._asdict()
        if self._origin:
            same_options(self.path, self._origin, found)
        self._origin, self._possible = found, _possible(space, self._options, origin.removed_labels)

    def write(self, prediction: Prediction) -> None:
        """Take one prediction."""
        self.take(of_prediction(prediction, self._options.on, self._options.per_image, self._possible or ()))

    def take(self, found: Candidates) -> None:
        """Take what one image offers; now and then all that was taken is brought to disk."""
        self.images += 1
        self._last = found.input
        if found.error is not None:
            self.unreadable += 1
            self._folder.mkdir(exist_ok=True)
            line = csv_line(found.input, found.error)
            with (self._folder / "unreadable.csv").open("ab") as file:
                file.write(line)
            self._unreadable_bytes += len(line)
        else:
            least = self._options.threshold
            good = [place for place, score in enumerate(found.scores) if score > 0 and score >= least]
            if good:
                wnids, scores = [found.wnids[place] for place in good], [found.scores[place] for place in good]
                self._bests.add(os.fsencode(found.input), wnids, scores)
        if self.images % CHECKPOINT_IMAGES == 0 and time.monotonic() - self._saved > CHECKPOINT_SECONDS:
            self.save()

    def take_rows(self, paths: Sequence[Path], label_space: str | None) -> None:
        """Take the rows of files, those behind what an earlier process took."""
        options = self._options
        rows = ((path, row) for path in paths for row in read_rows(path, OF_SELECTIONS))
        skipped = self.images
        for number, (path, row) in enumerate(rows):
            if number == 0:
                self._first_row(paths, row, label_space)
            if number < skipped:
                continue
            found = of_row(row, options.on, options.per_image, self._possible)
            if found.space[0] and found.space != self._space:
                raise UsageError(
                    f"The row of '{found.input}' in '{path}' answers in the label space '{found.space[0]}', those "
                    f"before it in '{self._space[0]}': select from the rows of one teacher."
                )
            self.take(found)

    def _first_row(self, paths: Sequence[Path], row: dict[str, Any], label_space: str | None) -> None:
        """Learn from the first row what made all of them, and in which classes they answer."""
        if "score" in row:
            self._parts = list(paths)
            reports = [read_json(report_path(path), dict) for path in paths if report_path(path).exists()]
            spaces = {report["teacher"].get("label_space"): report["teacher"] for report in reports}
            if len(spaces) > 1:
                raise UsageError(
                    f"The selections are of the label spaces {' and '.join(map(repr, spaces))}: merge those of one."
                )
            self._origin = next(iter(spaces.values()), {})
            name = label_space or self._origin.get("label_space")
        else:
            held = len(row["topk"]) if "topk" in row else sum(f"top{k + 1}_wnid" in row for k in range(1000))
            if self._options.on == "classes" and row["status"] == "ok" and held < self._options.per_image:
                log.info("The rows hold %d classes an image, fewer than --per-image %d.", held, self._options.per_image)
            name = label_space or row["label_space"]
            self._space = (row["label_space"], row.get("label_space_sha256") or "")
            self._origin = {key: row[key] for key in ("model", "label_space", "label_space_sha256") if key in row}
        if name in LABEL_SPACES or label_space:
            assert name is not None
            self._possible = _possible(load_label_space(name), self._options, row.get("removed_labels", "masked"))

    def _pool(self) -> tuple[int | None, int]:
        """Return how many images there were, None where nothing says so, and how many could not be read."""
        if not self._parts:
            return self.images, self.unreadable
        reports = [read_json(report_path(path), dict) for path in self._parts if report_path(path).exists()]
        known = len(reports) == len(self._parts) and all(report["images"] is not None for report in reports)
        return sum(r["images"] for r in reports) if known else None, sum(r["unreadable"] for r in reports)

    def save(self) -> None:
        """Bring all that was taken to disk, and record it."""
        self._folder.mkdir(exist_ok=True)
        (self._folder / "unreadable.csv").touch()
        self._bests.flush()
        state = {
            "schema": SCHEMA,
            "options": self._recorded,
            "origin": self._origin,
            "images": self.images,
            "last": self._last,
            "unreadable": self.unreadable,
            "unreadable_bytes": self._unreadable_bytes,
            "runs": self._bests.runs,
        }
        replace_file(self._folder / "state.json", json.dumps(state))
        self._bests.drop_superseded()
        self._saved = time.monotonic()

    def abandon(self) -> None:
        """Save what can be gone on with; does nothing for a list that is complete."""
        if self.report is None and self.images:
            self.save()

    def finish(self) -> None:
        """Write the list and its report, and remove what lay beside it."""
        if not self.images:
            raise UsageError("There is nothing to select from: the inputs hold no image.")
        self.save()
        written = write_list(self.path, self._bests.merged())
        images, unreadable = self._pool()
        report = {
            "schema": SCHEMA,
            "list": self.path.name,
            "sha256": sha256_of(self.path),
            "options": self._recorded,
            "teacher": self._origin,
            "images": images,
            "unreadable": unreadable,
            "selected_images": written.images,
            "rows": written.rows,
            "spilled": self._bests.spilled,
            "classes_without_images": {
                wnid: name for wnid, name in sorted((self._possible or {}).items()) if wnid not in written.counts
            },
            "classes": {
                wnid: {"images": count, "least_score": written.least[wnid]} for wnid, count in written.counts.items()
            },
        }
        lost = _unreadable_path(self.path)
        lost.unlink(missing_ok=True)
        if self.unreadable:
            content = (self._folder / "unreadable.csv").read_bytes()
            replace_file(lost, csv_line("input", "error") + content)
        if self._options.held_out is not None:
            report["held_out"] = self._held_out(self._options.held_out)
        replace_file(report_path(self.path), json.dumps(report, indent=1, ensure_ascii=False) + "\n")
        shutil.rmtree(self._folder)
        self.report = report

    def _held_out(self, path: str | Path) -> dict[str, Any]:
        from miil21k.data.datasets import open_source
        from miil21k.teachers.held_out import in_both

        found = in_both(
            (row["input"] for row in read_rows(self.path, {"input", "score"})), open_source(os.fspath(path))
        )
        return {"path": os.fspath(path), "images": len(found), "first": found[:100]}

    def told(self) -> dict[str, Any]:
        """Say what the selection came to, one sentence each; returns the report."""
        assert self.report is not None
        for line in sentences(self.path, self.report):
            log.info("%s", line)
        return self.report


def sentences(path: Path, report: dict[str, Any]) -> Iterator[str]:
    """Yield what there is to say about a selection."""
    classes, most = report["classes"], report["options"]["per_class"]
    yield (
        f"'{path}': {_many(report['rows'], 'row')}, {_many(report['selected_images'], 'image')} for "
        f"{_many(len(classes), 'class', 'classes')}; at most {most:,} a class."
    )
    out = (report["images"] or 0) - report["unreadable"] - report["selected_images"]
    if out > 0:
        yield f"{_many(out, 'image')} of {report['images']:,} stand for no class."
    if report["unreadable"]:
        yield f"{_many(report['unreadable'], 'image')} could not be read: see '{_unreadable_path(path)}'."
    if empty := report["classes_without_images"]:
        named = [f"{name} ({wnid})" for wnid, name in empty.items()]
        yield f"{_many(len(empty), 'class', 'classes')} got no image: {_few(named)}."
    if (same := report.get("held_out")) and same["images"]:
        yield (
            f"Of the selected images {same['images']:,} lie in '{same['path']}' too, byte for byte: take them out of "
            f"the pool, or what is measured there means nothing: {_few(same['first'])}."
        )
    short = sorted((found["images"], wnid) for wnid, found in classes.items() if found["images"] < most)
    if short:
        named = [f"{wnid} ({count:,})" for count, wnid in short]
        why = f", for the pool has {report['images']:,} images" if 0 < (report["images"] or 0) < most else ""
        yield f"{_many(len(short), 'class', 'classes')} got fewer than {most:,} images{why}: {_few(named)}."


def _many(count: int, one: str, several: str = "") -> str:
    return f"{count:,} {one if count == 1 else several or one + 's'}"


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def _possible(space: LabelSpace, options: SelectOptions, removed_labels: str) -> dict[str, str]:
    """Return for what an image may stand, wnid to name: the concepts that were listed, else the classes left over."""
    names = dict(zip(space.wnids, space.tree.names, strict=False))
    hidden = {space.wnids[place] for place in np.flatnonzero(withdrawn_classes(space))}
    shown = names if removed_labels != "masked" else {wnid: names[wnid] for wnid in names if wnid not in hidden}
    chosen = {name: listed(getattr(options, name)) for name in ("under", "classes", "exclude")}
    if not any(chosen.values()):
        return shown
    from miil21k.decode.restriction import restrict
    from miil21k.hierarchy.concepts import concepts_of
    from miil21k.hierarchy.questions import resolve

    graph = concepts_of(space)
    found = {name: [resolve(graph, text).concept for text in texts] for name, texts in chosen.items() if texts}
    if "classes" in found:
        return {graph.wnids[concept]: graph.name(concept) for concept in found["classes"]}
    left = (space.wnids[place] for place in np.flatnonzero(restrict(graph, **found)))
    return {wnid: names[wnid] for wnid in left if wnid in shown}
