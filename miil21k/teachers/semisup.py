"""Few labels and a pool without any: teacher, selection, pretraining on pseudo-labels, fine-tuning on true labels.

Source: Yalniz et al. 2019. With a teacher that was trained on hashtags and fine-tuned (SWSL) the steps are the same.
Each step leaves its output, its record (`NAME.step.json`) and its own report in the folder of the plan; see `steps`.
"""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miil21k.data.datasets import choose_part, label_images, open_parts
from miil21k.data.web import is_url
from miil21k.errors import LabelSpaceMismatch, UsageError
from miil21k.files import Lock, replace_file
from miil21k.hierarchy.export import to_json
from miil21k.hierarchy.spaces import LABEL_SPACES
from miil21k.predict.bulk import answering
from miil21k.predict.options import PredictOptions, RunOptions
from miil21k.store.cache import Cache
from miil21k.store.integrity import sha256_of
from miil21k.teachers.options import SelectOptions
from miil21k.teachers.recipes import changes_of, finetuning, pretraining
from miil21k.teachers.select import answer_options, select_pool
from miil21k.teachers.steps import Step, perform
from miil21k.train.job import choose_space, digest_of
from miil21k.train.journal import read_config
from miil21k.train.launch import train_model
from miil21k.train.options import TrainRequest
from miil21k.train.recipe import override
from miil21k.train.recipes import get_recipe
from miil21k.train.state import AVERAGED, BEST, LAST
from miil21k.zoo.checkpoint_card import read_card
from miil21k.zoo.export_card import read_export_card
from miil21k.zoo.names import Architecture, identify, own_checkpoint
from miil21k.zoo.stated_space import stated_space

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from miil21k.hierarchy.spaces import LabelSpace
    from miil21k.predict.bulk import BulkPredictor
    from miil21k.predict.predictor import Predictor
    from miil21k.predict.run import BarOf
    from miil21k.runtime.resolve import Make
    from miil21k.teachers.options import SemisupOptions
    from miil21k.teachers.steps import Record
    from miil21k.train.loop import Report
    from miil21k.train.recipe import Recipe

__all__ = ["SemisupRequest", "train_semisupervised"]

REPORT = "report.json"
SPACE = "label_space.json"
_MANY = 4  # asking for more than so many rows per image of the pool takes the unsure ones too


@dataclass(frozen=True)
class SemisupRequest:
    """What is trained on what, and where it goes.

    labelled: class folders, shards or a list. pool: images without labels, as for prediction. teacher, student: names
    of the zoo or of timm, or files. folder: of the plan.
    """

    labelled: str
    pool: tuple[str, ...]
    teacher: str
    student: str
    folder: Path
    options: SemisupOptions


def _silent(_: object) -> None:
    return None


