"""A transfer from the user's images to a model, its proof and its report."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from miil21k.calibrate.guarantee import calibrate
from miil21k.decode.decoder import Decoder
from miil21k.environment import installed_versions, require
from miil21k.errors import UsageError
from miil21k.export.options import ExportOptions
from miil21k.files import Lock, replace_file
from miil21k.find.audit import audit
from miil21k.records import read_json
from miil21k.runtime.loading import Loaded
from miil21k.store.integrity import tensors_digest
from miil21k.text import duration
from miil21k.train.job import digest_of
from miil21k.transfer.choice import choose
from miil21k.transfer.dataset import TransferData, open_data, taken
from miil21k.transfer.features import Extractor, Features
from miil21k.transfer.job import Job, Learnt, fitted_probe
from miil21k.transfer.methods import METHODS, method
from miil21k.transfer.network import read_network, with_votes, write_probe
from miil21k.transfer.page import page
from miil21k.transfer.pictures import draw_confusion
from miil21k.transfer.probes import LinearClassifier, NeighbourClassifier
from miil21k.transfer.report import Judged, confusions, doubts, per_class, summary, tree_order
from miil21k.transfer.split import copies_of, hold_out, near_copies
from miil21k.transfer.strength import log_softmax

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from miil21k.calibrate.record import Calibration
    from miil21k.data.datasets import LabelledImages
    from miil21k.runtime.resolve import Make
    from miil21k.train.loop import Report
    from miil21k.transfer.options import TransferOptions

__all__ = ["transfer"]

CONFIG, REPORT, PAGE = "config.json", "report.json", "report.html"
CHECKPOINT, MODEL, CALIBRATION, CONFUSION = "model.safetensors", "model.onnx", "calibration.json", "confusion.png"
LOCK = ".transfer.lock"
SAMPLE = 16  # images whose speed tells how long all will take
_PACKAGES = (("sklearn", "scikit-learn"), ("cleanlab", "cleanlab"), ("onnx", "onnx"), ("onnxscript", "onnxscript"))


def _silent(_: object) -> None:
    return None


@dataclass(frozen=True)
class Voices:
    """Who is told what: sentences, where a training stands, and images done and in all."""

    say: Callable[[str], None] = _silent
    report: Callable[[Report], None] = _silent
    progress: Callable[[int, int], None] | None = None


def transfer(
    options: TransferOptions,
    voices: Voices | None = None,
    *,
    make: Make | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Learn the classes of `options.data`, and return the report that lies in the output folder.

    The folder then holds `model.onnx`, proved against torch, `model.safetensors` (not for knn, whose network is the
    ONNX file), `calibration.json`, `report.json`, `report.html`, `confusion.png`, and what a run that was interrupted
    goes on from with `resume`. overwrite: start anew. make: makes an export of the backbone (see `resolve`).
    Raises UsageError for what cannot work before anything is computed, LabelSpaceMismatch, MissingExtra, and what
    training and export raise.
    """
    began = time.monotonic()
    voices = voices or Voices()
    for module, package in _PACKAGES:
        require(module, "transfer", "Transfer", package=package)
    if options.method is not None:
        method(options.method)
    if options.output is None:
        raise UsageError("Name the folder of what comes out with -o.")
    if options.model.endswith(".onnx"):
        raise UsageError(f"'{options.model}' is an export, whose head cannot be replaced: name the weights it is of.")
    data = open_data(options)
    folder = options.output
    busy = f"Another process works in '{folder}': wait for its end, or choose another -o."
    with Lock(folder / LOCK, busy=busy, keep=False):
        before = _own(folder, options, data, resume=resume, overwrite=overwrite)
        if before is not None:
            voices.say(f"'{folder}' is finished: {REPORT} and {PAGE} tell what came out.")
            return before
        return _Transfer(options, data, folder, voices, make, began).run()


