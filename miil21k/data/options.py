"""How images are read, whoever asks: one frozen value with every option and its default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from miil21k.data.resizers import RESIZERS
from miil21k.errors import UsageError
from miil21k.options import Instead, check, described, option

if TYPE_CHECKING:
    from pathlib import Path

    from miil21k.data.resizers import ResizerName

__all__ = ["DECODES", "FRAMES", "MAX_PIXELS", "Decode", "Frames", "ReadingOptions", "SourceOptions", "frames_of"]

Decode = Literal["reduced", "full"]
DECODES: tuple[str, ...] = get_args(Decode)
Frames: TypeAlias = "float | str"  # seconds from one frame of a video to the next, or "scenes"
FRAMES = 10.0
MAX_PIXELS = 178_956_970  # where Pillow too refuses: half a gigabyte of RGB


def frames_of(given: Frames) -> Frames:
    """Return which frames of a video are meant, `scenes` or seconds; raises UsageError for anything else."""
    if given == "scenes":
        return given
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0
    if not 0.001 <= seconds < 1e7:  # names of frames carry milliseconds
        raise UsageError(f"frames must be 'scenes', or seconds from 0.001 up, not '{given}'.")
    return seconds


@described
@dataclass(frozen=True)
class ReadingOptions:
    """How images are read."""

    exif: bool = option(
        True,
        "apply the orientation that the camera stored",
        flags=None,
        instead={"--no-exif": Instead(False, "leave the orientation that the camera stored unapplied")},
    )
    max_pixels: int = option(MAX_PIXELS, "refuse larger images", metavar="N", least=1)
    resizer: ResizerName = option(
        "auto",
        "what resizes: cykooz is several times as fast where bilinear, within a grey level or two of pillow; auto "
        "takes it where it is installed",
        choices=RESIZERS,
    )

    decode: Decode = option(
        "reduced",
        "reduced decodes large JPEGs at 1/2, 1/4 or 1/8, never below twice the resize edge, which is several times as "
        "fast; full decodes every pixel, as the published preprocessing does",
        choices=DECODES,
    )

    def __post_init__(self) -> None:
        check(self)


@described
@dataclass(frozen=True)
class SourceOptions:
    """Which labelled images are meant, where a list or a folder holds more than one wants."""

    split: str | None = option(
        None, "which part of the data: a split of a list, or one of the folders train, val and test", metavar="NAME"
    )
    root: str | Path | None = option(
        None, "folder that the paths of a list start from (default: the list's own)", metavar="DIR"
    )

    def __post_init__(self) -> None:
        check(self)
