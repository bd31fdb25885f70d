"""The pictures of `--save-plots`: one PNG per image, under a name that is safe and its own."""

from __future__ import annotations

import logging
import re
from collections import deque
from dataclasses import replace
from functools import lru_cache
from pathlib import PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from miil21k.data.images import load_picture
from miil21k.data.web import is_url
from miil21k.errors import ImageError, UsageError
from miil21k.plots import draw_prediction, require_matplotlib

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from miil21k.data.images import ImageInput
    from miil21k.predict.prediction import Prediction

__all__ = ["Gallery", "picture_name"]

log = logging.getLogger("miil21k.cli")
SHOWN_EDGE = 1024  # pixels: an image may be decoded down to this for its picture


def picture_name(number: int, name: str) -> str:
    """Return a file name for the picture of input `number`, which makes it unique, with what is safe of its name."""
    path = urlsplit(name).path if is_url(name) else name.replace("\\", "/")
    stem = re.sub(r"[^A-Za-z0-9._-]+", "_", PurePosixPath(path).stem).strip("._-")[:60]
    return f"{number:06d}_{stem or 'image'}.png"


class Gallery:
    """Draws predictions into a folder, which is created when it is missing.

    Predictions come in the order of the inputs that `watching` passed on.
    Raises MissingExtra without matplotlib, UsageError when the folder cannot be one.
    """

    def __init__(self, folder: Path, *, exif: bool, max_pixels: int) -> None:
        require_matplotlib()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"'{folder}' cannot be the folder of --save-plots: {error.strerror}.") from None
        self._folder = folder
        self._exif = exif
        self._max_pixels = max_pixels
        self._waiting: deque[ImageInput] = deque()
        self._number = 0

    def watching(self, inputs: Iterable[ImageInput], first: int = 0) -> Iterator[ImageInput]:
        """Yield the inputs and remember each until it is drawn; a download is kept and not repeated."""
        self._number = first
        for item in inputs:
            kept = replace(item, source=lru_cache(item.source)) if callable(item.source) else item
            self._waiting.append(kept)
            yield kept

    def draw(self, prediction: Prediction) -> None:
        """Draw the picture of the next input; one that failed has none."""
        item = self._waiting.popleft()
        self._number += 1
        if prediction.error is not None:
            return
        try:
            source = item.source() if callable(item.source) else item.source
            image = load_picture(
                source, name=item.name, exif=self._exif, max_pixels=self._max_pixels, reduce_to=SHOWN_EDGE
            ).image
        except ImageError as error:  # it was readable when it was predicted
            log.warning("no picture: %s", error)
            return
        draw_prediction(image, prediction, self._folder / picture_name(self._number, item.name))