def _own(
    folder: Path, options: TransferOptions, data: TransferData, *, resume: bool, overwrite: bool
) -> dict[str, Any] | None:
    """Make the folder that of this very run; return the report where it is finished already."""
    if resume and overwrite:
        raise UsageError("A run is either gone on with (--resume) or started anew (--overwrite).")
    told = {k: v for k, v in asdict(options).items() if k not in ("workers", "threads", "batch_size", "budget")}
    facts = json.loads(json.dumps({**told, "images": digest_of(data.images)}, default=str))
    path = folder / CONFIG
    kept = read_json(path) if path.exists() else None
    if kept is None or overwrite:
        _clear(folder)
        replace_file(path, json.dumps(facts, indent=2) + "\n")
        return None
    if not resume:
        raise UsageError(
            f"'{folder}' holds a transfer already: go on with --resume, start it anew with --overwrite, or choose "
            "another -o."
        )
    differs = [name for name in facts if kept.get(name) != facts[name]]
    if differs:
        raise UsageError(
            f"The transfer in '{folder}' is another one: {', '.join(differs)} differ. Resume it as it was, start anew "
            "with --overwrite, or choose another -o."
        )
    report: dict[str, Any] | None = read_json(folder / REPORT) if (folder / REPORT).exists() else None
    return report


def _clear(folder: Path) -> None:
    """Remove what an earlier transfer left but for the features, which another one may use."""
    import shutil

    for name in (CONFIG, REPORT, PAGE, CHECKPOINT, MODEL, f"{MODEL}.json", CALIBRATION, CONFUSION, "choice.json"):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "runs", ignore_errors=True)


def _level(calibration: Calibration | None) -> float | None:
    """Return the highest usual share of right answers that the calibration holds; few images hold low ones alone."""
    held = [] if calibration is None else [accuracy for accuracy, _ in calibration.thresholds if accuracy <= 0.9]
    return max(held, default=None)


def _refuses_nothing(calibration: Calibration, classes: int) -> str | None:
    """Return what to say of a hedge level that the likeliest of so many classes always reaches, None for another."""
    accuracy = _level(calibration)
    if accuracy is None or dict(calibration.thresholds)[accuracy] * classes > 1:
        return None
    return (
        f"The answers on the {calibration.samples[1]:,} images that the hedge level was fitted on are right often "
        f"enough for {accuracy:.0%} without any caution, so that --hedge names a class nearly every time. Where other "
        "images are harder, hold out more of them."
    )


