"""From the words of a user to a job: images, label space, model, and the folder that the run owns."""

from __future__ import annotations

import ast
import hashlib
import json
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from miil21k.data.augment import Augmentation
from miil21k.data.datasets import matching_space
from miil21k.data.folders import FolderSource
from miil21k.data.shards import ShardSource
from miil21k.environment import installed_versions
from miil21k.errors import ImageError, UsageError
from miil21k.files import Lock
from miil21k.hierarchy.custom import from_labels
from miil21k.hierarchy.load import load_label_space, load_own
from miil21k.hierarchy.spaces import LABEL_SPACES
from miil21k.records import to_json
from miil21k.store.integrity import sha256_of
from miil21k.train.journal import clear_run, holds_run, read_config, write_config
from miil21k.train.objectives import find_objective
from miil21k.zoo.checkpoint_card import TrainedCard, load_trained, read_card
from miil21k.zoo.names import own_checkpoint
from miil21k.zoo.registry import Architecture, LoadedFrom, create_model, identify
from miil21k.zoo.schema import Preprocess, foreign_network
from miil21k.zoo.timm_config import own_preprocess

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import nn

    from miil21k.data.datasets import ClassImages, LabelledImages
    from miil21k.hierarchy.spaces import LabelSpace
    from miil21k.train.options import TrainRequest
    from miil21k.train.recipe import Recipe
    from miil21k.zoo.schema import Weights

__all__ = ["augmentation_of", "choose_space", "create_network", "digest_of", "own_folder", "run_id_of"]


LOCK = ".training.lock"


def choose_space(request: TrainRequest, source: ClassImages, teacher: LabelSpace | None = None) -> LabelSpace:
    """Return the label space of a run over `source`.

    A hierarchy of the user's own gets a class for every node when the objective needs a logit for every node.
    teacher: the space in which a student without labels answers, unless another one is named; there every node
    becomes a class where that is needed.
    Raises UsageError for shards without a label space, when their classes are those of no shipped one.
    """
    name = request.label_space
    all_nodes = find_objective(request.recipe).head != "leaf_softmax"
    if teacher is not None and (name is None or name in LABEL_SPACES):
        space = teacher if name is None else load_label_space(name)
        return space.with_all_nodes() if all_nodes else space
    if name is not None:
        own = name not in LABEL_SPACES and Path(name).exists()
        return load_own(Path(name), all_nodes=all_nodes) if own else load_label_space(name)
    shipped = matching_space(key.rpartition("/")[2] for key in source.keys)
    if shipped is not None:
        return load_label_space(shipped)
    if not isinstance(source, (FolderSource, ShardSource)):  # whose keys are folders, which may be a hierarchy
        return from_labels(Path(request.data), {key: f"label '{key}'" for key in source.keys}, all_nodes=all_nodes)
    if not Path(request.data).is_dir() or next(Path(request.data).glob("*.tar"), None):
        raise UsageError(f"The classes in '{request.data}' are of no shipped label space: name one with --label-space.")
    return load_own(Path(request.data), all_nodes=all_nodes)


def create_network(request: TrainRequest, space: LabelSpace) -> tuple[nn.Module, TrainedCard, LoadedFrom | None]:
    """Return the network to train, with a head of `space`, the card of its checkpoints, and the weights it starts from.

    A head of another label space is replaced by a fresh one, whatever its size. None for the weights says that every
    parameter is random. Raises UsageError when the recipe starts from trained weights and the model has none, or
    when the architecture does not take the recipe's dropout or image size.
    """
    recipe = request.recipe
    torch.manual_seed(recipe.seed)
    dropping = {"drop_rate": recipe.dropout, "drop_path_rate": recipe.drop_path}
    extra: dict[str, Any] = {name: value for name, value in dropping.items() if value}
    path = _file_of(request)
    earlier = read_card(path) if path.suffix == ".safetensors" and path.exists() else None
    if earlier is not None:
        if request.model_kwargs:
            raise UsageError(f"'{request.model}' says itself what network it is: leave --model-kwargs out.")
        model, card = _from_earlier(path, earlier, extra, pretrained=recipe.pretrained)
        loaded: LoadedFrom | None = None
        if recipe.pretrained:
            loaded = LoadedFrom(request.model, str(path), sha256_of(path))
        kept = earlier.space.sha256 == space.sha256
    else:
        model, card = _from_zoo(request, space, extra)
        loaded = model.loaded_from  # type: ignore[assignment]
        if loaded is not None and loaded.sha256 is None:
            loaded = loaded._replace(sha256=sha256_of(Path(loaded.source)))
        kept = getattr(model, "label_space", None) == space.name
    if not kept:
        model.reset_classifier(space.num_classes)  # type: ignore[operator]
        if recipe.zero_head:
            for parameter in model.get_classifier().parameters():  # type: ignore[operator]
                torch.nn.init.zeros_(parameter)
    preprocess = _preprocess(recipe, card.preprocess, f"recipe {request.recipe_name}")
    head = find_objective(recipe).head
    return model, replace(card, head=head, space=space, preprocess=preprocess, recipe=request.recipe_name), loaded


