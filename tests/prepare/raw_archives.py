"""Raw archives as ImageNet-21K comes in them, small, with every fault that is handled."""

from __future__ import annotations

import io
import tarfile
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Entries = "Sequence[tuple[str, bytes | tarfile.TarInfo]]"


@cache
def photo(width: int = 320, height: int = 240, seed: int = 0, fmt: str = "JPEG", mode: str = "RGB") -> bytes:
    """Return an encoded image with smooth areas, edges and grain, as a photograph has them."""
    rng = np.random.default_rng([seed, width, height])
    coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
    smooth[height // 3 : height // 2, width // 4 : width // 2] = rng.integers(0, 256, 3)
    grainy = np.clip(smooth + rng.normal(0, 4, (height, width, 1)), 0, 255).astype(np.uint8)
    out = io.BytesIO()
    options = {"quality": 92} if fmt == "JPEG" else {}
    Image.fromarray(grainy).convert(mode).save(out, fmt, **options)
    return out.getvalue()


def animation() -> bytes:
    """Return a GIF of two frames, 300 x 260, first red, then blue."""
    out = io.BytesIO()
    frames = [Image.new("RGB", (300, 260), colour) for colour in ("red", "blue")]
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:])
    return out.getvalue()


def turned() -> bytes:
    """Return a JPEG of 300 x 400 stored pixels that EXIF turns to 400 x 300; its upper half is white when upright."""
    pixels = np.zeros((400, 300, 3), np.uint8)
    pixels[:, :150] = 255  # the left half as stored is the upper half after a turn to the right
    exif = Image.Exif()
    exif[0x0112] = 6
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", exif=exif, quality=95)
    return out.getvalue()


def tar(entries: Entries, *, end: bool = True) -> bytes:
    """Return a tar of (name, bytes or TarInfo); end: with the end mark."""
    blocks = []
    for name, content in entries:
        info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
        data = b"" if isinstance(content, tarfile.TarInfo) else content
        info.name, info.size = name, len(data)
        blocks.append(info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512))
    return b"".join(blocks) + (bytes(1024) if end else b"")


def link(target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    """Return a tar member that points at `target`."""
    info = tarfile.TarInfo()
    info.type, info.linkname = kind, target
    return info


def photos(wnid: str, count: int, seed: int = 0) -> list[tuple[str, bytes]]:
    """Return `count` named photos in an order that is not bytewise; every fifth is small."""
    sizes = [(320, 240), (240, 320), (300, 300), (460, 300), (200, 150)]
    return [(f"{wnid}_{i}.JPEG", photo(*sizes[i % 5], seed=(seed + i) % 7)) for i in range(count)]


FAULTS = {  # outcome of each odd member in class n00000002
    "n00000002_900.JPEG": ("train", "resized"),  # PNG inside
    "n00000002_901.JPEG": ("failed", "empty"),
    "n00000002_902.JPEG": ("failed", "damaged"),  # cut JPEG
    "n00000002_903.JPEG": ("failed", "not_an_image"),
    "n00000002_904.JPEG": ("train", "resized"),  # CMYK
    "n00000002_905.JPEG": ("train", "resized"),  # animated GIF
    "n00000002_906.JPEG": ("failed", "too_large"),
    "n00000002_907.JPEG": ("train", "resized"),  # turned by EXIF
    "n00000002_908.png": ("train", "resized"),
    "../n00000002_909.JPEG": ("failed", "unsafe_path"),
    "/n00000002_910.JPEG": ("failed", "unsafe_path"),
    "n00000002_911.JPEG": ("failed", "link"),
    "n00000002_912.JPEG": ("failed", "link"),
    "n00000002.txt": ("failed", "not_an_image_name"),
    "._n00000002_1.JPEG": ("failed", "hidden_name"),
}
MAX_PIXELS = 500 * 500


def faulty(wnid: str = "n00000002") -> list[tuple[str, bytes | tarfile.TarInfo]]:
    """Return 14 good photos, the members of `FAULTS`, and a second n00000002_3.JPEG."""
    odd: list[bytes | tarfile.TarInfo] = [
        photo(fmt="PNG"),
        b"",
        photo()[:-2000],
        b"<html>not found</html>" * 20,
        photo(mode="CMYK"),
        animation(),
        photo(600, 500),
        turned(),
        photo(fmt="PNG", seed=3),
        photo(),
        photo(),
        link("/etc/passwd"),
        link(f"{wnid}_1.JPEG", tarfile.LNKTYPE),
        b"notes",
        photo(),
    ]
    again = (f"{wnid}_3.JPEG", photo(333, 333, seed=5))
    return [*photos(wnid, 14), *zip(FAULTS, odd, strict=True), again]


def raw_classes() -> dict[str, bytes]:
    """Return tars of three kept classes (min_images=10), the second with faults, and of a small one."""
    return {
        "n00000001": tar(photos("n00000001", 13)),
        "n00000002": tar(faulty()),
        "n00000003": tar(photos("n00000003", 10, seed=2)),
        "n00000004": tar(photos("n00000004", 11, seed=4)),
    }


def write_outer(path: Path, classes: Mapping[str, bytes], mode: str = "w") -> Path:
    """Write an outer tar with `whole/<wnid>.tar` members; mode `w` or `w:gz`."""
    with tarfile.open(path, mode) as outer:  # type: ignore[call-overload]
        for wnid, data in classes.items():
            info = tarfile.TarInfo(f"whole/{wnid}.tar")
            info.size = len(data)
            outer.addfile(info, io.BytesIO(data))
    return path
