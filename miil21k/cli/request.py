"""From the parsed command line of `predict` to the values that the library takes."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miil21k.data.resizers import resolve_resizer
from miil21k.errors import UsageError
from miil21k.predict.options import PredictOptions

if TYPE_CHECKING:
    import argparse

    from miil21k.writers.output import Existing

__all__ = ["existing_output", "fingerprint", "predict_options"]

_SAME_NAME = (
    *("checkpoint", "label_space", "head", "revision", "cache_dir", "offline"),
    *("backend", "device", "dtype", "batch_size", "workers"),
    *("img_size", "crop_pct", "crop_mode", "interpolation", "resizer", "decode", "max_pixels"),
    *("topk", "threshold", "hedge", "calibration", "include_removed_labels", "levels"),
)
# Rows do not depend on these, or the note of an unfinished output records what they led to.
_FREE = {"workers", "threads", "offline", "cache_dir", "device"}


def predict_options(args: argparse.Namespace, *, single: bool = False) -> PredictOptions:
    """Return the options of the predictor; raises UsageError for values that make no sense.

    single: there is one image, for which Pillow is ready sooner than a faster resizer is imported.
    """
    given = {name: value for name in _SAME_NAME if (value := getattr(args, name)) is not None}
    if args.engine is not None:
        given.pop("workers", None)  # of the engine; each decides on its threads
    given |= {"rule": getattr(args, "rule", None)}
    given |= {"max_depth": args.level, "exif": not args.no_exif, "embeddings": args.embeddings is not None}
    given |= {"classes": _wnids(args.classes), "exclude": _wnids(args.exclude)}
    if args.under is not None:
        given["under"] = tuple(args.under)
    if args.no_hedge:
        given["hedge"] = None
    options = PredictOptions(**given)
    if single and options.resizer == "auto":
        return replace(options, resizer="pillow")
    return replace(options, resizer=resolve_resizer(options.resizer))


def _wnids(text: str | None) -> tuple[str, ...] | None:
    """Return the wnids of a comma-separated list, or of a file with one per line (what follows a wnid is ignored)."""
    if text is None:
        return None
    path = Path(text)
    if path.is_file():
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        found = [line.replace(",", " ").split()[0] for line in lines if line.strip(" ,\t")]
    elif path.suffix in (".txt", ".csv", ".tsv"):
        raise UsageError(f"There is no file '{text}'.")
    else:
        found = [part.strip() for part in text.split(",") if part.strip()]
    if not found:
        raise UsageError(f"'{text}' names no wnid.")
    return tuple(found)


def fingerprint(args: argparse.Namespace, options: PredictOptions) -> dict[str, Any]:
    """Return what the content of the rows depends on, as JSON values: a resumed run must have the same."""
    chosen = {name: value for name, value in asdict(options).items() if name not in _FREE}
    return {**chosen, "model": args.model, "on_error": args.on_error, "label_type": args.label_type}


def existing_output(args: argparse.Namespace) -> Existing:
    """Return what shall happen to an output that exists."""
    if args.resume:
        return "resume"
    if args.append:
        return "append"
    return "overwrite" if args.overwrite else "refuse"
