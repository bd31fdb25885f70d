"""A teacher for distillation: any model that answers, brought to where and how the student sees its images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import nn

from miil21k.errors import ExportError, LabelSpaceMismatch, UsageError
from miil21k.hierarchy.load import load_label_space
from miil21k.hierarchy.spaces import projection, require_same
from miil21k.runtime.loading import load_model
from miil21k.runtime.options import LoadOptions
from miil21k.runtime.registry import RUNTIMES, export_runtimes
from miil21k.runtime.resolve import published_row, resolve
from miil21k.runtime.speed import images_per_second
from miil21k.runtime.torch_backend import fold_batch_norm
from miil21k.store.integrity import sha256_of, tensors_digest
from miil21k.train.objective import create_teacher
from miil21k.train.objectives import find_objective
from miil21k.train.step import PRECISION
from miil21k.zoo.checkpoint_card import read_card
from miil21k.zoo.export_card import read_export_card
from miil21k.zoo.names import own_checkpoint, trained_weights
from miil21k.zoo.stated_space import stated_space

if TYPE_CHECKING:
    from os import PathLike

    from miil21k.decode.heads import HeadKind
    from miil21k.hierarchy.spaces import LabelSpace
    from miil21k.runtime.base import Backend
    from miil21k.runtime.loading import Loaded
    from miil21k.train.objective import Teacher
    from miil21k.train.recipe import Recipe
    from miil21k.zoo.schema import Preprocess

__all__ = ["OpenedTeacher", "open_teacher"]

_BYTES = ((0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255))  # mean and std by which pixels in [0, 1] become grey levels


class OpenedTeacher(NamedTuple):
    """A teacher before its student is known.

    loaded: network or export. sha256: digest of its tensors, or of the export's file.
    """

    loaded: Loaded
    sha256: str

    @property
    def space(self) -> LabelSpace:
        """The label space in which it answers."""
        return self.loaded.space

    def require(self, recipe: Recipe, space: LabelSpace, head: HeadKind) -> None:
        """Raise UsageError for a head that cannot teach, LabelSpaceMismatch for one that lacks classes of `space`."""
        kinds = find_objective(recipe).teachers or (head,)
        if self.loaded.head not in kinds:
            raise UsageError(
                f"The teacher '{recipe.teacher}' has a head of kind {self.loaded.head}, the objective "
                f"'{recipe.objective}' distils one of kind {' or '.join(kinds)}: choose another teacher."
            )
        lacking = len(set(space.wnids) - set(self.space.wnids))
        if lacking and self.loaded.head == head:
            raise LabelSpaceMismatch(
                f"The teacher '{recipe.teacher}' answers in '{self.space.name}' and lacks {lacking:,} of the "
                f"{space.num_classes:,} classes of '{space.name}': train it on these images first, for example with "
                f"'miil21k train DATA -m {recipe.teacher} --recipe finetune', and name the checkpoint as the teacher."
            )

    def teach(self, recipe: Recipe, space: LabelSpace, student: Preprocess, head: HeadKind) -> Teacher:
        """Return the teacher of a student with this preprocessing and a head of `space`, on the CPU.

        Its batch norms are folded and it computes in the recipe's precision, compiled where the student is; it must
        not be used otherwise afterwards. Where both heads are of one kind, its logits are selected for the classes of
        `space`. Raises what `require` raises, and UsageError for a `teacher_image_size` that it does not take.
        """
        self.require(recipe, space, head)
        size = self._size(recipe, student.input_size[1])
        own = self.loaded.preprocess
        stats = own.mean, own.std
        if self.loaded.runtime == "torch":
            model: nn.Module = _Network(self.loaded.model, recipe)
        else:
            backend = self.loaded.start()
            model = _Export(backend)
            stats = _BYTES if backend.normalises else stats
        wnids = None
        if self.loaded.head != head:
            wnids = self.space.wnids
        elif self.space.wnids == space.wnids:
            require_same(self.space, space, "student")
        else:
            model = _Selected(model, torch.from_numpy(projection(self.space, space)).long())
        teacher = create_teacher(model, (student.mean, student.std), stats)
        return replace(teacher, kind=self.loaded.head, size=size, wnids=wnids)

    def _size(self, recipe: Recipe, student: int) -> int:
        """Return the side to which images are resized for it, 0 for none."""
        own, wanted = self.loaded.preprocess.input_size[1], recipe.teacher_image_size
        if self._takes_any_size():
            return 0 if wanted in (0, student) else wanted
        if wanted not in (0, own):
            raise UsageError(
                f"The teacher '{recipe.teacher}' takes images of {own} x {own} pixels alone: leave teacher_image_size "
                "out, and they are resized for it."
            )
        return 0 if own == student else own

    def _takes_any_size(self) -> bool:
        if self.loaded.runtime != "torch":
            return False
        return not getattr(self.loaded.model, "pretrained_cfg", {}).get("fixed_input_size", False)

    def sentence(self, recipe: Recipe, student: int) -> str:
        """Return how it answers, for the opening of a run; student: side of its images in pixels."""
        seen, own = self._size(recipe, student) or student, self.loaded.preprocess.input_size[1]
        dtype = recipe.precision if self.loaded.runtime == "torch" else self.loaded.start().dtype
        said = f"The teacher {recipe.teacher} (sha256 {self.sha256[:16]}) answers through "
        said += f"{RUNTIMES[self.loaded.runtime].title} in {dtype} and sees {seen} pixels"
        if seen < own and self._takes_any_size():
            said += f", though it was trained on {own}: --set teacher_image_size={own} resizes images for it"
        return said


class _Network(nn.Module):
    """A network of torch, folded, in one precision and outside autocast."""

    def __init__(self, model: nn.Module, recipe: Recipe) -> None:
        super().__init__()
        model.eval().requires_grad_(False)
        fold_batch_norm(model)
        self.dtype = PRECISION[recipe.precision] or torch.float32
        self.model = model.to(dtype=self.dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.compiled = torch.compile(self.model) if recipe.compile else self.model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        with torch.autocast(images.device.type, enabled=False):
            seen = images.to(dtype=self.dtype, memory_format=torch.channels_last)
            logits: torch.Tensor = self.compiled(seen)
        return logits.float()


class _Export(nn.Module):
    """An export in its runtime, which computes on NumPy arrays; grey levels are rounded where it takes bytes."""

    def __init__(self, backend: Backend) -> None:
        super().__init__()
        self.backend = backend

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        seen = images.float()
        if self.backend.normalises:
            seen = seen.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
        with self.backend.threads(torch.get_num_threads(), 1):
            found = self.backend.run(np.ascontiguousarray(seen.cpu().numpy()))
        return torch.from_numpy(found.logits).to(images.device)


class _Selected(nn.Module):
    """A model whose logits are a selection of another model's: exact, and no parameter more."""

    def __init__(self, model: nn.Module, columns: torch.Tensor) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("columns", columns, persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(images)
        return logits.index_select(1, self.get_buffer("columns"))


def open_teacher(
    recipe: Recipe,
    *,
    device: str = "cpu",
    cache_dir: str | PathLike[str] | None = None,
    offline: bool | None = None,
    runtime: str = "",
) -> OpenedTeacher | None:
    """Return the recipe's teacher, None when its objective needs none.

    It is a name of the zoo or of timm, a checkpoint of `miil21k train` or an export (`.onnx`), which the fastest
    runtime on this machine runs; published weights are answered by a proved export of the cache where `resolve` has one
    and images come in its size. device: where the student is. cache_dir, offline: as for `create_model`. runtime: the
    one that must answer, such as "onnx"; empty chooses, which may come out otherwise an hour later.
    Raises UsageError for a file that is no model or a runtime that cannot answer, LabelSpaceMismatch when the label
    space that the recipe names is not the teacher's, or none is known.
    """
    if not find_objective(recipe).needs_teacher:
        return None
    name = recipe.teacher
    path = own_checkpoint(name, cache_dir=cache_dir, offline=offline) or Path(name)
    named = load_label_space(recipe.teacher_label_space) if recipe.teacher_label_space else None
    options = LoadOptions(
        label_space=recipe.teacher_label_space or None,
        cache_dir=None if cache_dir is None else Path(cache_dir),
        offline=offline,
        device=device,
        dtype=recipe.precision,
        backend=runtime or "auto",
    )
    if path.suffix == ".onnx":
        loaded = _fastest(path, options)
        return OpenedTeacher(_checked(name, named, loaded), sha256_of(path))
    if path.suffix == ".safetensors" or path.is_file():
        if not path.is_file():
            raise UsageError(f"There is no teacher '{name}': name a checkpoint, an export or a model.")
        if read_card(path) is None:
            raise UsageError(
                f"The teacher '{name}' does not say what network it is: give a checkpoint of 'miil21k train', an "
                "export of 'miil21k export onnx', or a name of the zoo or of timm."
            )
        loaded = load_model(str(path), LoadOptions(device=device, dtype=recipe.precision))
    else:
        weights = trained_weights(name, cache_dir=cache_dir, offline=offline)
        if stated_space(weights) is None and named is None:
            raise LabelSpaceMismatch(
                f"The label space of '{name}' was never published: say --teacher-label-space, or choose another "
                "teacher."
            )
        row = published_row(name, options)
        fits = row is not None and row.preprocess.input_size[1] == (recipe.teacher_image_size or recipe.image_size)
        loaded = resolve(name, options) if fits else load_model(name, options)
    _checked(name, named, loaded)
    return OpenedTeacher(loaded, loaded.weights_sha256 or tensors_digest(loaded.model))


def _checked(name: str, named: LabelSpace | None, loaded: Loaded) -> Loaded:
    if named is not None and named.sha256 != loaded.space.sha256:
        raise LabelSpaceMismatch(
            f"The teacher '{name}' answers in '{loaded.space.name}', not in '{named.name}': leave "
            "--teacher-label-space out."
        )
    return loaded


def _fastest(path: Path, options: LoadOptions) -> Loaded:
    """Return an export in the runtime asked for, or the fastest here, in the precision asked for where it has that."""
    if not path.is_file():
        raise UsageError(f"There is no teacher '{path}': name a checkpoint, an export or a model.")
    stored = read_export_card(path).precision
    found: dict[str, Loaded] = {}
    refused: ExportError | None = None
    named = options.backend != "auto"
    for runtime in (options.backend,) if named else export_runtimes():
        able = RUNTIMES[runtime]
        kind = options.device.partition(":")[0]
        if able.library() is not None:
            dtype = options.dtype if stored == "fp32" and options.dtype in able.dtypes else "fp32"
            device = "auto" if kind != "cpu" and kind in able.devices else "cpu"
            try:
                found[runtime] = resolve(str(path), replace(options, backend=runtime, device=device, dtype=dtype))
            except ExportError as error:  # an INT8 file that one library would answer otherwise on this processor
                refused = error
    if not found and refused is not None:
        raise refused
    if not found:
        return resolve(str(path), options)  # raises what says what to install
    backends = {runtime: loaded.start() for runtime, loaded in found.items()}
    rates = {runtime: RUNTIMES[runtime].gain for runtime in found}
    if len(found) > 1 and not any(backend.normalises for backend in backends.values()):
        size = next(iter(found.values())).preprocess.input_size
        rates = images_per_second(backends, size, briefly=True)
    return found[max(rates, key=lambda runtime: rates[runtime])]
