"""A run from a request to its last checkpoint, in one process or as one of those that torchrun started."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from miil21k.data.datasets import choose_part, label_images, open_parts, open_source, unlabelled_images
from miil21k.data.lists import is_list, split_name
from miil21k.environment import version_of
from miil21k.errors import UsageError
from miil21k.records import to_json
from miil21k.train.adjustments import adjust_average, adjust_precision
from miil21k.train.evaluation import Evaluation, levels_of
from miil21k.train.job import augmentation_of, choose_space, create_network, digest_of, own_folder, run_id_of
from miil21k.train.journal import read_config
from miil21k.train.level_order import head_order, level_table, to_level_order
from miil21k.train.loop import Run, TrainJob, create_sampler
from miil21k.train.objectives import OBJECTIVES, create_objective, find_objective
from miil21k.train.processes import join_processes, leave_processes, pick_device
from miil21k.train.teacher_memory import DECIDING, Softmaxes, TeacherMemory, runtime_of_cache
from miil21k.train.teachers import open_teacher

if TYPE_CHECKING:
    from collections.abc import Callable

    from miil21k.data.datasets import ClassImages, LabelledImages, Parts
    from miil21k.decode.levels import Deepest
    from miil21k.train.loop import Report
    from miil21k.train.options import TrainRequest
    from miil21k.train.processes import Processes
    from miil21k.train.recipe import Recipe
    from miil21k.train.state import TrainProgress
    from miil21k.train.teachers import OpenedTeacher
    from miil21k.zoo.checkpoint_card import TrainedCard

__all__ = ["TrainOutcome", "train_model"]


@dataclass(frozen=True)
class TrainOutcome:
    """How a run ended: where it stands, the metric that decided about `best` (empty without a validation set)."""

    progress: TrainProgress
    metric: str
    is_main: bool


def _silent(_: object) -> None:
    return None


def train_model(
    request: TrainRequest,
    report: Callable[[Report], None] = _silent,
    say: Callable[[str], None] = _silent,
    *,
    resume: bool = False,
    overwrite: bool = False,
) -> TrainOutcome:
    """Train as `request` says, and return how it ended; the checkpoints are in the request's folder.

    report: called with where the run stands, say with a sentence that explains; in the main process only. resume: go on
    from the state file when there is one. overwrite: start anew where a run is. Raises UsageError, LabelSpaceMismatch
    and the like before anything is trained or written: the folder is taken when all is built.
    """
    if resume and overwrite:
        raise UsageError("A run is either gone on with (--resume) or started anew (--overwrite).")
    find_objective(request.recipe)  # refuses a recipe that makes no sense before anything is looked for
    device = pick_device(request.device)
    processes = join_processes(device)
    if not processes.is_main:
        report = say = _silent
    try:
        job, facts = _assemble(request, device, processes, say, resume=resume)
        run = Run(job, report)
        folder = own_folder(request.folder, job.run_id, facts, resume=resume, overwrite=overwrite)
        with folder if processes.is_main else nullcontext():
            say(_opening(facts))
            parts = [job.images, *([job.evaluate.images] if isinstance(job.evaluate, Evaluation) else [])]
            for line in filter(None, (part.source.passed.sentence() for part in parts)):
                say(line)
            processes.wait()
            progress = run.to_the_end()
            if job.memory is not None:
                say(job.memory.outcome())
    finally:
        leave_processes()
    return TrainOutcome(progress, job.metric if job.evaluate else "", processes.is_main)


def _assemble(
    request: TrainRequest, device: torch.device, processes: Processes, say: Callable[[str], None], *, resume: bool
) -> tuple[TrainJob, dict[str, Any]]:
    """Return the job, and what config.json says about it."""
    recipe, slow = adjust_precision(request.recipe, device)
    opened = _teacher_of(request, recipe, device, processes, resume=resume)
    parts: Parts = {}
    if request.images is not None:
        images = request.images
        if opened is not None:
            opened.require(recipe, images.space, find_objective(recipe).head)
        _require_objective(recipe, images.source, labelled=True)
    else:
        images, parts = _images_of(request, recipe, opened, processes, say)
    space = images.space
    recipe, changed = _fitted(recipe, len(images), processes)
    for change in filter(None, (slow, changed)):
        say(change)
    request = replace(request, recipe=recipe)
    model, card, loaded = processes.first(lambda: create_network(request, space))
    teacher = None if opened is None else opened.teach(recipe, space, card.preprocess, card.head)
    model = _placed(model, request, device, processes)
    _order_head(model, card, recipe.deepest)
    augmentation = augmentation_of(recipe, card.preprocess)
    digest = processes.gather(digest_of(images) if processes.is_main else "")[0]
    evaluate = _evaluation(request, card, processes, parts)
    facts = _facts(request, card, images, evaluate, processes.world)
    facts["weights"] = "random" if loaded is None else loaded._asdict()
    memory = None
    if opened is not None and teacher is not None:
        say(opened.sentence(recipe, card.preprocess.input_size[1]))
        facts["teacher_sha256"] = opened.sha256
        facts["teacher_runtime"] = opened.loaded.runtime
    if request.teacher_cache is not None:
        if opened is None or teacher is None:
            raise UsageError(f"The objective '{recipe.objective}' has no teacher: leave --teacher-cache out.")
        answers = space if teacher.wnids is None else opened.space
        pictures = processes.gather(digest_of(images, labels=False) if processes.is_main else "")[0]
        known: dict[str, Any] = {"teacher": opened.sha256, "label_space": answers.sha256, "images": pictures}
        known["runtime"] = opened.loaded.runtime
        known["versions"] = {name: version_of(name) for name in ("miil21k", "timm", "pillow")}
        plain = recipe.policy in ("", "miil")  # those of timm fill what they uncover with the mean
        known |= {
            f"augmentation.{name}": value for name, value in asdict(augmentation).items() if name != "mean" or not plain
        }
        facts["teacher_top_k"] = known["top_k"] = min(request.teacher_cache_top_k, answers.num_classes)
        softmaxes = Softmaxes.of_classes(answers.num_classes, known["top_k"])
        if teacher.kind == "level_softmax":
            levels = level_table(answers.tree, deepest=recipe.deepest)
            known["levels"] = [list(bounds) for bounds in levels.bounds]
            softmaxes = Softmaxes(tuple(levels.order[start:stop] for start, stop in levels.bounds), known["top_k"])
        memory = _remember(request, softmaxes, known, len(images), processes)
        teacher = replace(teacher, memory=memory)
        say(memory.sentence())
    objective = create_objective(recipe, space.tree, teacher, head_order(model.get_classifier()))  # type: ignore[operator]
    job = TrainJob(
        recipe=recipe,
        model=model,
        objective=objective.to(device),
        images=images if recipe.crop == "random" else images.decoded_near(2 * (recipe.resize or augmentation.size)),
        augmentation=augmentation,
        preprocess=card.preprocess,
        evaluate=evaluate,
        metric=_metric(evaluate, card, recipe),
        folder=request.folder,
        processes=processes,
        metadata=card.to_metadata(),
        run_id=run_id_of(
            recipe, card, digest, processes.world, {key: facts[key] for key in facts if key.startswith("teacher_")}
        ),
        workers=request.workers,
        log_every=request.log_every,
        checkpoint_every=request.checkpoint_every,
        memory=memory,
    )
    return job, facts


def _teacher_of(
    request: TrainRequest, recipe: Recipe, device: torch.device, processes: Processes, *, resume: bool
) -> OpenedTeacher | None:
    """Return the recipe's teacher, in one runtime for all processes.

    Which runtime is the fastest is measured, and two of them differ in the last digits. So a run that goes on, and one
    that finds answers in a teacher cache, keep the runtime that began.
    """

    def opened_in(runtime: str) -> OpenedTeacher | None:
        return open_teacher(
            recipe, device=str(device), cache_dir=request.cache_dir, offline=request.offline, runtime=runtime
        )

    began = (read_config(request.folder) or {}).get("teacher_runtime") if resume else None
    if began is None and request.teacher_cache is not None:
        began = runtime_of_cache(Path(request.teacher_cache))
    opened = processes.first(lambda: opened_in(began or ""))
    runtime = processes.gather(None if opened is None else opened.loaded.runtime)[0]
    if opened is not None and opened.loaded.runtime != runtime:
        opened = opened_in(runtime)
    return opened


def _images_of(
    request: TrainRequest,
    recipe: Recipe,
    opened: OpenedTeacher | None,
    processes: Processes,
    say: Callable[[str], None],
) -> tuple[LabelledImages, Parts]:
    """Return the images to train on, and what opens each part of their data set."""
    say(f"Looking for images in '{request.data}'")
    parts = processes.first(lambda: open_parts(request.data, request.shard_cache, root=request.root))
    source = processes.first(choose_part(request.data, parts, request.split, ("train",)))
    kind = find_objective(recipe)
    labelled = kind.learns_from_labels(recipe)
    _require_objective(recipe, source, labelled=labelled)
    space = choose_space(request, source, opened.space if opened is not None and not labelled else None)
    if opened is not None:
        opened.require(recipe, space, kind.head)
    if not labelled:
        return unlabelled_images(source, space), parts
    numbered = request.label_space is not None
    images = label_images(source, space, partial=request.partial, numbered=numbered, several=kind.takes_sets)
    return images, parts


def _require_objective(recipe: Recipe, source: ClassImages, *, labelled: bool) -> None:
    """Raise UsageError when the images have what the recipe's objective does not take."""
    kind = find_objective(recipe)
    if labelled and source.label_sets is not None and not kind.takes_sets:
        able = ", ".join(name for name, other in OBJECTIVES.items() if other.takes_sets)
        raise UsageError(
            f"The list gives several labels to an image, and the objective '{recipe.objective}' takes one: choose a "
            f"recipe for several, such as --recipe asl, or --set objective={able}."
        )
    if source.weights is not None and not kind.weighs_images:
        able = ", ".join(name for name, other in OBJECTIVES.items() if other.weighs_images)
        raise UsageError(
            f"The list weighs its images, and the objective '{recipe.objective}' cannot: leave the column out, or "
            f"choose one of {able}."
        )