def _file_of(request: TrainRequest) -> Path:
    """Return the path of the checkpoint to start from, of the Hub or of here; for any other name that name."""
    place: dict[str, Any] = {"cache_dir": request.cache_dir, "offline": request.offline}
    return own_checkpoint(request.model, revision=request.revision, **place) or Path(request.model)


def _from_earlier(
    path: Path, card: TrainedCard, extra: dict[str, Any], *, pretrained: bool
) -> tuple[nn.Module, TrainedCard]:
    """Return the network of a checkpoint, with its weights or, without `pretrained`, with fresh ones."""
    if not extra and pretrained:
        return load_trained(path)
    model = replace(card, arch_kwargs={**card.arch_kwargs, **extra}).build()
    if pretrained:
        model.load_state_dict(load_trained(path)[0].state_dict())
    return model, card


def _from_zoo(request: TrainRequest, space: LabelSpace, extra: dict[str, Any]) -> tuple[nn.Module, TrainedCard]:
    found = identify(request.model, cache_dir=request.cache_dir, offline=request.offline)
    size = request.recipe.image_size
    own = _model_kwargs(request)
    model = _build(request, found, space, {**extra, **own})
    cfg: dict[str, Any] = dict(model.pretrained_cfg)  # type: ignore[arg-type]
    if size and cfg.get("fixed_input_size") and size != cfg["input_size"][1]:
        own["img_size"] = size
        model = _build(request, found, space, {**extra, **own})
    if isinstance(found, Architecture):
        return model, TrainedCard(found.name, own, "leaf_softmax", space, own_preprocess(found.name), "", {})
    return model, TrainedCard(found.arch, {**found.arch_kwargs, **own}, "leaf_softmax", space, found.preprocess, "", {})


