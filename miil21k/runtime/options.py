"""Which network answers and what computes it, whoever asks: frozen values with every option and its default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from miil21k.decode.heads import HEAD_KINDS, HeadKind
from miil21k.environment import available_cpus
from miil21k.options import Instead, check, described, option
from miil21k.runtime.registry import backend_names
from miil21k.zoo.schema import CropMode, Interpolation

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["ComputeOptions", "Dtype", "LoadOptions", "ModelOptions", "threads_of", "workers_of"]

Dtype = Literal["fp32", "fp16", "bf16"]
_MOST_WORKERS = 8
MAX_IMG_SIZE = 4096  # pixels; far above any published network, and a batch of 16 still takes 3 GB as float32


@described
@dataclass(frozen=True)
class ModelOptions:
    """Which network answers, besides its name, and how it takes images."""

    checkpoint: str | Path | None = option(
        None, "load this file into the model, in any published layout", flags="--checkpoint --weights", metavar="FILE"
    )
    label_space: str | None = option(
        None,
        "answer in this space, a name or a file (winter21: exact from fall11); where the head's own is unknown, "
        "it is this one",
        metavar="SPACE",
    )
    head: HeadKind | None = option(
        None, "what the logits of an architecture's checkpoint mean (default: leaf_softmax)", choices=HEAD_KINDS
    )
    revision: str | None = option(None, "branch, tag or commit of the Hub repository", metavar="REV")
    cache_dir: str | Path | None = option(None, "where checkpoints are kept (default: the Hub's cache)", metavar="DIR")
    offline: bool | None = option(None, "no connection at all (default: HF_HUB_OFFLINE)")
    img_size: int | None = option(
        None, "input edge of the network", flags="--img-size --imgsz", metavar="PX", least=1, most=MAX_IMG_SIZE
    )
    crop_pct: float | None = option(None, "part of the resized image that is kept", metavar="F", least=0.01, most=1)
    crop_mode: CropMode | None = option(None, "cut the middle, or change the aspect ratio", choices=get_args(CropMode))
    interpolation: Interpolation | None = option(None, "how images are resized", choices=get_args(Interpolation))

    def __post_init__(self) -> None:
        check(self)


@described
@dataclass(frozen=True)
class ComputeOptions:
    """What computes, and on how much of the machine; None lets the caller choose."""

    backend: str = option(
        "auto",
        "what computes: torch, or onnx or openvino for exports; auto is the best of those that are ready",
        metavar="NAME",
        choices=backend_names,
    )
    make_export: bool | None = option(
        None,
        "make the export that the cache lacks first, whatever it costs (default: for --backend onnx or openvino, and "
        "where it saves a run more time than it takes)",
        instead={"--no-make-export": Instead(False, "make none; 'miil21k fetch' makes them ahead")},
    )
    device: str = option("auto", "auto, cpu, cuda, cuda:1 or mps")
    dtype: Dtype = option(
        "fp32",
        "precision; fp16 in torch, bf16 in torch or with --backend openvino",
        choices=get_args(Dtype),
        instead={"--half": Instead("fp16", "the same as --dtype fp16")},
    )
    batch_size: int | None = option(
        None,
        "images per forward pass (default: 16 on a CPU, else 64)",
        flags="-b --batch-size --batch",
        metavar="N",
        least=1,
    )
    workers: int | None = option(
        None,
        "threads that each read, decode and run batches; 0 does all in the calling one (default: CPUs, at most 8)",
        flags="-j --workers",
        metavar="N",
        least=0,
    )
    threads: int | None = option(
        None, "threads inside one forward pass (default: the CPUs shared among the workers)", metavar="N", least=1
    )

    def __post_init__(self) -> None:
        check(self)


@described
@dataclass(frozen=True)
class LoadOptions(ComputeOptions, ModelOptions):
    """All that decides what answers: `ModelOptions` and `ComputeOptions`."""


def workers_of(options: ComputeOptions) -> int:
    """Return how many threads work on batches: the option, or one per CPU (at most 8)."""
    return min(available_cpus(), _MOST_WORKERS) if options.workers is None else options.workers


def threads_of(options: ComputeOptions) -> int:
    """Return how many threads one forward pass of a stream has: the option, or the CPUs shared among the workers."""
    return options.threads or max(1, available_cpus() // max(1, workers_of(options)))
