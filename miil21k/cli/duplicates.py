"""`miil21k duplicates`: pictures of an index that are the same, nearly the same, or alike."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miil21k.cli.options import add_loudness, add_options, value_of
from miil21k.cli.organize import add_undo, go_on, taken_back, tell
from miil21k.cli.rows import print_csv, print_jsonl
from miil21k.cli.start import log_to_stderr
from miil21k.errors import UsageError
from miil21k.find.duplicates import DuplicateOptions
from miil21k.text import printable

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

HELP = (
    "Find pictures of an index that are the same, nearly the same, or alike; move all but the best to a trash folder."
)
_EXAMPLES = """examples:
  miil21k duplicates photos.index                          groups, the one to keep first
  miil21k duplicates photos.index --kind similar           pictures with the same content, too
  miil21k duplicates photos.index --apply --trash trash/   move all but the best of each group
  miil21k duplicates --undo trash/miil21k-undo.json        put them back

Nothing is deleted. Without --apply nothing is moved either.
"""


def _table(rows: list[dict[str, Any]]) -> None:
    group = None
    for row in rows:
        if row["group"] != group:
            group = row["group"]
            print(f"{row['kind']}:")
        size = f"{row['width']}x{row['height']}, {row['num_bytes']:,} bytes"
        print(f"  {'keep' if row['keep'] else '    '}  {printable(row['input'])}  {size}")


def _csv(rows: list[dict[str, Any]]) -> None:
    print_csv(rows, _COLUMNS)


_COLUMNS = ("group", "kind", "keep", "input", "width", "height", "num_bytes", "sha256")
FORMATS: dict[str, Callable[[list[dict[str, Any]]], None]] = {"table": _table, "jsonl": print_jsonl, "csv": _csv}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    import argparse

    parser.epilog = _EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("index", nargs="?", metavar="INDEX", help="of 'miil21k index'")
    add_options(parser, DuplicateOptions)
    parser.add_argument("-f", "--format", choices=FORMATS, help="default: table on a terminal, jsonl in a pipe")
    parser.add_argument("--apply", action="store_true", help="move all but the best of each group to the trash folder")
    parser.add_argument("--trash", metavar="DIR", type=Path, help="the trash folder (default: beside the index)")
    add_undo(parser)
    add_loudness(parser)


def run(args: argparse.Namespace) -> int:
    """Find duplicates, and move them where that was asked for; returns 0, or 1 when some could not be moved."""
    from miil21k.find.duplicates import find_duplicates, plan_trash
    from miil21k.find.moves import Plan, perform, undo_path
    from miil21k.find.store import Index

    log_to_stderr(args)
    if args.undo is not None:
        return taken_back(args.undo)
    if args.index is None:
        raise UsageError("Give an index: miil21k duplicates photos.index.")
    trash = args.trash or Path(f"{args.index.rstrip('/')}.trash")
    if args.apply:
        go_on(trash)
    index = Index.open(args.index)
    groups = find_duplicates(index, value_of(args, DuplicateOptions))
    rows = []
    for number, group in enumerate(groups, 1):
        known = index.take(group.numbers, *_COLUMNS[3:])
        for place, row in enumerate(known):
            rows.append({"group": number, "kind": group.kind, "keep": place == 0, **{n: row[n] for n in _COLUMNS[3:]}})
    FORMATS[args.format or ("table" if sys.stdout.isatty() else "jsonl")](rows)
    more = len(rows) - len(groups)
    if not args.quiet:
        print(f"{len(groups):,} groups, {more:,} pictures more than needed", file=sys.stderr)
    if not args.apply:
        return 0
    steps, left = plan_trash(index, groups, trash)
    path = undo_path(trash)
    done = perform(path, Plan(steps))
    tell([*left, *done.failed])
    undone = f"; 'miil21k duplicates --undo {path}' puts them back" if done.steps else ""
    print(f"{done.steps:,} files moved{undone}.", file=sys.stderr)
    return int(bool(done.failed))
