"""`miil21k compare`: two models, or two files of rows, over the same images."""

from __future__ import annotations

import json
import logging
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from miil21k.cli.options import add_loudness, add_options, value_of
from miil21k.cli.start import log_to_stderr, make_export, settle, starting
from miil21k.data.options import ReadingOptions
from miil21k.errors import UsageError
from miil21k.predict.options import AnswerOptions, PredictOptions, RunOptions
from miil21k.runtime.options import ComputeOptions, ModelOptions
from miil21k.text import printable

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from miil21k.predict.compare import Compared, Difference

HELP = "Compare two models, or two files of rows, over the same images: where they differ, by how much, and a page."
_EXAMPLES = """examples:
  miil21k compare embedded my.onnx photos/ -o compared/     two models: rows, differences, page
  miil21k compare before.jsonl after.jsonl                  rows that predict wrote
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    import argparse

    parser.epilog = _EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("first", metavar="A", help="a model as -m of predict takes it, or a file of rows")
    parser.add_argument("second", metavar="B", help="the same")
    parser.add_argument("inputs", nargs="*", metavar="IMAGES", help="as for predict, with two models")
    folder = "write rows, differences.jsonl, summary.json and index.html there; an interrupted run is gone on with"
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", help=folder)
    add_options(parser, RunOptions, only={"recursive"})
    add_options(parser.add_argument_group("inputs"), ReadingOptions)
    add_options(parser.add_argument_group("models"), ModelOptions, only={"cache_dir", "offline", "revision"})
    only = {"hedge", "reading", "min_bits", "topk", "include_removed_labels"}
    add_options(parser.add_argument_group("answer"), AnswerOptions, only=only)
    add_options(parser.add_argument_group("machine"), ComputeOptions)
    add_loudness(parser.add_argument_group("messages"))


def run(args: argparse.Namespace) -> int:
    """Compare; returns 0, or 1 when some images could not be read."""
    log_to_stderr(args)
    from miil21k.writers.reading import ROW_SUFFIXES

    files = [Path(name).suffix.lower() in ROW_SUFFIXES for name in (args.first, args.second)]
    if all(files):
        if args.inputs:
            raise UsageError("Two files of rows bring their images: give none.")
        paths = (Path(args.first), Path(args.second))
    elif any(files):
        raise UsageError("Compare two models, or two files of rows, not one of each.")
    else:
        if args.output is None:
            raise UsageError("Two models need a folder for their rows: add -o compared/.")
        with starting():
            paths = _predicted(args, args.output)
    return _compared(args, paths)


def _predicted(args: argparse.Namespace, folder: Path) -> tuple[Path, Path]:
    """Answer all images with both models; returns their rows."""
    from miil21k.predict.bulk import answering
    from miil21k.predict.run import run

    folder.mkdir(parents=True, exist_ok=True)
    answer = value_of(args, PredictOptions)
    paths = folder / "first.jsonl", folder / "second.jsonl"
    for model, path in zip((args.first, args.second), paths, strict=True):
        options = RunOptions(output=path, resume=path.exists(), recursive=value_of(args, RunOptions).recursive)
        logging.getLogger("miil21k.predict").info("%s", model)
        made = partial(answering, model, answer, options, make=make_export)
        run(args.inputs, model, answer, options, lambda _, made=made: made())  # type: ignore[misc]
    settle()
    return paths


def _compared(args: argparse.Namespace, paths: tuple[Path, Path]) -> int:
    from miil21k.predict.compare import comparison_page, most_different, summary

    compared = summary(_differences(paths))
    print(_text(args.first, args.second, compared), end="")
    if args.output is not None:
        from miil21k.data.opening import read_file
        from miil21k.files import atomic, replace_file

        with atomic(args.output / "differences.jsonl", parents=True) as part, part.open("wb") as file:
            for found in _differences(paths):
                if found.relation != "same" or not found.same_top:
                    file.write(json.dumps(found.to_dict(), ensure_ascii=False).encode("utf-8", "backslashreplace"))
                    file.write(b"\n")
        replace_file(args.output / "summary.json", json.dumps(compared._asdict(), indent=1) + "\n")
        worst = most_different(_differences(paths))
        page = comparison_page((args.first, args.second), compared, worst, read_file)
        replace_file(args.output / "index.html", page)
        print(f"'{args.output / 'index.html'}' shows where they differ most", file=sys.stderr)
    return int(compared.relations["error"] > 0)


def _differences(paths: tuple[Path, Path]) -> Iterator[Difference]:
    from miil21k.predict.compare import compare_rows
    from miil21k.writers.reading import read_rows

    fields = {"input", "status", "path", "topk"}
    return compare_rows(read_rows(paths[0], fields), read_rows(paths[1], fields))


_MEANINGS = {
    "same": "the same answer",
    "deeper": "B says more",
    "shallower": "A says more",
    "different": "other things",
    "none": "one gives no answer",
    "error": "could not be read",
}


def _text(first: str, second: str, compared: Compared) -> str:
    lines = [f"A {printable(first)}", f"B {printable(second)}"]
    for relation, count in compared.relations.items():
        if count:
            lines.append(f"{count:8,}  {count / compared.images:6.1%}  {_MEANINGS[relation]}")
    lines.append(f"the likeliest class is the same for {compared.same_top:.1%}")
    lines.append(f"its probability moves by {compared.mean_shift:.4f} on average, {compared.max_shift:.4f} at most")
    return "\n".join(lines) + "\n"
