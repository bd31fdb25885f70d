"""What an engine is built for, and the same as a line for `trtexec`."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from miil21k.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["EngineOptions", "shapes", "trtexec_line"]


@dataclass(frozen=True)
class EngineOptions:
    """How TensorRT builds.

    batch: the smallest batch, the one to be fastest for, the largest. Types are those of the ONNX file: the network is
    strongly typed, which TensorRT 11 has no alternative to. tf32: allow inner products of 10-bit mantissas for
    float32. workspace: MiB that layers may use for a while; TensorRT's choice, all there is, when None. timing_cache: a
    file of measured kernels, read where it is there and written. version_compatible: an engine that later versions of
    TensorRT 10 or 11 run too. optimization_level: 0 to 5, more searching for more speed; TensorRT's 3 when None.
    """

    batch: tuple[int, int, int] = (1, 8, 32)
    tf32: bool = False
    workspace: int | None = None
    timing_cache: Path | None = None
    version_compatible: bool = False
    optimization_level: int | None = None

    def __post_init__(self) -> None:
        least, best, most = self.batch
        if not 1 <= least <= best <= most:
            raise UsageError(f"Batches are smallest, best, largest, growing from 1 up: not {least},{best},{most}.")
        if self.workspace is not None and self.workspace < 1:
            raise UsageError(f"The workspace is at least 1 MiB, not {self.workspace}.")
        if self.optimization_level is not None and not 0 <= self.optimization_level <= 5:
            raise UsageError(f"The optimization level lies in 0 to 5, not {self.optimization_level}.")


def shapes(options: EngineOptions, image: tuple[int, int, int]) -> tuple[tuple[int, int, int, int], ...]:
    """Return the smallest, the best and the largest shape of the input, for images of shape (C, H, W)."""
    return tuple((size, *image) for size in options.batch)


def trtexec_line(model: Path, output: Path, name: str, image: tuple[int, int, int], options: EngineOptions) -> str:
    """Return the command of TensorRT 10 and 11 that builds the same engine; `name` is the input's."""
    words = ["trtexec", f"--onnx={model}", f"--saveEngine={output}"]
    for title, shape in zip(("min", "opt", "max"), shapes(options, image), strict=True):
        words.append(f"--{title}Shapes={name}:{'x'.join(map(str, shape))}")
    words.append("--stronglyTyped")  # TensorRT 11 always is, and takes the flag
    if not options.tf32:
        words.append("--noTF32")
    if options.workspace is not None:
        words.append(f"--memPoolSize=workspace:{options.workspace}")
    if options.timing_cache is not None:
        words.append(f"--timingCacheFile={options.timing_cache}")
    if options.version_compatible:
        words.append("--versionCompatible")
    if options.optimization_level is not None:
        words.append(f"--builderOptimizationLevel={options.optimization_level}")
    return shlex.join([*words, "--skipInference"])
