"""`miil21k labels`: what the pictures of an index are, for the tools that people label and train with."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from miil21k.cli.options import add_loudness
from miil21k.cli.start import log_to_stderr
from miil21k.errors import UsageError
from miil21k.find.label_formats import LABEL_FORMATS
from miil21k.text import printable

if TYPE_CHECKING:
    import argparse

HELP = "Write what the pictures of an index are, corrected or as answered: a list, COCO, Label Studio, FiftyOne."
_EXAMPLES = """examples:
  miil21k labels photos.index -f csv -o labels.csv                    every sure answer: path,label
  miil21k labels photos.index -f csv -o train.csv --corrections corrections.csv --only-corrected --only-classes
  miil21k train train.csv --partial ...                                learn from what people said
  miil21k labels photos.index -f labelstudio -o tasks.json --root photos/
  miil21k labels photos.index -f fiftyone -o dataset/
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    import argparse

    parser.epilog = _EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("index", metavar="INDEX", help="of 'miil21k index'")
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, required=True, help="a folder for fiftyone")
    parser.add_argument("-f", "--format", metavar="FORMAT", default="csv", help=f"{', '.join(LABEL_FORMATS)} (csv)")
    parser.add_argument(
        "--corrections", metavar="FILE", type=Path, help="of the gallery, .csv, .json or .jsonl: path,label,verdict"
    )
    parser.add_argument("--only-corrected", action="store_true", help="leave out what nobody corrected")
    parser.add_argument(
        "--only-classes",
        action="store_true",
        help="leave out what is no class of the model, such as animal: to train with its label space",
    )
    parser.add_argument("--root", metavar="DIR", type=Path, help="write paths relative to this folder")
    add_loudness(parser)


def run(args: argparse.Namespace) -> int:
    """Write the labels; returns 0."""
    from miil21k.find.label_formats import export_labels
    from miil21k.find.labels import labelled, read_corrections, unknown_to
    from miil21k.find.store import Index
    from miil21k.hierarchy.concepts import concepts_of

    log_to_stderr(args)
    if args.only_corrected and args.corrections is None:
        raise UsageError("--only-corrected needs --corrections FILE.")
    index = Index.open(args.index)
    corrections = None
    if args.corrections is not None:
        corrections = read_corrections(args.corrections, concepts_of(index.about.space))
        strangers = unknown_to(index, corrections)
        if strangers:
            print(
                f"{len(strangers):,} corrected pictures are not in the index and are left out: "
                f"'{printable(strangers[0])}'{' and others' if len(strangers) > 1 else ''}",
                file=sys.stderr,
            )
    found = labelled(index, corrections, corrected_only=args.only_corrected)
    if args.only_classes:
        classes = set(index.about.space.wnids)
        found = (row for row in found if row.label is not None and row.label.wnid in classes)
    done = export_labels(args.format, args.output, found, index.about.origin["model"], args.root)
    if not args.quiet:
        print(
            f"'{printable(args.output)}': {done.labelled:,} labels ({done.corrected:,} pictures corrected), "
            f"{done.pictures - done.labelled:,} pictures without one",
            file=sys.stderr,
        )
    return 0