def _metric(evaluate: Evaluation | None, card: TrainedCard, recipe: Recipe) -> str:
    """Return the metric that decides which epoch is the best."""
    if evaluate is not None and evaluate.images.named is not None:
        return "mAP"
    flat = card.head == "leaf_softmax" or levels_of(card.space.tree, recipe.deepest) is None
    return "top1" if flat else "semantic_top1"


def _remember(
    request: TrainRequest, softmaxes: Softmaxes, known: dict[str, Any], images: int, processes: Processes
) -> TeacherMemory:
    """Return what keeps the teacher's answers; known: the facts about its batches that the recipe does not hold."""
    recipe, folder = request.recipe, Path(str(request.teacher_cache))
    if recipe.random_erase:
        raise UsageError(
            "Random erasing draws its noise on the device, so batches do not come again: leave --teacher-cache out, or "
            "set random_erase to 0."
        )
    batches = create_sampler(recipe, images, processes)
    passes = recipe.updates(batches.num_batches // recipe.accumulate) * recipe.accumulate
    facts = known | {name: getattr(recipe, name) for name in DECIDING} | {"processes": processes.world}
    return processes.first(
        lambda: TeacherMemory(
            folder,
            facts,
            softmaxes,
            passes * recipe.batch_size,
            request.teacher_cache_size * 1e9 / processes.world,
            processes.rank,
        )
    )


def _fitted(recipe: Recipe, images: int, processes: Processes) -> tuple[Recipe, str]:
    batches = create_sampler(recipe, images, processes).num_batches  # refuses too few images
    return adjust_average(recipe, recipe.updates(batches // recipe.accumulate))


def _placed(model: nn.Module, request: TrainRequest, device: torch.device, processes: Processes) -> nn.Module:
    if request.recipe.sync_bn and processes.world > 1:
        if device.type != "cuda":
            raise UsageError("Synchronised batch norm needs GPUs: set the recipe's sync_bn to false on a CPU.")
        from timm.layers import convert_sync_batchnorm

        model = convert_sync_batchnorm(model)
    if request.recipe.channels_last:
        return model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
    return model.to(device)


def _order_head(model: nn.Module, card: TrainedCard, deepest: Deepest) -> None:
    """Store the rows of a level_softmax head level after level, which makes its loss fast; saving undoes it."""
    head = model.get_classifier()  # type: ignore[operator]
    levels = levels_of(card.space.tree, deepest)
    if card.head == "level_softmax" and levels is not None and isinstance(head, (nn.Linear, nn.Conv2d)):
        to_level_order(head, levels)


def _evaluation(request: TrainRequest, card: TrainedCard, processes: Processes, parts: Parts) -> Evaluation | None:
    if request.val_images is not None:
        return Evaluation(request.val_images, card.head, card.preprocess, request.recipe, processes, request.workers)
    if request.val is not None:
        data = request.val
        root = request.root if is_list(data) else None
        source = processes.first(lambda: open_source(data, request.shard_cache, root=root, rather=("val", "test")))
    elif "val" in parts and split_name(request.split or "train") != "val":
        source = processes.first(parts["val"])
    else:
        return None
    numbered = request.label_space is not None
    images = label_images(source, card.space, partial=True, numbered=numbered, several=card.head == "sigmoid")
    return Evaluation(images, card.head, card.preprocess, request.recipe, processes, request.workers)


def _facts(
    request: TrainRequest, card: TrainedCard, images: LabelledImages, evaluate: Evaluation | None, world: int
) -> dict[str, Any]:
    return {
        "recipe_name": request.recipe_name,
        "recipe": asdict(request.recipe),
        "model": request.model,
        "arch": card.arch,
        "checkpoint": None if request.checkpoint is None else str(request.checkpoint),
        "label_space": {"name": card.space.name, "sha256": card.space.sha256, "classes": card.space.num_classes},
        "head": card.head,
        "preprocess": to_json(card.preprocess),
        "data": request.data,
        "images": len(images),
        "classes_without_images": int(images.absent.size),
        "split": request.split,
        "val": request.val,
        "val_images": len(evaluate.images) if evaluate is not None else 0,
        "processes": world,
        "device": request.device,
    }


def _opening(facts: dict[str, Any]) -> str:
    recipe, space = facts["recipe"], facts["label_space"]
    epochs = recipe["epochs"] + recipe["cooldown_epochs"]
    length = f"{recipe['steps']:,} updates" if recipe["steps"] else f"{epochs} epochs"
    share = recipe["batch_size"] * recipe["accumulate"] * facts["processes"]
    return (
        f"{facts['images']:,} images of {space['classes']:,} classes (label space '{space['name']}'), "
        f"{facts['val_images']:,} to validate; {facts['model']} {_weights(facts['weights'])}, by recipe "
        f"{facts['recipe_name']}: {length}, {share} images an update, {facts['processes']} process(es)"
    )


def _weights(weights: Any) -> str:
    if weights == "random":
        return "from random weights"
    source = "" if weights["source"] == weights["name"] else f", {weights['source']}"
    return f"from the weights {weights['name']} (sha256 {weights['sha256'][:16]}{source})"
