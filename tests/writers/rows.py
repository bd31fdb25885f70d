"""Rows for the tests of the writers, in the shape that `Prediction.to_dict` gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from miil21k.data.images import ImageInput

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def inputs(names: Iterable[str]) -> Iterator[ImageInput]:
    return (ImageInput(name, name) for name in names)


def node(name: str, probability: float) -> dict[str, Any]:
    return {"wnid": f"n{sum(map(ord, name)):08d}", "name": name, "probability": probability}


def row(name: str, error: str | None = None) -> dict[str, Any]:
    """Return a row of schema 1, of an answer or of an error."""
    answer = {
        "path": [node("animal", 0.99), node("cat", 0.95)],
        "stop": {
            "reason": "hedge",
            "hedge": 0.9,
            "reading": "published",
            "level": 0.9,
            "calibrated": False,
            "refused": node("tiger cat", 0.4),
            "runner_up": None,
        },
        "topk": [node("tiger cat", 0.4), node("Egyptian cat, big", 0.3)],
    }
    return {
        "schema": 1,
        "input": name,
        "status": "error" if error else "ok",
        "error": error,
        "model": "embedded",
        "label_space": "in1k",
        "label_space_sha256": "ab" * 32,
        "removed_labels": "none",
        "backend": "torch",
        "device": "cpu",
        "dtype": "fp32",
        **({"path": [], "stop": None, "topk": []} if error else answer),
    }
