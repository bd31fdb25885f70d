"""Which codecs there are, what each needs, and the versions that its bytes depend on."""

from __future__ import annotations

import importlib.util
from dataclasses import asdict
from importlib import metadata
from typing import TYPE_CHECKING, Any, Protocol, get_args

from miil21k.environment import require
from miil21k.errors import UsageError
from miil21k.prepare.codec_pillow import PillowConverter
from miil21k.prepare.options import Codec

if TYPE_CHECKING:
    from collections.abc import Callable

    from miil21k.prepare.codec_pillow import Converted
    from miil21k.prepare.options import PrepareOptions, Resize

__all__ = ["CODECS", "Converter", "fingerprint", "open_converter", "resolve_codec"]


class Converter(Protocol):
    """Turns an encoded image into a prepared one."""

    def convert(self, data: bytes) -> Converted:
        """Return the prepared image, or why there is none."""


def _simplejpeg(options: PrepareOptions) -> Converter:
    from miil21k.prepare.codec_simplejpeg import SimplejpegConverter  # its libraries are an extra

    return SimplejpegConverter(options)


CODECS: dict[Codec, Callable[[PrepareOptions], Converter]] = {"simplejpeg": _simplejpeg, "pillow": PillowConverter}
# What `simplejpeg` imports for each way to resize, and the distributions that may provide it.
_MODULES: dict[Resize, dict[str, tuple[str, ...]]] = {
    "antialiased": {"simplejpeg": ("simplejpeg",), "cykooz_resizer": ("cykooz-resizer",)},
    "published": {
        "simplejpeg": ("simplejpeg",),
        "cv2": tuple(
            f"opencv-{name}" for name in ("python-headless", "python", "contrib-python-headless", "contrib-python")
        ),
    },
}


def open_converter(options: PrepareOptions) -> Converter:
    """Return the converter of `options.codec`. Raises ImportError where its libraries are missing."""
    return CODECS[options.codec](options)


def resolve_codec(name: str, resize: Resize = "antialiased") -> Codec:
    """Return the codec called `name`; `auto` is simplejpeg where its libraries are installed.

    Raises UsageError for an unknown name, MissingExtra for simplejpeg without its libraries.
    """
    missing = [module for module in _MODULES[resize] if importlib.util.find_spec(module) is None]
    if name == "auto":
        return "pillow" if missing else "simplejpeg"
    for codec in CODECS:
        if codec == name:
            if codec == "simplejpeg" and missing:
                extra = "published" if missing == ["cv2"] else "prepare"
                require(missing[0], extra, f"The codec 'simplejpeg' with --resize {resize}")
            return codec
    raise UsageError(f"No codec '{name}': choose one of auto, {', '.join(get_args(Codec))}.")


def fingerprint(options: PrepareOptions) -> dict[str, Any]:
    """Return the options and the library versions that the bytes of the result depend on, as JSON values."""
    libraries = {"pillow": metadata.version("pillow")}
    if options.codec == "simplejpeg":
        libraries |= {module: _version(found) for module, found in _MODULES[options.resize].items()}
    if options.manifest == "parquet":
        libraries["pyarrow"] = _version(("pyarrow",))
    return {**asdict(options), "size": options.target_size, "libraries": libraries}


def _version(distributions: tuple[str, ...]) -> str:
    installed = {found.name: found.version for name in distributions for found in metadata.distributions(name=name)}
    return next(iter(installed.values()), "unknown")