def _model_kwargs(request: TrainRequest) -> dict[str, Any]:
    """Return what the user gives the constructor: values as Python writes them, or else words."""
    if not request.model_kwargs:
        return {}
    if request.recipe.pretrained:
        raise UsageError("--model-kwargs makes another network than the trained one: add --from-scratch.")
    found: dict[str, Any] = {}
    for pair in request.model_kwargs:
        name, equals, text = pair.partition("=")
        if not equals or not name.isidentifier():
            raise UsageError(f"--model-kwargs takes NAME=VALUE, not '{pair}'.")
        try:
            found[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            found[name] = text
    if (problem := foreign_network("network", found)) is not None:
        raise UsageError(f"--model-kwargs: {problem}.")
    return found


def _build(request: TrainRequest, found: Weights | Architecture, space: LabelSpace, extra: dict[str, Any]) -> nn.Module:
    recipe = request.recipe
    if recipe.pretrained and not request.checkpoint and isinstance(found, Architecture):
        raise UsageError(
            f"The recipe '{request.recipe_name}' starts from trained weights. {found.refusal} "
            "Or start from random ones with --from-scratch, or from a file with --checkpoint."
        )
    known: dict[str, Any] = {"cache_dir": request.cache_dir, "offline": request.offline}
    if request.checkpoint:
        known["checkpoint"] = request.checkpoint
    else:
        known |= {"pretrained": recipe.pretrained, "revision": request.revision}
    try:
        model: nn.Module = create_model(request.model, num_classes=space.num_classes, **known, **extra)
    except TypeError as error:
        raise UsageError(f"The architecture of '{request.model}' does not take {', '.join(extra)} ({error}).") from None
    return model


def _preprocess(recipe: Recipe, model: Preprocess, source: str) -> Preprocess:
    """Return the preprocessing of evaluation that goes with the recipe's training images."""
    size = recipe.image_size or model.input_size[1]
    plain = recipe.normalise == "none"
    squash = recipe.crop != "random"
    return Preprocess(
        (3, size, size),
        recipe.interpolation,
        1.0 if squash else recipe.eval_crop_pct or model.crop_pct,
        "squash" if squash else "center",
        (0.0, 0.0, 0.0) if plain else model.mean,
        (1.0, 1.0, 1.0) if plain else model.std,
        source,
    )


def augmentation_of(recipe: Recipe, preprocess: Preprocess) -> Augmentation:
    """Return the training augmentation of a recipe; raises UsageError for a policy that timm does not know."""
    augmentation = Augmentation(
        preprocess.input_size[1],
        preprocess.mean,
        recipe.crop,
        recipe.interpolation,
        recipe.scale,
        recipe.ratio,
        recipe.hflip,
        recipe.color_jitter,
        recipe.policy,
        recipe.cutout,
        recipe.resize,
    )
    augmentation.check()
    return augmentation


def digest_of(images: LabelledImages, *, labels: bool = True) -> str:
    """Return a digest of which images these are: labels, weights and names, and the bytes of 64 spread over the set.

    labels: False leaves labels and weights out.
    """
    digest = hashlib.sha256()
    for array in (images.labels, *(images.sets or ()), images.weights):
        if labels and array is not None:
            digest.update(array.tobytes())
    for start in range(0, len(images), 1 << 16):
        names = [images.name(index) for index in range(start, min(start + (1 << 16), len(images)))]
        digest.update("\0".join(names).encode(errors="surrogateescape"))
    for index in range(0, len(images), max(1, len(images) // 64)):
        with suppress(OSError, ImageError):  # an unreadable image is left out of its batch too
            digest.update(images.source.read(int(images.rows[index])))
    return digest.hexdigest()


def run_id_of(recipe: Recipe, card: TrainedCard, images: str, processes: int, teacher: Mapping[str, Any]) -> str:
    """Return a digest of all that decides the weights of a run: recipe, model, classes, images and processes.

    images: what `digest_of` says. teacher: which one it is and what is kept of its answers; empty without one.
    """
    facts = {
        "recipe": asdict(recipe),
        "arch": card.arch,
        "arch_kwargs": dict(card.arch_kwargs),
        "label_space": card.space.sha256,
        "preprocess": to_json(card.preprocess),
        "images": images,
        "processes": processes,
        **({"teacher": dict(teacher)} if teacher else {}),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


@contextmanager
def own_folder(
    folder: Path, run_id: str, facts: Mapping[str, Any], *, resume: bool = False, overwrite: bool = False
) -> Iterator[None]:
    """Hold the folder of the run, which is made if missing, with its config.json written or found to be this very run.

    What a run left that never came to save anything is cleared away; with overwrite, what any run left. Raises
    UsageError when another process trains there, or a run is there and is not to be resumed, or is another one.
    """
    busy = f"Another process trains in '{folder}': wait for its end, or choose another -o."
    with Lock(folder / LOCK, busy=busy, keep=False):
        if overwrite or not holds_run(folder):
            clear_run(folder)
            write_config(folder, {**facts, "run_id": run_id, "versions": installed_versions()})
        elif not resume:
            raise UsageError(
                f"'{folder}' holds a run already: go on with --resume, start it anew with --overwrite, or choose "
                "another -o."
            )
        else:
            config = read_config(folder) or {}
            if config.get("run_id") != run_id:
                raise UsageError(_what_differs(folder, config, facts))
        yield


def _what_differs(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    old = {**before, **before.get("recipe", {})}
    new = {**json.loads(json.dumps(now)), **json.loads(json.dumps(now["recipe"]))}
    differs = [
        f"{key} was {old.get(key)!r}, is {new[key]!r}" for key in new if key != "recipe" and old.get(key) != new[key]
    ]
    listed = "; ".join(differs[:5]) or "its images are other ones, or have other labels"
    return f"The run in '{folder}' is another one: {listed}. Resume it as it was, or start in another folder."
