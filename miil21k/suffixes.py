"""Which files are pictures, for every verb: the formats that are read, and what is passed over in a folder.

A format is listed when a data set may hold it and its plugin in Pillow does no more than decode: none that starts
another program (EPS, WMF), that unpacks without a limit (FITS, BLP, IPTC), or that only recognises files (HDF5).
"""

from __future__ import annotations

import importlib.util
import os
from collections import Counter
from functools import cache
from typing import NamedTuple

from miil21k.text import printable

__all__ = [
    "FORMATS",
    "HEIF_SUFFIXES",
    "JUNK_FOLDERS",
    "PDF_SUFFIXES",
    "RAW_SUFFIXES",
    "TIFF_SUFFIXES",
    "VIDEO_SUFFIXES",
    "ImageFormat",
    "PassedOver",
    "document_suffixes",
    "image_suffixes",
    "is_image_name",
    "reads_heif",
    "reads_pdf",
    "reads_raw",
    "reads_video",
    "suffix_of",
]


class ImageFormat(NamedTuple):
    """plugin: Pillow's module for the format, without `ImagePlugin`. suffixes: in lower case, with their dot."""

    plugin: str
    suffixes: tuple[str, ...]


# By Pillow's names, in the order in which they are tried; those that cannot be told by their first bytes come last.
FORMATS = {
    "JPEG": ImageFormat("Jpeg", (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo")),
    "PNG": ImageFormat("Png", (".png", ".apng")),
    "GIF": ImageFormat("Gif", (".gif",)),
    "BMP": ImageFormat("Bmp", (".bmp",)),
    "PPM": ImageFormat("Ppm", (".pbm", ".pgm", ".ppm", ".pnm", ".pfm")),
    "WEBP": ImageFormat("WebP", (".webp",)),
    "TIFF": ImageFormat("Tiff", (".tif", ".tiff")),
    "JPEG2000": ImageFormat("Jpeg2K", (".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".j2c")),
    "AVIF": ImageFormat("Avif", (".avif", ".avifs")),
    "ICO": ImageFormat("Ico", (".ico",)),
    "CUR": ImageFormat("Cur", (".cur",)),
    "ICNS": ImageFormat("Icns", (".icns",)),
    "PSD": ImageFormat("Psd", (".psd",)),
    "DDS": ImageFormat("Dds", (".dds",)),
    "QOI": ImageFormat("Qoi", (".qoi",)),
    "SGI": ImageFormat("Sgi", (".sgi", ".rgb", ".rgba", ".bw")),
    "SUN": ImageFormat("Sun", (".ras",)),
    "DCX": ImageFormat("Dcx", (".dcx",)),
    "FLI": ImageFormat("Fli", (".fli", ".flc")),
    "MSP": ImageFormat("Msp", (".msp",)),
    "PIXAR": ImageFormat("Pixar", (".pxr",)),
    "XBM": ImageFormat("Xbm", (".xbm",)),
    "XPM": ImageFormat("Xpm", (".xpm",)),
    "PCX": ImageFormat("Pcx", (".pcx",)),
    "DIB": ImageFormat("Bmp", (".dib",)),
    "PCD": ImageFormat("Pcd", (".pcd",)),
    "TGA": ImageFormat("Tga", (".tga", ".icb", ".vda", ".vst")),
}
HEIF_SUFFIXES = (".heic", ".heif", ".hif")  # with the extra `heic`
RAW_SUFFIXES = (  # with the extra `raw`
    *(".cr2", ".cr3", ".nef", ".nrw", ".arw", ".dng", ".orf", ".rw2", ".raf", ".pef", ".srw"),
)
# Files that may hold several pictures; all but the first are no images of data sets, and are read by what takes inputs.
TIFF_SUFFIXES = FORMATS["TIFF"].suffixes
PDF_SUFFIXES = (".pdf",)  # with the extra `pdf`
VIDEO_SUFFIXES = (  # with the extra `video`
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".mts", ".m2ts", ".wmv", ".flv", ".ogv"),
    *(".3gp", ".3g2"),
)

# Made by systems beside the user's own: copies of attributes, thumbnails, bins.
JUNK_FOLDERS = frozenset({"__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found"})

# Pictures that need something else first; by suffix, what helps.
_ADVICE = {
    **dict.fromkeys(HEIF_SUFFIXES, "install miil21k[heic]"),
    **dict.fromkeys(PDF_SUFFIXES, "install miil21k[pdf]"),
    **dict.fromkeys(VIDEO_SUFFIXES, "install miil21k[video]"),
    **dict.fromkeys(RAW_SUFFIXES, "install miil21k[raw]"),
    **dict.fromkeys((".zip", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar"), "unpack them"),
}
# Where each file is one picture, as in class folders: what helps instead.
_ADVICE_FOR_ONE = {
    **dict.fromkeys(PDF_SUFFIXES, "give their pages as images"),
    **dict.fromkeys(VIDEO_SUFFIXES, "give their frames as images"),
}
_KINDS_SHOWN = 6


@cache
def image_suffixes() -> frozenset[str]:
    """Return the suffixes of the pictures that can be read here, in lower case, with their dot."""
    known = {suffix for each in FORMATS.values() for suffix in each.suffixes}
    further = (reads_heif(), HEIF_SUFFIXES), (reads_raw(), RAW_SUFFIXES)
    return frozenset(known.union(*(suffixes for can, suffixes in further if can)))


def reads_heif() -> bool:
    """Return whether the package for HEIC and HEIF is installed."""
    return importlib.util.find_spec("pillow_heif") is not None


@cache
def document_suffixes() -> frozenset[str]:
    """Return the suffixes of files that are no images of data sets, and hold pictures that can be read here."""
    readable = (reads_pdf(), PDF_SUFFIXES), (reads_video(), VIDEO_SUFFIXES)
    return frozenset(suffix for can, suffixes in readable if can for suffix in suffixes)


def reads_pdf() -> bool:
    """Return whether the package for PDF is installed."""
    return importlib.util.find_spec("pypdfium2") is not None


def reads_video() -> bool:
    """Return whether the package for video is installed."""
    return importlib.util.find_spec("av") is not None


def reads_raw() -> bool:
    """Return whether the package for raw files of cameras is installed."""
    return importlib.util.find_spec("rawpy") is not None


def suffix_of(name: str) -> str:
    """Return the last suffix of a name in lower case, with its dot; empty when there is none."""
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 - a name, that of a member of an archive too


def is_image_name(name: str) -> bool:
    """Return whether a name, not that of a hidden file, ends as pictures do."""
    return suffix_of(name) in image_suffixes() and not name.rpartition("/")[2].startswith(".")


class PassedOver:
    """What was met in folders and is no picture, counted by kind.

    single: each file is one picture here, so that files of pages and frames are none with any extra.
    """

    def __init__(self, *, single: bool = False) -> None:
        self.kinds: Counter[str] = Counter()
        self._advice = {**_ADVICE, **_ADVICE_FOR_ONE} if single else _ADVICE

    def __repr__(self) -> str:
        return f"PassedOver({dict(self.kinds)})"

    def add(self, name: str) -> None:
        """Count the file `name`."""
        self.kinds[suffix_of(name) or "without a suffix"] += 1

    def add_folder(self, name: str) -> None:
        """Count the folder `name`, one of `JUNK_FOLDERS`."""
        self.kinds[f"folder {name}"] += 1

    def sentence(self) -> str:
        """Return "7 passed over: 4 .heic (install miil21k[heic]), 3 .mp4", most frequent first; empty for nothing."""
        if not self.kinds:
            return ""
        ranked = sorted(self.kinds.items(), key=lambda item: (-item[1], item[0]))
        parts = [
            f"{count:,} {printable(kind)}" + (f" ({self._advice[kind]})" if kind in self._advice else "")
            for kind, count in ranked[:_KINDS_SHOWN]
        ]
        rest = sum(count for _, count in ranked[_KINDS_SHOWN:])
        if rest:
            parts.append(f"{rest:,} of other kinds")
        return f"{sum(self.kinds.values()):,} passed over: {', '.join(parts)}"
