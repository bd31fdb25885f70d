"""`miil21k find`: the pictures of an index that answer a query."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miil21k.cli.options import add_loudness, add_options, names_of, value_of
from miil21k.cli.start import log_to_stderr
from miil21k.data.cloud import is_remote
from miil21k.data.options import ReadingOptions
from miil21k.errors import UsageError
from miil21k.find.find import COUNTS, FindOptions
from miil21k.predict.options import RunOptions
from miil21k.runtime.options import ModelOptions
from miil21k.text import printable
from miil21k.writers.formats import TABLE, format_of, open_output, require_format
from miil21k.writers.rows import Shape

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from miil21k.find.find import FoundPictures
    from miil21k.find.store import Index

HELP = "Find the pictures of an index that answer a query: nouns, and, or, not, thresholds, likeness, time and place."
_EXAMPLES = """examples:
  miil21k find photos.index bird                       every picture with a bird, the surest first
  miil21k find photos.index 'bird and not parrot'      nouns may be joined, and put in brackets
  miil21k find photos.index 'bird>0.8 and water>0.1'   a comparison filters besides
  miil21k find photos.index --like cat.jpg -n 10       what looks like this picture
  miil21k find photos.index dog --since 2024-05 --near 48.137,11.575,5
  miil21k find photos.index --count-by level           what the collection holds, as a tree with counts
  miil21k find photos.index bird -f csv -o birds.csv   rows, in every format of predict
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    import argparse

    parser.epilog = _EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("index", metavar="INDEX", help="of 'miil21k index'")
    parser.add_argument("query", nargs="*", metavar="QUERY", help="nouns, wnids, and, or, not, bird>0.8; all without")
    add_options(parser, FindOptions)
    kinds = ", ".join(COUNTS)
    parser.add_argument("--count-by", metavar="KIND", choices=COUNTS, help=f"count what was found instead: {kinds}")
    add_options(parser.add_argument_group("output"), RunOptions, only={"output", "format", "overwrite"})
    add_loudness(parser.add_argument_group("messages"))


def run(args: argparse.Namespace) -> int:
    """Find; returns 0, or 1 when nothing was found."""
    from miil21k.find.find import find
    from miil21k.find.store import Index

    log_to_stderr(args)
    options, output = value_of(args, FindOptions), value_of(args, RunOptions)
    text = " ".join(args.query) or None
    if text is None and not (args.count_by or options.like or options.since or options.until or options.near):
        raise UsageError("Nothing is asked: give a query, --like, --since, --near or --count-by level.")
    index = Index.open(args.index)
    found = find(index, text, options, partial(_embedding, index) if options.like else None)
    if found.query is not None and not args.quiet:
        from miil21k.hierarchy.concepts import concepts_of

        for note in found.query.notes(concepts_of(index.about.space)):
            print(printable(note), file=sys.stderr)
    if args.count_by:
        _print_counts(index, found, args.count_by, output)
    else:
        _write(index, found, output)
    if not args.quiet:
        count = len(found.numbers)
        print(f"{count:,} of {len(index):,} pictures", file=sys.stderr)
    return 0 if len(found.numbers) else 1


def _embedding(index: Index, image: str) -> NDArray[np.float32]:
    """Return the embedding of a picture by the model of the index."""
    from miil21k.find.build import model_of
    from miil21k.predict.predictor import Predictor

    known = dict(zip(index.names, range(len(index.names)), strict=True)).get(str(Path(image).absolute()))
    if known is not None:
        import numpy as np

        own: NDArray[np.float32] = index.embeddings(np.array([known]))[0].astype(np.float32)
        return own
    made = index.about.options  # the same network on the same crop, or the embeddings could not be compared
    kept = {name: made[name] for name in (*names_of(ModelOptions), *names_of(ReadingOptions)) if name in made}
    predictor = Predictor(model_of(index.path, None), embeddings=True, workers=0, batch_size=1, **kept)
    answer = predictor.predict(image)
    if answer.error is not None or answer.embedding is None:
        raise UsageError(answer.error or f"'{image}' has no embedding.")
    return answer.embedding


def _rows(index: Index, found: FoundPictures) -> Iterator[dict[str, Any]]:
    from miil21k.find.find import row_of

    for first in range(0, len(found.numbers), 1000):
        part = found.numbers[first : first + 1000].tolist()
        for place, row in enumerate(index.rows(part), first):
            yield row_of(found, place, row)


def _write(index: Index, found: FoundPictures, output: RunOptions) -> None:
    chosen = output.format or (TABLE if output.to_stdout and sys.stdout.isatty() else None)
    shape = Shape(index.about.options.get("topk", 5), found=True)
    if not output.to_stdout:
        path = output.output
        file = open_output(chosen or format_of(path), path, shape, {}, output.existing)
        file.begin(index.about.origin)
        for row in _rows(index, found):
            file.write(row)
        file.finish()
        file.settle()
    elif chosen == TABLE:
        for row in _rows(index, found):
            print(_line(row))
    else:
        from miil21k.writers.output import RowStream

        layout = require_format(chosen or "jsonl").layout
        if layout is None:
            raise UsageError(f"{str(chosen).capitalize()} is written to a file: add --output FILE.{chosen}.")
        stream = RowStream(sys.stdout.buffer, layout(shape))
        for row in _rows(index, found):
            stream.write(row)
        stream.finish()


def _line(row: dict[str, Any]) -> str:
    path = " > ".join(node["name"] for node in row["path"][-3:]) or "not sure enough"
    numbers = "  ".join(f"{row[name]:.3f}" for name in ("similarity", "probability") if row.get(name) is not None)
    taken = f"  {row['captured'][:10]}" if row.get("captured") else ""
    return printable(f"{numbers}  {row['input']}  {path}{taken}")


def _print_counts(index: Index, found: FoundPictures, kind: str, output: RunOptions) -> None:
    from miil21k.files import replace_file
    from miil21k.find.find import count_by

    if is_remote(str(output.output)):
        raise UsageError(f"Counts go to standard output or a file of this machine, not to '{output.output}'.")
    lines = count_by(index, kind, found.numbers)
    if output.format in (None, TABLE):
        text = "".join(f"{line.pictures:7,}  {'  ' * line.depth}{printable(line.name)}\n" for line in lines)
    elif output.format in ("json", "jsonl"):
        rows = [json.dumps(line._asdict(), ensure_ascii=False) for line in lines]
        text = "\n".join(rows) + "\n" if output.format == "jsonl" else "[\n" + ",\n".join(rows) + "\n]\n"
    else:
        raise UsageError(f"Counts are printed as table, json or jsonl, not {output.format}.")
    if output.to_stdout:
        print(text, end="")
    else:
        replace_file(Path(output.output), text)
