"""`miil21k organize`: the pictures of an index in folders named by their answers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from miil21k.cli.options import add_loudness, add_options, value_of
from miil21k.cli.start import log_to_stderr
from miil21k.errors import UsageError
from miil21k.find.organize import OrganizeOptions
from miil21k.text import printable

if TYPE_CHECKING:
    import argparse
    from collections import Counter
    from collections.abc import Sequence


HELP = "Put the pictures of an index into folders named by their answers: as links, copies or moves that can be undone."
_EXAMPLES = """examples:
  miil21k organize photos.index sorted/ --dry-run           how many pictures would go where
  miil21k organize photos.index sorted/                     links: sorted/animal/vertebrate/bird/IMG_1.jpg
  miil21k organize photos.index sorted/ --by my_bins.csv --mode copy
  miil21k organize --undo sorted/miil21k-undo.json          take it back
"""
MOST_NAMED = 10  # of sentences about single files


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    import argparse

    parser.epilog = _EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("index", nargs="?", metavar="INDEX", help="of 'miil21k index'")
    parser.add_argument("target", nargs="?", metavar="TARGET", type=Path, help="the folder that holds the folders")
    add_options(parser, OrganizeOptions)
    parser.add_argument("--dry-run", action="store_true", help="show how many pictures would go where, and do nothing")
    add_undo(parser)
    add_loudness(parser)


def add_undo(parser: argparse.ArgumentParser) -> None:
    """Add the option that takes an earlier run back."""
    parser.add_argument("--undo", metavar="FILE", type=Path, help="take back what this undo file records, and stop")


def run(args: argparse.Namespace) -> int:
    """Organise; returns 0, or 1 when some pictures could not be placed."""
    from miil21k.find.moves import Plan, perform, undo_path
    from miil21k.find.organize import plan_organize
    from miil21k.find.store import Index

    log_to_stderr(args)
    if args.undo is not None:
        return taken_back(args.undo)
    if args.index is None or args.target is None:
        raise UsageError("Give an index and a target folder: miil21k organize photos.index sorted/ --dry-run.")
    options = value_of(args, OrganizeOptions)
    go_on(args.target)
    planned = plan_organize(Index.open(args.index), args.target, options)
    if args.dry_run:
        _show(planned.folders, args.target)
        tell(planned.left)
        return 0
    path = undo_path(args.target)
    done = perform(path, Plan(planned.steps))
    tell([*planned.left, *done.failed])
    if options.mode == "move" and done.steps:
        print(f"'miil21k index {args.target} -o {args.index}' lets the index follow.", file=sys.stderr)
    undone = f"; 'miil21k organize --undo {path}' takes it back" if done.steps else ""
    print(f"{done.steps:,} files are new{undone}.", file=sys.stderr)
    print(args.target)
    return int(bool(done.failed))


def go_on(folder: Path) -> None:
    """Finish what an interrupted run began in `folder`."""
    from miil21k.find.moves import perform, unfinished

    begun = unfinished(folder)
    if begun is not None:
        print(f"going on with the interrupted run of '{begun}'", file=sys.stderr)
        perform(begun)


def taken_back(path: Path) -> int:
    """Undo; returns the exit code."""
    from miil21k.find.moves import undo

    done = undo(path)
    tell(done.failed)
    print(f"{done.steps:,} files are as they were" + (f", {len(done.failed):,} are not" if done.failed else ""))
    return int(bool(done.failed))


def tell(sentences: Sequence[str]) -> None:
    """Print sentences about files, the first of them where they are many."""
    for sentence in sentences[:MOST_NAMED]:
        print(printable(sentence), file=sys.stderr)
    if len(sentences) > MOST_NAMED:
        print(f"... and {len(sentences) - MOST_NAMED:,} more", file=sys.stderr)


def _show(folders: Counter[str], target: Path) -> None:
    for folder, count in sorted(folders.items()):
        print(f"{count:7,}  {printable(str(target / folder))}")
    print(f"{sum(folders.values()):7,}  pictures; nothing was done")
