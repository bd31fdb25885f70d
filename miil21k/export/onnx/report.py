"""What is written beside an export: what it says about itself, and the proof; or the error when it misses a bound."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from miil21k.errors import ExportError
from miil21k.export.onnx.proof import BOUNDS

if TYPE_CHECKING:
    from pathlib import Path

    from miil21k.export.onnx.proof import Proof
    from miil21k.zoo.export_card import ExportCard

__all__ = ["card_facts", "report_of", "report_path", "require_within_bounds"]

REPORT_SCHEMA = 1


def report_path(output: Path) -> Path:
    """Return where the report of an export is kept."""
    return output.with_name(f"{output.name}.json")


def require_within_bounds(proof: Proof, name: str) -> None:
    """Raise ExportError, naming the first measurements, when the export of `name` misses a bound."""
    if proof.failures:
        raise ExportError(
            f"The export of '{name}' does not compute what the model computes, so it was not kept: "
            f"{'; '.join(proof.failures[:3])}{'; ...' if len(proof.failures) > 3 else ''}."
        )


def card_facts(card: ExportCard) -> dict[str, Any]:
    """Return what an export says about itself as JSON values, without the texts of label space and concepts."""
    known: dict[str, Any] = {key: value for key, value in card.to_metadata().items() if not key.endswith("_text")}
    for key in ("preprocess", "decoding", "versions", "quantization"):
        known[key] = json.loads(known[key])
    return {"schema": REPORT_SCHEMA, **known}


def report_of(card: ExportCard, proof: Proof, photographs: int, runtime: str, facts: dict[str, Any]) -> dict[str, Any]:
    """Return card, `facts` and measurements as JSON values, for people and other languages."""
    known = card_facts(card)
    tree = card.space.tree
    wnids, names = card.answer_words()
    return {
        **known,
        **facts,
        "num_classes": tree.num_classes,
        "wnids": list(wnids),
        "names": list(names),
        "parents": tree.parent.tolist(),
        "proof": {
            "runtime": runtime,
            "photographs": photographs,
            "bounds": vars(BOUNDS),
            "worst": proof.worst(),
            "rows": proof.rows,
        },
    }
