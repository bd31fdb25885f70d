"""A few photographs and an index of them, for the tests of this room."""

from __future__ import annotations

import hashlib
import shutil
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from miil21k.decode.compact import BOUND
from miil21k.find.build import build_index
from miil21k.find.options import IndexOptions
from miil21k.find.store import About, Index
from miil21k.hierarchy.load import load_label_space
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


def made_up(path: Path, files: list[Path], paths: list[list[tuple[str, str]]], **facts: list[Any]) -> Index:
    """An index of files whose answers are given: each path a list of (wnid, name), root first."""
    space = load_label_space("in1k")
    origin = {"model": "made-up", "label_space": space.name, "label_space_sha256": space.sha256}
    index = Index.create(str(path), About("made-up", origin, {"hedge": 0.9, "topk": 5}, "leaf_softmax", BOUND), 4)
    rows = []
    for number, (file, nodes) in enumerate(zip(files, paths, strict=True)):
        state = file.stat()
        known = {
            "input": str(file),
            "num_bytes": state.st_size,
            "modified_ns": state.st_mtime_ns,
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            "status": "ok",
            "path": [{"wnid": wnid, "name": name, "probability": 0.95} for wnid, name in nodes],
            "classes": [space.tree.index(nodes[-1][0])] if nodes and nodes[-1][0] in space.wnids else [],
            "rest": 0.0,
            "width": 10,
            "height": 10,
            "embedding": np.eye(4, dtype=np.float16)[number % 4],
        }
        known["probabilities"] = np.full(len(known["classes"]), 0.95, np.float16)
        rows.append({**known, **{name: values[number] for name, values in facts.items()}})
    index.put(rows, known=False)
    return Index.open(str(path))
