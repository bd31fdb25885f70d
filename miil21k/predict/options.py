"""How to predict: one frozen value with every option and its default."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from miil21k.data.images import MAX_PIXELS
from miil21k.data.resizers import RESIZERS
from miil21k.decode.logits import HEAD_KINDS
from miil21k.decode.probabilities import DEFAULT_RULE
from miil21k.environment import available_cpus
from miil21k.errors import UsageError
from miil21k.runtime.base import BACKENDS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from miil21k.data.resizers import ResizerName
    from miil21k.decode.logits import HeadKind
    from miil21k.decode.probabilities import Rule
    from miil21k.runtime.base import BackendName

__all__ = ["Dtype", "PredictOptions", "changed", "threads_of", "workers_of"]

Dtype = Literal["fp32", "fp16", "bf16"]
_MOST_WORKERS = 8
MAX_IMG_SIZE = 4096  # pixels; far above any published network, and a batch of 16 still takes 3 GB as float32


@dataclass(frozen=True)
class PredictOptions:
    """Every option of a `Predictor`.

    Model: checkpoint is a local file to load instead of the published one. label_space: the space to answer in;
    None means the head's own, and `winter21` is an exact selection from a fall11 head. Where the head's own space is
    unknown (an architecture with a checkpoint, weights that came without one) it says which that is. head: what the
    logits of an architecture's checkpoint mean, None for `leaf_softmax`. revision: a branch, tag or commit of the
    Hub repository. cache_dir: where checkpoints are kept, None for the Hub's own cache. offline: never touch the
    network; None asks `HF_HUB_OFFLINE`.

    Run: backend `torch`, `onnx` (ONNX Runtime) or `openvino`; an `.onnx` file runs in one of the latter two, any other
    model in torch, unless `auto` finds a proved export. device `auto`, `cpu`, `cuda`, `cuda:1` or `mps`; dtype
    `fp32`, `fp16` or `bf16`. batch_size: images per forward pass. workers: threads that each read, decode and run
    batches; 0 does all in the calling thread. threads: threads inside one forward pass. None lets the predictor
    choose each of these.

    Image: img_size, the network's input edge in pixels; crop_pct, interpolation and crop_mode replace those of
    the weights when given. resizer: `pillow`, or `cykooz` (within one grey level of it, and several times as fast where
    the filter is bilinear); `auto` takes the latter where it is installed. exif: apply the orientation that the camera
    stored. max_pixels: refuse larger images.

    Answer: topk classes; hedge in (0, 1], None for the whole chain; max_depth, the deepest depth of the path
    (0: roots). under, classes, exclude: wnids, or names that only one node has, that restrict the answer, after
    which probabilities are renormalised. threshold: leave out of topk what is less probable. temperature: divide
    logits by it (one number, or one per depth), as fitted for this model. calibration: a file of
    `miil21k calibrate`, which brings temperatures and rule, and makes `hedge` the share of answers that are correct.
    rule: how a level_softmax head becomes one tree.
    include_removed_labels: answer also with the classes that ImageNet withdrew.
    levels: add the published per-level labels. embeddings: add the network's pre-logits.
    """

    checkpoint: str | Path | None = None
    label_space: str | None = None
    head: HeadKind | None = None
    revision: str | None = None
    cache_dir: str | Path | None = None
    offline: bool | None = None

    backend: BackendName = "auto"
    device: str = "auto"
    dtype: Dtype = "fp32"
    batch_size: int | None = None
    workers: int | None = None
    threads: int | None = None

    img_size: int | None = None
    crop_pct: float | None = None
    interpolation: Literal["bilinear", "bicubic"] | None = None
    crop_mode: Literal["center", "squash"] | None = None
    resizer: ResizerName = "auto"
    exif: bool = True
    max_pixels: int = MAX_PIXELS

    topk: int = 5
    hedge: float | None = 0.9
    max_depth: int | None = None
    under: Sequence[str] | str | None = None
    classes: Sequence[str] | str | None = None
    exclude: Sequence[str] | str | None = None
    threshold: float = 0.0
    temperature: float | Sequence[float] | None = None
    calibration: str | Path | None = None
    rule: Rule = DEFAULT_RULE
    include_removed_labels: bool = False
    levels: bool = False
    embeddings: bool = False

    def __post_init__(self) -> None:
        for name, least in (
            ("batch_size", 1),
            ("workers", 0),
            ("threads", 1),
            ("topk", 1),
            ("max_pixels", 1),
            ("max_depth", 0),
        ):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(f"{name} must be at least {least}, not {value}.")
        if self.hedge is not None and not 0 < self.hedge <= 1:
            raise UsageError(f"hedge lies above 0 and up to 1, not {self.hedge}.")
        if self.calibration is not None and self.temperature is not None:
            raise UsageError("A calibration brings its own temperatures: leave temperature out.")
        if self.img_size is not None and not 1 <= self.img_size <= MAX_IMG_SIZE:
            raise UsageError(f"img_size lies between 1 and {MAX_IMG_SIZE} pixels, not {self.img_size}.")
        if self.crop_pct is not None and not 0.01 <= self.crop_pct <= 1:
            raise UsageError(f"crop_pct lies between 0.01 and 1, not {self.crop_pct}.")
        for name, choices in (
            ("interpolation", (None, "bilinear", "bicubic")),
            ("crop_mode", (None, "center", "squash")),
            ("backend", BACKENDS),
            ("resizer", RESIZERS),
            ("dtype", ("fp32", "fp16", "bf16")),
        ):
            if getattr(self, name) not in choices:
                words = " or ".join(choice for choice in choices if choice)
                raise UsageError(f"{name} must be {words}, not '{getattr(self, name)}'.")
        if not 0 <= self.threshold <= 1:
            raise UsageError(f"threshold lies between 0 and 1, not {self.threshold}.")
        if self.head not in (None, *HEAD_KINDS):
            raise UsageError(f"head must be {', '.join(HEAD_KINDS)} or None, not '{self.head}'.")


def workers_of(options: PredictOptions) -> int:
    """Return how many threads work on batches: the option, or one per CPU (at most 8)."""
    return min(available_cpus(), _MOST_WORKERS) if options.workers is None else options.workers


def threads_of(options: PredictOptions) -> int:
    """Return how many threads one forward pass of a stream has: the option, or the CPUs shared among the workers."""
    return options.threads or max(1, available_cpus() // max(1, workers_of(options)))


def changed(options: PredictOptions, changes: dict[str, Any]) -> PredictOptions:
    """Return `options` with `changes` applied; raises UsageError for an unknown name, with the nearest one."""
    known = [field.name for field in fields(options)]
    for name in changes:
        if name not in known:
            import difflib

            near = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise UsageError(f"No option '{name}'.{hint} The options are: {', '.join(known)}.")
    return dataclasses.replace(options, **changes)
