"""`miil21k gallery`: a page to look through the pictures of an index and to correct their answers."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from miil21k.cli.options import add_loudness, add_options, value_of
from miil21k.cli.organize import tell
from miil21k.cli.start import log_to_stderr
from miil21k.find.gallery import GalleryOptions
from miil21k.text import printable

if TYPE_CHECKING:
    import argparse

HELP = "Make a page of the pictures of an index: look, search by nouns, correct the answers. It works from a file."
_EXAMPLES = """examples:
  miil21k gallery photos.index -o site/            then open site/index.html
  miil21k gallery photos.index -o photos/site --links relative      to be moved, or served, with the photographs
  miil21k labels photos.index --corrections corrections.csv -o labels.csv     what the page let you download

The same command brings the page up to date; thumbnails are made once.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    import argparse

    parser.epilog = _EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("index", metavar="INDEX", help="of 'miil21k index'")
    add_options(parser, GalleryOptions)
    add_loudness(parser)


def run(args: argparse.Namespace) -> int:
    """Make the page; returns 0, or 1 when some thumbnails could not be made."""
    from miil21k.cli.progress import ProgressBar
    from miil21k.find.gallery import build_gallery
    from miil21k.find.store import Index

    log_to_stderr(args)
    options = value_of(args, GalleryOptions)
    shown = sys.stderr.isatty() and not args.quiet
    done = build_gallery(Index.open(args.index), options, bar=partial(ProgressBar, shown))
    tell(done.failed)
    if not args.quiet:
        failed = f", {len(done.failed):,} could not be made" if done.failed else ""
        print(f"{done.pictures:,} pictures, {done.made:,} new thumbnails{failed}", file=sys.stderr)
    print(printable(Path(options.output) / "index.html"))
    return int(bool(done.failed))