def train_semisupervised(
    request: SemisupRequest,
    report: Callable[[Report], None] = _silent,
    say: Callable[[str], None] = _silent,
    *,
    bar: BarOf | None = None,
    make: Make | None = None,
) -> dict[str, Any]:
    """Train a student in four steps, those that are done left as they are; returns the report, also a file.

    report, say: as for `train_model`. bar: for the selection. make: makes exports of the teacher, see `resolve`.
    Raises UsageError, LabelSpaceMismatch and the like; for a teacher that answers in other classes than the labels
    before anything is trained.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("semisup is one process: for several GPUs run its steps by themselves, see docs/teachers.md.")
    busy = f"Another process works in '{request.folder}': wait for its end, or choose another -o."
    with Lock(request.folder / ".semisup.lock", busy=busy, keep=False):
        return _FourSteps(request, report, say, bar, make).perform()


class _FourSteps:
    def __init__(
        self,
        request: SemisupRequest,
        report: Callable[[Report], None],
        say: Callable[[str], None],
        bar: BarOf | None,
        make: Make | None,
    ) -> None:
        self.request, self.options, self.folder = request, request.options, request.folder
        self.report, self.say, self.bar, self.make = report, say, bar, make
        self.changes = changes_of(self.options.changes)
        self.shards = Cache.at(self.options.cache_dir).root / "shards"
        self.done: list[Record] = []

    def perform(self) -> dict[str, Any]:
        request, options = self.request, self.options
        recipe = override(get_recipe(options.teacher_recipe), self.changes["teacher"])  # refused before any work
        pretraining(options.pretrain_recipe, self.changes["pretrain"], rows=1, passes=1, batch=options.batch_size)
        parts = open_parts(request.labelled, self.shards, root=options.root)
        source = choose_part(request.labelled, parts, options.split, ("train",))()
        as_student = self._training(request.labelled, request.student, get_recipe(options.finetune_recipe), "finetune")
        self.space = choose_space(replace(as_student, label_space=options.label_space), source)
        images = label_images(source, self.space, numbered=options.label_space is not None)
        self.labelled, self.images = digest_of(images), len(images)
        self.tuning = finetuning(
            options.finetune_recipe, self.changes["finetune"], images=self.images, batch=options.batch_size
        )
        trains = self._trains_teacher()
        self.space_name = self.space.name if self.space.name in LABEL_SPACES else str(self.folder / SPACE)
        if self.space.name not in LABEL_SPACES:
            replace_file(self.folder / SPACE, to_json(self.space), parents=True)
        teacher = self._teacher(recipe) if trains else request.teacher
        selected = self._select(teacher)
        pretrained = self._pretrain(selected)
        final = self._finetune(pretrained)
        content = {
            "label_space": {"name": self.space.name, "sha256": self.space.sha256},
            "labelled_images": self.images,
            "teacher": teacher,
            "student": request.student,
            "hours": round(sum(record.seconds for record in self.done) / 3600, 4),
            "model": final.output,
            "steps": [
                {"step": r.step, "seconds": r.seconds, "output": r.output, "sha256": r.sha256, "report": dict(r.report)}
                for r in self.done
            ],
        }
        replace_file(self.folder / REPORT, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        return content

    def _trains_teacher(self) -> bool:
        """Return whether the teacher is to be trained on the labels; raises LabelSpaceMismatch for one that cannot."""
        request, when = self.request, self.options.train_teacher
        if when == "always":
            return True
        answers = _space_of(request.teacher, self.options)
        if answers is not None and set(self.space.wnids) <= set(answers.wnids):
            return False
        file = Path(request.teacher).suffix in (".onnx", ".safetensors")
        if when == "never" or (answers is not None and file):
            if answers is None:
                raise LabelSpaceMismatch(
                    f"Nobody has told in which classes the teacher '{request.teacher}' answers: --train-teacher always "
                    "trains it on the labels first."
                )
            if when != "never":
                lacking = sorted(set(self.space.wnids) - set(answers.wnids))
                raise LabelSpaceMismatch(
                    f"The teacher '{request.teacher}' lacks {len(lacking)} of the {self.space.num_classes} classes of "
                    f"the labels ({', '.join(lacking[:3])}{', ...' if len(lacking) > 3 else ''}): --train-teacher "
                    "always trains it on them first, never takes the concepts of its space that are called alike."
                )
            _require_concepts(answers, self.space, request.teacher)
            return False
        return True

    def _training(self, data: str, model: str, recipe: Recipe, step: str) -> TrainRequest:
        options = self.options
        return TrainRequest(
            data=data,
            model=model,
            recipe_name=getattr(options, f"{step}_recipe"),
            recipe=recipe,
            folder=self.folder / step,
            val=options.val,
            label_space=options.label_space,
            cache_dir=options.cache_dir,
            offline=options.offline,
            device=options.device,
            workers=options.workers,
            shard_cache=self.shards,
            split=options.split if step != "pretrain" else None,
            root=options.root if step != "pretrain" else Path.cwd(),
        )

    def _perform(self, name: str, facts: Mapping[str, Any], work: Callable[[bool, bool], Any]) -> Record:
        step = Step(name, self.folder, facts)
        record = perform(step, work, self.say, overwrite=self.options.overwrite)
        self.done.append(record)
        return record

    def _train(self, step: str, request: TrainRequest, chosen: Sequence[str], **facts: Any) -> Record:
        """Train, unless it is done; `chosen` are the checkpoints that come out, the first that is there."""
        request = replace(request, label_space=self.space_name, partial=True)

        def work(resume: bool, anew: bool) -> tuple[Path, dict[str, Any]]:
            outcome = train_model(request, self.report, self.say, resume=resume, overwrite=anew)
            output = next(path for name in chosen if (path := request.folder / name).exists())
            return output, _figures(request.folder, outcome.progress.best_epoch if output.name == BEST else None)

        known = {
            "recipe": asdict(request.recipe),
            "model": request.model,
            "val": request.val,
            "space": self.space.sha256,
        }
        return self._perform(step, {**known, **facts}, work)

    def _teacher(self, recipe: Recipe) -> str:
        request = self._training(self.request.labelled, self.request.teacher, recipe, "teacher")
        file = Path(self.request.teacher)
        started = sha256_of(file) if file.is_file() else ""
        record = self._train("teacher", request, (BEST, AVERAGED, LAST), labelled=self.labelled, weights=started)
        return str(record.path(self.folder))

    def _select(self, teacher: str) -> Record:
        options = self.options
        path = self.folder / ("selected.parquet" if find_spec("pyarrow") else "selected.csv")
        choice = SelectOptions(
            per_class=options.per_class,
            per_image=options.per_image,
            on=options.on,
            threshold=options.threshold,
            memory=options.memory,
            recursive=options.recursive,
            output=path,
            held_out=options.val,
        )
        answers = _space_of(teacher, options)
        assert answers is not None
        if answers.sha256 != self.space.sha256:  # its classes count alone, each with all that it has below them
            choice = replace(choice, classes=self.space.wnids)
        computing = PredictOptions(device=options.device, cache_dir=options.cache_dir, offline=options.offline)
        answer = answer_options(choice, computing)
        pool = [_absolute(name) for name in self.request.pool]

        @contextmanager
        def answered(_: str | None) -> Iterator[Predictor | BulkPredictor]:
            with answering(teacher, answer, RunOptions(recursive=options.recursive), make=self.make) as found:
                self.teacher_edge = found.preprocess.input_size[1]
                yield found

        def work(resume: bool, anew: bool) -> tuple[Path, dict[str, Any]]:
            how = replace(choice, resume=resume, overwrite=anew)
            report = select_pool(pool, teacher, answer, how, answered, bar=self.bar)
            keys = ("images", "unreadable", "selected_images", "rows")
            found = {key: report[key] for key in keys}
            if not report["rows"]:
                raise UsageError(
                    f"No image of the pool stands for a class: lower --threshold from {options.threshold}."
                )
            wanted = min(options.per_class, report["images"]) * self.space.num_classes
            if wanted > _MANY * report["images"]:
                each = max(1, report["images"] // self.space.num_classes)
                self.say(
                    f"The selection may take {options.per_class:,} images for each of {self.space.num_classes:,} "
                    f"classes, and the pool has {report['images']:,}: all are taken, the unsure ones as well; about "
                    f"--per-class {each:,} chooses."
                )
            return path, {**found, "classes_without_images": len(report["classes_without_images"])}

        file = Path(teacher)
        facts = {
            "teacher": sha256_of(file) if file.is_file() else teacher,
            "pool": pool,
            "space": self.space.sha256,
            **{name: getattr(choice, name) for name in ("per_class", "per_image", "on", "threshold", "recursive")},
        }
        return self._perform("select", facts, work)

    def _pretrain(self, selected: Record) -> Record:
        options = self.options
        recipe = pretraining(
            options.pretrain_recipe,
            self.changes["pretrain"],
            rows=int(selected.report["rows"]),
            passes=options.passes,
            batch=options.batch_size,
        )
        request = self._training(str(selected.path(self.folder)), self.request.student, recipe, "pretrain")
        record = self._train("pretrain", request, (AVERAGED, LAST), selected=selected.sha256)
        edge = ((read_config(request.folder) or {}).get("preprocess") or {}).get("input_size", (0, 0))[1]
        seen = getattr(self, "teacher_edge", edge)
        if edge and seen != edge:
            self.say(f"The teacher saw {seen} pixels, the student sees {edge}: each reads the images for itself.")
        return record

    def _finetune(self, pretrained: Record) -> Record:
        request = self._training(self.request.labelled, str(pretrained.path(self.folder)), self.tuning, "finetune")
        return self._train(
            "finetune", request, (BEST, AVERAGED, LAST), labelled=self.labelled, pretrained=pretrained.sha256
        )


def _space_of(teacher: str, options: SemisupOptions) -> LabelSpace | None:
    """Return the classes in which a teacher answers; None for an architecture, and where nobody has told them."""
    place: dict[str, Any] = {"cache_dir": options.cache_dir, "offline": options.offline}
    path = own_checkpoint(teacher, **place) or Path(teacher)
    if path.suffix in (".onnx", ".safetensors") and not path.is_file():
        raise UsageError(f"There is no teacher '{teacher}'.")
    if path.suffix == ".onnx":
        return read_export_card(path).space
    if path.suffix == ".safetensors":
        card = read_card(path)
        return None if card is None else card.space
    found = identify(teacher, **place)
    return None if isinstance(found, Architecture) else stated_space(found)


def _require_concepts(answers: LabelSpace, space: LabelSpace, teacher: str) -> None:
    """Raise LabelSpaceMismatch when a class is no concept of what a teacher answers in."""
    from miil21k.hierarchy.concepts import concepts_of

    known = set(concepts_of(answers).wnids)
    missing = [wnid for wnid in space.wnids if wnid not in known]
    if missing:
        raise LabelSpaceMismatch(
            f"The teacher '{teacher}' answers in '{answers.name}', which has no concept for {len(missing)} of the "
            f"{space.num_classes} classes ({', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}): "
            "--train-teacher always trains it on the labels first."
        )


def _absolute(name: str) -> str:
    """Return an input so that what is selected of it can be found from anywhere."""
    if is_url(name) or name.startswith("@") or name == "-":
        return name
    return os.path.abspath(name)  # noqa: PTH100 - a glob is no path


def _figures(folder: Path, epoch: int | None) -> dict[str, Any]:
    """Return what a run measured at the end of an epoch, counted from 1; None for its last."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    found: dict[str, Any] = next(
        (row for row in reversed(rows) if row["kind"] == "epoch" and epoch in (None, row["epoch"])), {}
    )
    return {key: value for key, value in found.items() if key.startswith("val_") or key in ("loss", "update", "epoch")}
