"""Data sets cut to what a laptop can train on: class folders of small pictures, made once."""

from __future__ import annotations

import random
import zipfile
from io import BytesIO
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from pathlib import Path

SUFFIXES = (".jpg", ".jpeg", ".png")


def shrink(source: Path, target: Path, side: int, most: int = 0, classes: int = 0) -> Path:
    """Write the pictures below `source`, a folder or a zip, to `target`, their shorter side `side` pixels at most.

    most: so many of each folder, drawn at random (always the same ones); 0 for all. classes: so many folders, every
    n-th by name; 0 for all. Returns `target`; what is there already is kept.
    """
    if target.exists():
        return target
    part = target.with_name(f".{target.name}.part")
    by_folder: dict[str, list[str]] = {}
    if source.is_dir():
        names = [str(path.relative_to(source)) for path in source.rglob("*")]
        opened = None
    else:
        opened = zipfile.ZipFile(source)
        names = opened.namelist()
    for name in sorted(names):
        if name.lower().endswith(SUFFIXES):
            by_folder.setdefault(name.rpartition("/")[0], []).append(name)
    folders = sorted(by_folder)
    if 0 < classes < len(folders):
        folders = [folders[place * len(folders) // classes] for place in range(classes)]
    for folder in folders:
        found = by_folder[folder]
        (part / folder).mkdir(parents=True, exist_ok=True)
        chosen = sorted(random.Random(folder).sample(found, most)) if 0 < most < len(found) else found
        for name in chosen:
            content = (source / name).read_bytes() if opened is None else opened.read(name)
            with Image.open(BytesIO(content)) as picture:
                image = picture.convert("RGB")
            scale = side / min(image.size)
            if scale < 1:
                size = tuple(max(1, round(edge * scale)) for edge in image.size)
                image = image.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)
            image.save((part / name).with_suffix(".jpg"), quality=92)
    part.rename(target)
    return target
