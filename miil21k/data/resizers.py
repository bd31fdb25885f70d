"""What resizes an image: Pillow, or vector code that stays within a grey level or two of it."""

from __future__ import annotations

import importlib.util
import threading
from typing import TYPE_CHECKING, Literal, get_args

from miil21k.environment import require

if TYPE_CHECKING:
    from cykooz_resizer import CropBox, ResizeOptions, Resizer
    from PIL import Image

__all__ = ["RESIZERS", "ResizerName", "resize", "resolve_resizer"]

ResizerName = Literal["auto", "pillow", "cykooz"]
RESIZERS: tuple[str, ...] = get_args(ResizerName)

_of_thread = threading.local()  # a Resizer keeps buffers and serves one call at a time


def resolve_resizer(name: ResizerName, interpolation: str = "bilinear") -> ResizerName:
    """Return `pillow` or `cykooz`; `auto` is the latter where the package cykooz-resizer is installed.

    interpolation: of the preprocessing; all but `bilinear` is Pillow's, whatever the name.
    Raises MissingExtra for a `cykooz` that is not installed.
    """
    if name == "cykooz":
        require("cykooz_resizer", "fast", "The resizer 'cykooz'", package="cykooz-resizer")
    installed = importlib.util.find_spec("cykooz_resizer") is not None
    return "cykooz" if installed and name != "pillow" and interpolation == "bilinear" else "pillow"


def resize(
    image: Image.Image,
    size: tuple[int, int],
    method: Image.Resampling,
    resizer: ResizerName = "pillow",
    box: tuple[float, float, float, float] | None = None,
) -> Image.Image:
    """Return the RGB `image`, or the part `box` of it (left, upper, right, lower), in `size`, (width, height).

    resizer: `pillow` or `cykooz`, which computes the same triangle filter with vector instructions and other rounding:
    a tenth to a quarter of the values differ from Pillow's, by one grey level (two were seen). Bicubic is always
    Pillow's, since rounding between its two passes cuts overshoots, which moves pixels further.
    """
    from PIL import Image

    if resizer != "cykooz" or method != Image.Resampling.BILINEAR:
        return image.resize(size, method, box)
    if not hasattr(_of_thread, "resizer"):
        _of_thread.resizer, _of_thread.options = _bilinear()
    resized = Image.new("RGB", size)
    options = _of_thread.options
    if box is not None:
        options = options.copy()
        options.crop_box = _box(*box)
    _of_thread.resizer.resize_pil(image, resized, options)
    return resized


def _box(left: float, upper: float, right: float, lower: float) -> CropBox:
    import cykooz_resizer as library

    return library.CropBox(left, upper, right - left, lower - upper)


def _bilinear() -> tuple[Resizer, ResizeOptions]:
    import cykooz_resizer as library

    return library.Resizer(), library.ResizeOptions(library.ResizeAlg.convolution(library.FilterType.bilinear))
