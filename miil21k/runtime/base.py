"""What every runtime gives: something that turns images into logits, whichever library computes them."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Backend", "ExportFile", "Outputs"]


class Outputs(NamedTuple):
    """logits: float32 [B, C]. embedding: float32 [B, D], what the classifier multiplies; None unless asked for."""

    logits: NDArray[np.float32]
    embedding: NDArray[np.float32] | None


class ExportFile(NamedTuple):
    """An `.onnx` file that a runtime opens.

    input_size: (3, H, W). normalises: its form is `full`: it takes crops. precision: what it computes in. prepared: it
    is of the cache, as the runtime that opens it likes it best (`Runtime.prepare`).
    """

    path: Path
    input_size: tuple[int, int, int]
    normalises: bool
    precision: str = "fp32"
    prepared: bool = False


class Backend(Protocol):
    """A network that can be run; may be called from several threads at once.

    name: its key in `RUNTIMES`. device: where it runs, as torch spells it. dtype: `fp32`, `fp16`, `bf16` or `int8`.
    num_classes: C. normalises: `run` takes crops, uint8 [B, H, W, 3], and normalises them itself.
    """

    name: str
    device: str
    dtype: str
    num_classes: int
    normalises: bool

    def run(self, images: NDArray[Any], *, embed: bool = False) -> Outputs:
        """Return the logits of `images` and their embedding if asked for.

        images: float32 [B, 3, H, W] normalised, or the crops themselves where the backend `normalises`.
        """

    @contextmanager
    def threads(self, count: int, callers: int | None = None) -> Iterator[None]:
        """Let each call compute on `count` CPU threads while the context is open.

        callers: how many calls come at once; None for as many as the CPUs are enough for.
        """

    def open_ahead(self, threads: int, *, once: bool = False) -> None:
        """Begin what the first call would wait for, for calls of that many threads, beside other work.

        once: there will be a single call. It may do nothing; a failure is told by `run`.
        """
