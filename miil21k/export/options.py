"""What an export contains, how it is quantised, built for TensorRT, or served by Triton: each option declared once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from miil21k.errors import UsageError
from miil21k.hierarchy.bin_lines import bin_lines
from miil21k.options import Instead, check, described, option, option_again
from miil21k.predict.options import AnswerOptions
from miil21k.runtime.registry import export_runtimes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from miil21k.calibrate.record import Calibration
    from miil21k.decode.decoded import Reading
    from miil21k.hierarchy.bin_lines import GivenBins

__all__ = [
    "EngineOptions",
    "ExportOptions",
    "Form",
    "Method",
    "PageQuantizeOptions",
    "QuantizeMode",
    "QuantizeOptions",
    "TritonOptions",
]

Form = Literal["full", "tensor"]
QuantizeMode = Literal["static", "dynamic", "fp16"]
Method = Literal["minmax", "entropy", "percentile"]


@described
@dataclass(frozen=True)
class ExportOptions:
    """What an export contains; all but form and padding is for the form `full`."""

    form: Form = option("full", "full: images to answers; tensor: normalised pixels to logits", choices=get_args(Form))
    padding: Literal["own", "zeros"] = option(
        "own",
        "zeros where TResNet reflects edges: another network, whose difference is measured",
        choices=("own", "zeros"),
    )
    topk: int = option_again(AnswerOptions, "topk", 5)
    hedge: float = option(
        0.9,
        "default of the input 'hedge'; with a calibration, how often the answer is to be right",
        metavar="P",
        above=0,
        most=1,
    )
    reading: Reading = option_again(AnswerOptions, "reading", "published")
    min_bits: float = option_again(AnswerOptions, "min_bits", 1.0)
    ask: Sequence[str] | str = option_again(
        AnswerOptions, "ask", (), "nouns, wnids or synset names (dog.n.01) whose probabilities are one more output"
    )
    bins: GivenBins | None = option_again(AnswerOptions, "bins", None)
    calibration: Calibration | None = option(
        None,
        "of miil21k calibrate, which brings temperatures and rule for this model; on the command line its file, or "
        "hf-hub:OWNER/REPOSITORY",
        metavar="FILE",
        parse=str,
    )
    rule: str | None = option_again(AnswerOptions, "rule", None)
    include_removed_labels: bool = option_again(AnswerOptions, "include_removed_labels", False)

    def __post_init__(self) -> None:
        check(self)
        if self.bins is not None:  # a file is read now: what is exported no longer depends on it
            object.__setattr__(self, "bins", bin_lines(self.bins))
        if self.form == "tensor" and (self.ask or self.bins or self.reading != "published"):
            raise UsageError(
                "A graph of the form tensor answers nothing: ask, and read on concepts, where its logits are decoded, "
                "or export the form full."
            )


@described
@dataclass(frozen=True)
class QuantizeOptions:
    """How an export is quantised, and what it must keep to. Raises UsageError for what makes no sense."""

    mode: QuantizeMode | str = option(
        "auto",
        "static: INT8, ranges of activations measured on images; dynamic: INT8, matrix products only, ranges as they "
        "come; auto: static for convolutional networks, dynamic for transformers",
        choices=("auto", *get_args(QuantizeMode)),
    )
    method: Method = option("minmax", "how static finds the range of each activation", choices=get_args(Method))
    symmetric: bool = option(False, "static with zero points of 0 and float32 biases, for TensorRT")
    weight_bits: int | None = option(
        None,
        "7 (half the range) is exact on every processor (default: 8 where this one's 8-bit products are exact, else 7)",
        metavar="{7,8}",
        least=7,
        most=8,
    )
    min_agreement: float = option(
        0.97,
        "least share of pictures like the judging ones that keep their best class, shown with 95 % confidence",
        metavar="P",
        above=0,
        below=1,
    )
    most_left_out: float = option(0.95, "share of layers that may stay float", metavar="P", least=0, most=1)
    calibration_images: int = option(256, "most images that set it up, and that choose layers", metavar="N", least=1)
    backend: str = option("onnx", "what agreement and speed are measured in", choices=export_runtimes())
    require_faster: bool | None = option(
        None,
        "refuse what is not faster than fp32 (default: for INT8 that is not symmetric)",
        flags=None,
        instead={
            "--require-faster": Instead(True, "refuse what is not faster than fp32 (default for INT8)"),
            "--no-require-faster": Instead(False, "keep it and say so (default for fp16 and --symmetric)"),
        },
    )

    def __post_init__(self) -> None:
        check(self)
        if self.symmetric and self.mode not in ("auto", "static"):
            raise UsageError(f"symmetric is of mode static: {self.mode} has no fixed zero points.")


@described
@dataclass(frozen=True)
class PageQuantizeOptions(QuantizeOptions):
    """How the export of a web page is quantised: it comes over a line, so a smaller file may agree a little less."""

    min_agreement: float = option_again(QuantizeOptions, "min_agreement", 0.95)


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"'{text}' is no list of numbers, as 1,8,32 is.") from None


def _keep(text: str) -> int | str:
    if text == "all" or text.isdecimal():
        return text if text == "all" else int(text)
    raise UsageError(f"'{text}' is neither a number nor 'all'.")


@described
@dataclass(frozen=True)
class EngineOptions:
    """How TensorRT builds. Types are those of the ONNX file: TensorRT 11 has no alternative to strong typing."""

    batch: tuple[int, ...] = option(
        (1, 8, 32), "smallest, best and largest batch (default: 1,8,32)", metavar="N,N,N", parse=_numbers
    )
    timing_cache: Path | None = option(
        None,
        "measured kernels, read where it is there and written, to build faster the next time",
        metavar="FILE",
        parse=Path,
    )
    workspace: int | None = option(None, "memory for layers, in MiB (default: all there is)", metavar="MIB", least=1)
    tf32: bool = option(False, "let float32 products round to 10-bit mantissas, as TensorRT would")
    version_compatible: bool = option(False, "later versions of TensorRT 10 or 11 can run it, too")
    optimization_level: int | None = option(
        None, "0 to 5: how long to search for speed (default: TensorRT's, 3)", metavar="N", least=0, most=5
    )

    def __post_init__(self) -> None:
        check(self)
        if len(self.batch) != 3 or not 1 <= self.batch[0] <= self.batch[1] <= self.batch[2]:
            found = ",".join(map(str, self.batch))
            raise UsageError(f"Batches are smallest, best, largest, growing from 1 up: not {found}.")

    def shapes(self, image: tuple[int, int, int]) -> tuple[tuple[int, int, int, int], ...]:
        """Return the smallest, the best and the largest shape of the input, for images of shape (C, H, W)."""
        return tuple((size, *image) for size in self.batch)


@described
@dataclass(frozen=True)
class TritonOptions:
    """How Triton runs a model."""

    max_batch_size: int = option(
        32,
        "most images per call; 0: no batching by the server, and requests may set 'hedge' and 'crop'",
        metavar="N",
        least=0,
    )
    preferred_batch_sizes: tuple[int, ...] = option(
        (), "sizes that are run as soon as they are full", metavar="N,N", parse=_numbers
    )
    queue_delay: int = option(0, "how long a request may wait for others, in microseconds", metavar="US", least=0)
    instances: int = option(1, "copies side by side, per GPU where there are GPUs", metavar="N", least=1)
    device: Literal["auto", "cpu", "gpu"] = option(
        "auto",
        "where it runs; auto: on every GPU where Triton finds any",
        flags=None,
        choices=("auto", "cpu", "gpu"),
        instead={"--cpu": Instead("cpu", "run on the CPU"), "--gpu": Instead("gpu", "run on every GPU")},
    )
    gpus: tuple[int, ...] = option(
        (), "run on these GPUs (default: all, where there are any)", metavar="N,N", parse=_numbers
    )
    threads: int | None = option(None, "of each copy on a CPU (default: all cores)", metavar="N", least=1)
    keep: int | Literal["all"] = option(
        1, "how many of the latest versions are served, or all", metavar="N|all", parse=_keep
    )
    warmup: bool = option(
        True,
        "run a picture before the model is announced as ready",
        flags=None,
        instead={"--no-warmup": Instead(False, "ready before a first picture was run")},
    )

    def __post_init__(self) -> None:
        check(self)
        if self.keep != "all" and self.keep < 1:
            raise UsageError(f"keep must be at least 1, not {self.keep}.")
        if not self.max_batch_size and (self.preferred_batch_sizes or self.queue_delay):
            raise UsageError("max_batch_size 0 turns batching off: leave preferred batch sizes and queue delay out.")
        for size in self.preferred_batch_sizes:
            if not 1 <= size <= self.max_batch_size:
                raise UsageError(f"A preferred batch size lies in 1 to {self.max_batch_size}, the largest; not {size}.")
        if self.gpus and (self.device == "cpu" or min(self.gpus) < 0 or len(set(self.gpus)) < len(self.gpus)):
            raise UsageError("gpus are different numbers from 0 up, for the device gpu.")
