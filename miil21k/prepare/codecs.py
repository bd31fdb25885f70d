"""Which codecs there are, what each needs, and the versions that its bytes depend on."""

from __future__ import annotations

import importlib.util
from dataclasses import asdict, replace
from importlib import metadata
from typing import TYPE_CHECKING, Any, Protocol

from miil21k.environment import require
from miil21k.prepare.codec_pillow import PillowConverter

if TYPE_CHECKING:
    from collections.abc import Callable

    from miil21k.prepare.codec_pillow import Converted
    from miil21k.prepare.options import Codec, PrepareOptions, Resize

__all__ = ["CODECS", "Converter", "fingerprint", "open_converter", "with_codec"]


class Converter(Protocol):
    """Turns an encoded image into a prepared one."""

    def convert(self, data: bytes, name: str = "") -> Converted:
        """Return the prepared image, or why there is none.

        name: of its file, by which a raw one of a camera is told.
        """


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
    """Return the converter of `options.codec`, which is not `auto`: see `with_codec`."""
    return CODECS[options.codec](options)


def with_codec(options: PrepareOptions) -> PrepareOptions:
    """Return `options` with the codec that `auto` is here: simplejpeg where its libraries are installed.

    Raises MissingExtra for simplejpeg without its libraries.
    """
    missing = [module for module in _MODULES[options.resize] if importlib.util.find_spec(module) is None]
    if options.codec == "auto":
        return replace(options, codec="pillow" if missing else "simplejpeg")
    if options.codec == "simplejpeg" and missing:
        extra = "published" if missing == ["cv2"] else "prepare"
        require(missing[0], extra, f"The codec 'simplejpeg' with --resize {options.resize}")
    return options


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
