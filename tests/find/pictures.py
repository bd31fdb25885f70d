"""A few photographs and an index of them, for the tests of this room."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miil21k.find.build import build_index
from miil21k.find.options import IndexOptions
from miil21k.predict.options import PredictOptions
from miil21k.predict.predictor import Predictor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from miil21k.find.build import Indexed

IMAGES = Path(__file__).parents[2] / "examples" / "images"
ANSWER = PredictOptions(backend="torch", embeddings=True, facts=True, resizer="pillow", workers=0)


@cache
def predictor() -> Predictor:
    return Predictor("embedded", options=ANSWER)


@contextmanager
def answering(counts: list[int] | None = None) -> Iterator[Any]:
    """Give the predictor, and count what it is asked."""
    from copy import copy

    counting = copy(predictor())

    def stream(images: Any) -> Iterator[Any]:
        for prediction in predictor().stream(images):
            if counts is not None:
                counts.append(1)
            yield prediction

    counting.stream = stream  # type: ignore[method-assign]
    yield counting


def index(output: Path, *inputs: Path | str, asked: list[int] | None = None, **options: Any) -> Indexed:
    chosen = IndexOptions(output=str(output), **options)
    return build_index([str(name) for name in inputs], "embedded", ANSWER, chosen, partial(answering, asked))


def photographs(folder: Path) -> Path:
    """Copy the example photographs into `folder`, a few levels deep."""
    for place, file in enumerate(sorted(IMAGES.glob("*.jpg"))):
        target = folder / ("deep/er" if place % 2 else "")
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target / file.name)
    return folder