@dataclass
class _Transfer:
    """One run, step by step; whatever takes long is on disk when it is done."""

    options: TransferOptions
    data: TransferData
    folder: Path
    voices: Voices
    make: Make | None
    began: float

    def run(self) -> dict[str, Any]:
        options, say, space = self.options, self.voices.say, self.data.space
        notes = list(self.data.notes)
        test = self.data.test
        everything = len(self.data.images) + (0 if test is None else len(test))
        say(f"{everything:,} images of {space.num_classes:,} classes in '{options.data}'")
        for note in notes:
            say(note)
        extractor = Extractor(options.model, options, images=everything, make=self.make)
        self._tell_speed(extractor, everything)
        features = self._features(extractor, self.data.images)
        notes += self._unreadable(features)
        groups = near_copies(features.values, features.digests)
        if test is None:
            out = hold_out(features.labels, options.holdout, options.seed, groups)
            judged_by, learnt_from = features.take(out), features.take(~out)
            test, kept = self.data.images, groups[~out]
            say(f"{int(out.sum()):,} of them, {options.holdout:.0%} of each class, are held out to judge by")
        else:
            judged_by, learnt_from, kept = self._features(extractor, test), features, groups
            notes += [*self._unreadable(judged_by), *self._shared(learnt_from, judged_by)]
        images = taken(self.data.images, learnt_from.indices)
        job = Job(options, space, images, learnt_from, kept, extractor, self.folder, say, self.voices.report)
        name, choice = (options.method, {}) if options.method is not None else choose(job)
        title = METHODS[name].title
        why = choice.get("why", "as asked for")
        say(f"Learning by {title} ({why})")
        learnt = METHODS[name].run(job, name)
        judged_images = taken(test, judged_by.indices)
        names = [judged_images.name(row) for row in range(len(judged_images))]
        judged = Judged(names, judged_by.labels, learnt.logits(judged_images, judged_by, options))
        loaded = self._network(job, learnt)
        calibration = self._calibrate(loaded, judged, notes)
        photos = self._export(loaded, extractor.loaded.licence or "", calibration)
        found = {
            "method": name,
            **summary(judged, space),
            "seconds": 0.0,
            "model": str(self.folder / MODEL),
            "title": title[:1].upper() + title[1:],
            "why": f"{why[:1].upper()}{why[1:]}.",
            "base": extractor.name,
            "checkpoint": str(self.folder / CHECKPOINT) if (self.folder / CHECKPOINT).exists() else None,
            "calibration": None if calibration is None else str(self.folder / CALIBRATION),
            "command": self._command(calibration),
            "classes": space.num_classes,
            "num_train": len(learnt_from),
            "label_space": {"name": space.name, "sha256": space.sha256},
            "data": options.data,
            "choice": choice,
            "details": learnt.details,
            "notes": notes,
            "per_class": per_class(judged, space, learnt_from.labels),
            "confusions": confusions(judged, space),
            "doubts": self._doubts(job, judged),
            "proof": photos["proof"]["worst"],
            "versions": installed_versions() | installed_versions(("scikit-learn", "cleanlab", "optuna", "onnx")),
        }
        return self._write(found, judged)

    def _tell_speed(self, extractor: Extractor, everything: int) -> None:
        """Say what computes, and how long the features of all images will take, from some of them."""
        extractor.embed(np.zeros((1, *extractor.preprocess.input_size[1:], 3), np.uint8))  # the first call is slower
        rows = np.linspace(0, len(self.data.images) - 1, min(SAMPLE, len(self.data.images))).astype(np.int64)
        some = extractor.features(taken(self.data.images, rows), shelf=self.folder / "features")
        if not some.computed:
            return
        rate = some.computed / some.seconds
        seconds = (everything - some.computed) / rate
        self.voices.say(
            f"Features: {extractor.name} on {extractor.backend.name} ({extractor.backend.device}), {rate:.0f} images a "
            f"second here: about {duration(seconds)}"
        )

    def _features(self, extractor: Extractor, images: LabelledImages) -> Features:
        return extractor.features(images, shelf=self.folder / "features", progress=self.voices.progress)

    def _unreadable(self, features: Features) -> list[str]:
        bad = features.unreadable
        if not bad:
            return []
        note = f"{len(bad):,} images cannot be read and are left out: {', '.join(item.name for item in bad[:3])}."
        self.voices.say(note)
        return [note]

    def _shared(self, learnt_from: Features, judged_by: Features) -> list[str]:
        """Return what is to be said of images to judge by that are copies of ones that are learnt from."""
        known = {row.tobytes() for row in learnt_from.digests}
        same = np.array([row.tobytes() in known for row in judged_by.digests])
        near = (copies_of(judged_by.values, learnt_from.values) >= 0) | same
        if not near.any():
            return []
        note = (
            f"{int(near.sum()):,} of the {len(judged_by):,} images to judge by are nearly the same as ones that are "
            f"learnt from ({int(same.sum()):,} byte by byte), which flatters the accuracy."
        )
        self.voices.say(note)
        return [note]

    def _network(self, job: Job, learnt: Learnt) -> Loaded:
        """Return the network that was learnt, its checkpoint written where one can hold it."""
        path = self.folder / CHECKPOINT
        if isinstance(learnt.classifier, NeighbourClassifier):
            model, card = with_votes(learnt.classifier, job.options, job.space, job.extractor)
            return Loaded(
                model,
                f"{job.extractor.name} with {len(job.features):,} neighbours",
                job.space,
                card.head,
                card.preprocess,
            )
        if isinstance(learnt.classifier, LinearClassifier):
            write_probe(path, learnt.classifier, job.options, job.space, job.extractor)
        else:
            assert learnt.checkpoint is not None
            replace_file(path, learnt.checkpoint.read_bytes())
        return replace(read_network(path, job.options), name=self.folder.resolve().name)

    def _calibrate(self, loaded: Loaded, judged: Judged, notes: list[str]) -> Calibration | None:
        """Return what makes the probabilities trustworthy, fitted on the images that were held out."""
        if len(judged.labels) < 4:
            notes.append("Fewer than four images were held out, too few to calibrate the probabilities.")
            return None
        found = calibrate(
            Decoder(loaded.space, loaded.head),
            judged.logits,
            judged.labels,
            model=loaded.name,
            weights=tensors_digest(loaded.model),
            seed=self.options.seed,
        )
        found.save(self.folder / CALIBRATION)
        note = _refuses_nothing(found, loaded.space.num_classes)
        if note is not None:
            notes.append(note)
            self.voices.say(note)
        return found

    def _command(self, calibration: Calibration | None) -> str:
        """Return the command that predicts, as sure as the calibration holds."""
        words = f"miil21k-predict -m {self.folder / MODEL}"
        level = _level(calibration)
        if level is not None:
            words += f" --calibration {self.folder / CALIBRATION}" + (f" --hedge {level:g}" if level != 0.9 else "")
        return f"{words} photo.jpg"

    def _export(self, loaded: Loaded, licence: str, calibration: Calibration | None) -> dict[str, Any]:
        path, beside = self.folder / MODEL, self.folder / f"{MODEL}.json"
        level = _level(calibration)
        from miil21k.export.onnx.file import export_onnx  # whose package is asked for at the start, in one sentence

        options = ExportOptions() if level is None else ExportOptions(calibration=calibration, hedge=level)
        if path.exists() and beside.exists():
            kept: dict[str, Any] = read_json(beside)
            if kept.get("weights_sha256") == tensors_digest(loaded.model):
                return kept
        return export_onnx(loaded, path, options, licence=licence, say=self.voices.say)

    def _doubts(self, job: Job, judged: Judged) -> list[dict[str, Any]]:
        """Return the images whose label is in doubt, learnt from or not, by classifiers that did not see them."""
        fitted = fitted_probe(job, "logistic")
        names = [job.images.name(row) for row in range(len(job.images))]
        likely = np.concatenate([fitted.out_of_fold, log_softmax(judged.logits)])
        labels: NDArray[np.integer] = np.concatenate([job.features.labels, judged.labels])
        found = audit(np.exp(likely), labels, job.space)
        return doubts(found, [*names, *judged.names], job.space)

    def _write(self, found: dict[str, Any], judged: Judged) -> dict[str, Any]:
        space = self.data.space
        order = tree_order(space)
        place = np.argsort(order)
        names = [space.display_name(label) for label in order]
        draw_confusion(names, place[judged.labels], place[judged.answers], self.folder / CONFUSION)
        found["seconds"] = round(time.monotonic() - self.began, 1)
        replace_file(self.folder / PAGE, page(found, self._read, [self.folder / CONFUSION]))
        replace_file(self.folder / REPORT, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
        low, high, right = found["accuracy_low"], found["accuracy_high"], found["accuracy"]
        self.voices.say(
            f"{right:.1%} of {found['num_test']:,} images that were not learnt from are right (95 % band {low:.1%} to "
            f"{high:.1%}), after {duration(found['seconds'])}"
        )
        wrong = sum(row["kind"] == "likely mislabelled" for row in found["doubts"])
        self.voices.say(f"{wrong} images are likely mislabelled, {len(found['doubts']) - wrong} more are doubtful")
        self.voices.say(f"Report: {self.folder / PAGE}. Predict: {found['command']}")
        return found

    def _read(self, name: str) -> bytes:
        for images in filter(None, (self.data.images, self.data.test)):
            for row in range(len(images)):
                if images.name(row) == name:
                    return images.source.read(int(images.rows[row]))
        raise UsageError(f"There is no image '{name}' any more.")
