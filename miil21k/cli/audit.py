"""`miil21k audit`: which labels of the pictures of an index are likely wrong."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miil21k.cli.options import add_loudness, add_options, value_of
from miil21k.cli.organize import tell
from miil21k.cli.rows import print_csv, print_jsonl
from miil21k.cli.start import log_to_stderr
from miil21k.find.audit_index import COLUMNS, AuditOptions
from miil21k.text import printable

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

HELP = "Find pictures of an index whose label, the name of their folder or that of a list, is likely wrong."
_EXAMPLES = """examples:
  miil21k audit photos.index                              labels are folder names: wnids, or nouns
  miil21k audit photos.index --labels labels.csv --page audit.html
  miil21k audit photos.index --bins bins.csv -f csv > doubts.csv
"""


def _table(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        far = f"{row['probability']:.2f}, {row['distance']} edges"
        labels = f"{printable(row['label_name'])} -> {printable(row['suggested_name'])} ({far})"
        print(f"{row['verdict']:8}  {row['quality']:.2f}  {labels}  {printable(row['path'])}")


def _csv(rows: list[dict[str, Any]]) -> None:
    print_csv(rows, COLUMNS)


FORMATS: dict[str, Callable[[list[dict[str, Any]]], None]] = {"table": _table, "jsonl": print_jsonl, "csv": _csv}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    import argparse

    parser.epilog = _EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("index", metavar="INDEX", help="of 'miil21k index'")
    add_options(parser, AuditOptions)
    parser.add_argument("-f", "--format", choices=FORMATS, help="default: table on a terminal, jsonl in a pipe")
    parser.add_argument("--page", metavar="FILE.html", type=Path, help="write a page with the pictures, too")
    add_loudness(parser)


def run(args: argparse.Namespace) -> int:
    """Check the labels; returns 0."""
    from miil21k.data.opening import read_file
    from miil21k.find.audit_index import audit_index, audit_page
    from miil21k.find.store import Index

    log_to_stderr(args)
    options = value_of(args, AuditOptions)
    found = audit_index(Index.open(args.index), options)
    FORMATS[args.format or ("table" if sys.stdout.isatty() else "jsonl")](found.rows)
    if args.page is not None:
        from miil21k.files import replace_file

        name = Path(args.index.rstrip("/")).name
        replace_file(args.page, audit_page(f"Labels of {name}", found, read_file))
    if not args.quiet:
        tell(found.notes)
        wrong = sum(row["verdict"] == "wrong" for row in found.rows)
        print(
            f"{wrong:,} labels are likely wrong, {len(found.rows) - wrong:,} doubtful, of {found.checked:,} checked",
            file=sys.stderr,
        )
    return 0
