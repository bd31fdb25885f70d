"""`miil21k models`: the trained weights of the zoo, as a table, JSON or CSV."""

from __future__ import annotations

import argparse
import csv
import json
import re
import shutil
import sys
from typing import TYPE_CHECKING, get_args

from miil21k.errors import UsageError
from miil21k.text import did_you_mean
from miil21k.zoo.manifest import load_manifest, select_weights
from miil21k.zoo.schema import Availability, SpaceName

if TYPE_CHECKING:
    from collections.abc import Sequence

    from miil21k.zoo.manifest import Weights

__all__ = ["HELP", "configure", "run"]

HELP = "List the trained weights of the zoo."
_COLUMNS = ("name", "aliases", "family", "label_space", "params", "metric", "value", "licence", "availability")
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `miil21k models`."""
    parser.add_argument("pattern", nargs="?", default="*", metavar="GLOB", help="names or aliases, e.g. 'tresnet*'")
    parser.add_argument("-f", "--format", choices=("table", "json", "csv"), default="table", help="default: table")
    parser.add_argument("--json", action="store_const", const="json", dest="format", help="the same as -f json")
    parser.add_argument("--family", help="miil21k, usi, ssl, swsl, bit or embedded")
    parser.add_argument("--label-space", choices=get_args(SpaceName), help="what the classes are")
    parser.add_argument("--max-params", type=_count, metavar="N", help="at most N parameters, e.g. 30M")
    parser.add_argument("--licence", "--license", metavar="GLOB", help="e.g. MIT, 'cc-by-nc*'")
    parser.add_argument(
        "--metric", type=_bound, action="append", default=[], metavar="NAME>=VALUE", help="e.g. 'top1>=82', repeatable"
    )
    parser.add_argument("--availability", choices=get_args(Availability), help="where the file lies")
    parser.add_argument("--available", action="store_true", help="leave out what only a failing bucket holds")
    parser.add_argument(
        "--cached", action=argparse.BooleanOptionalAction, help="only what lies, or does not lie, on this machine"
    )


def run(args: argparse.Namespace) -> int:
    """Print the rows that pass; returns 1 when none does."""
    families = sorted({w.family for w in load_manifest().models})
    if args.family is not None and args.family not in families:
        raise UsageError(f"No family '{args.family}'. Families: {', '.join(families)}.")
    rows = select_weights(
        args.pattern,
        family=args.family,
        label_space=args.label_space,
        licence=args.licence,
        availability=args.availability,
        max_params=args.max_params,
        min_metric=dict(args.metric),
    )
    if args.available:
        rows = tuple(w for w in rows if w.availability != "bucket_only")
    if args.cached is not None:
        rows = tuple(w for w in rows if _is_cached(w) == args.cached)
    {"table": _table, "json": _json, "csv": _csv}[args.format](rows)
    if not rows:
        hint = did_you_mean(args.pattern, [name for w in select_weights() for name in w.names])
        print(f"No weight passes.{hint} All of them: miil21k models", file=sys.stderr)
    return 0 if rows else 1


def _count(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kmg]?)", text.lower())
    if match is None:
        raise argparse.ArgumentTypeError(f"'{text}' is no count; write 30000000, 30M or 0.5G")
    return int(float(match[1]) * _UNITS[match[2]])


def _bound(text: str) -> tuple[str, float]:
    match = re.fullmatch(r"(\w+)\s*>=\s*(\d+(?:\.\d+)?)", text)
    names = sorted({m.name for w in load_manifest().models for m in w.metrics})
    if match is None or match[1] not in names:
        raise argparse.ArgumentTypeError(f"'{text}' is no bound; write NAME>=VALUE with NAME one of {', '.join(names)}")
    return match[1], float(match[2])


def _is_cached(weights: Weights) -> bool:
    from miil21k.store.cache import cached_path

    return cached_path(weights) is not None


def _cells(weights: Weights) -> dict[str, object]:
    metric = weights.headline
    return {
        "name": weights.name,
        "aliases": " ".join(weights.aliases),
        "family": weights.family,
        "label_space": weights.label_space,
        "params": weights.params,
        "metric": metric and metric.name,
        "value": metric and metric.value,
        "licence": weights.licence,
        "availability": weights.availability,
    }


def _json(rows: Sequence[Weights]) -> None:
    print(json.dumps([w.to_dict() for w in rows], indent=2, ensure_ascii=False))


def _csv(rows: Sequence[Weights]) -> None:
    writer = csv.DictWriter(sys.stdout, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(_cells(w) for w in rows)


def _table(rows: Sequence[Weights]) -> None:
    lines = [("name", "alias", "family", "space", "params", "accuracy", "licence", "availability")]
    for weights in rows:
        cells = _cells(weights)
        params = "?" if weights.params is None else f"{weights.params / 1e6:.2f}M"
        accuracy = f"{cells['metric']} {cells['value']}" if cells["metric"] else "-"
        lines.append(
            (
                weights.name,
                weights.aliases[0] if weights.aliases else "-",
                weights.family,
                weights.label_space or "?",
                params,
                accuracy,
                weights.licence,
                weights.availability,
            )
        )
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    shown = _fitting(widths, shutil.get_terminal_size((80, 24)).columns if sys.stdout.isatty() else None)
    for line in lines:
        print("  ".join(line[i].rjust(widths[i]) if i == 4 else line[i].ljust(widths[i]) for i in shown).rstrip())
    if missing := [lines[0][i] for i in range(len(widths)) if i not in shown]:
        print(
            f"Left out, for the width of this terminal: {', '.join(missing)} (-f csv, or a pipe, has all).",
            file=sys.stderr,
        )


def _fitting(widths: Sequence[int], room: int | None) -> list[int]:
    """Return which columns stand side by side in `room` cells, all for None; what matters least goes first."""
    shown = list(range(len(widths)))
    for column in (1, 2, 7, 3, 6, 4, 5):
        if room is None or sum(widths[i] + 2 for i in shown) - 2 <= room:
            break
        shown.remove(column)
    return shown
