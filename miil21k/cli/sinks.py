"""Where predictions go: a table on the terminal, rows on standard output, rows in a file."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from miil21k.errors import UsageError
from miil21k.writers.formats import JsonArray, JsonLines, Separated, format_of
from miil21k.writers.labels import add_labels, label_of
from miil21k.writers.output import RowFile, RowStream

if TYPE_CHECKING:
    import argparse

    from miil21k.cli.table import Table
    from miil21k.hierarchy.spaces import LabelSpace
    from miil21k.predict.prediction import Prediction, Run
    from miil21k.writers.formats import Layout
    from miil21k.writers.output import Existing
    from miil21k.writers.parquet import ParquetFile

__all__ = ["FileSink", "Sink", "chosen_format", "open_sink"]


class Sink(Protocol):
    """What takes predictions, in order."""

    def begin(self, run: Run, space: LabelSpace, /) -> None:
        """Prepare for the first prediction; `space` holds the names of what `run` answers."""
        ...

    def write(self, prediction: Prediction) -> None:
        """Take one prediction; it is on its way when this returns."""
        ...

    def finish(self) -> None:
        """End after the last prediction."""
        ...


def chosen_format(args: argparse.Namespace) -> str:
    """Return the format of the rows; raises UsageError for one that cannot go where it shall."""
    on_stdout = args.output == "-"
    chosen: str | None = args.format
    if chosen is None and on_stdout:
        return "table" if sys.stdout.isatty() else "jsonl"
    chosen = chosen or format_of(Path(args.output))
    if chosen == "table" and not on_stdout:
        raise UsageError("A table is made for a terminal: choose json, jsonl, csv, tsv or parquet for --output.")
    if chosen == "parquet" and on_stdout:
        raise UsageError("Parquet is written to a file: add --output FILE.parquet.")
    return chosen


def open_sink(args: argparse.Namespace, options: dict[str, Any], existing: Existing, *, single: bool) -> Sink:
    """Return the sink that the command line asks for; nothing is written yet.

    options: what the rows depend on. existing: what happens to an existing file. single: whether there is one input.
    Raises UsageError, and MissingExtra for Parquet without pyarrow.
    """
    kind = chosen_format(args)
    labels = args.label_type
    if args.output == "-" and existing in ("resume", "append"):
        raise UsageError(f"--{existing} needs a file: add --output FILE.")
    if kind == "table":
        return TableSink(single, labels)
    if args.output == "-":
        return StreamSink(_layout(kind, args), labels)
    path = Path(args.output)
    options = {**options, "format": kind}
    if kind == "parquet":
        from miil21k.writers.parquet import ParquetFile

        return FileSink(ParquetFile(path, options, existing, labels=labels is not None, levels=args.levels), labels)
    return FileSink(RowFile(path, _layout(kind, args), options, existing), labels)


def _layout(kind: str, args: argparse.Namespace) -> Layout:
    if kind == "json":
        return JsonArray()
    if kind == "jsonl":
        return JsonLines()
    delimiter = "," if kind == "csv" else "\t"
    return Separated(delimiter, args.topk, labels=args.label_type is not None, levels=args.levels)


class TableSink:
    """A table on standard output."""

    def __init__(self, single: bool, label_type: str | None) -> None:
        self._single = single
        self._label_type = label_type
        self._table: Table | None = None

    def begin(self, _run: Run, space: LabelSpace) -> None:
        """Measure the terminal."""
        from miil21k.cli.table import Table

        label = None
        if self._label_type is not None:
            label = partial(label_of, space, label_type=self._label_type)
        self._table = Table(single=self._single, colour=sys.stdout.isatty(), label=label)

    def write(self, prediction: Prediction) -> None:
        """Print one prediction."""
        assert self._table is not None
        print(self._table.text(prediction), end="", flush=True)

    def finish(self) -> None:
        """Nothing follows the last line."""


class _RowSink:
    def __init__(self, label_type: str | None) -> None:
        self._label_type = label_type
        self._space: LabelSpace | None = None

    def _row(self, prediction: Prediction) -> dict[str, Any]:
        row = replace(prediction, embedding=None).to_dict()
        if self._label_type is None:
            return row
        assert self._space is not None
        return add_labels(row, self._space, self._label_type)


class StreamSink(_RowSink):
    """Rows on standard output."""

    def __init__(self, layout: Layout, label_type: str | None) -> None:
        super().__init__(label_type)
        self._layout = layout
        self._stream: RowStream | None = None

    def begin(self, _run: Run, space: LabelSpace) -> None:
        """Write what stands before the first row."""
        self._space = space
        self._stream = RowStream(sys.stdout.buffer, self._layout)

    def write(self, prediction: Prediction) -> None:
        """Write one row and flush."""
        assert self._stream is not None
        self._stream.write(self._row(prediction))

    def finish(self) -> None:
        """Write what follows the last row."""
        assert self._stream is not None
        self._stream.finish()


class FileSink(_RowSink):
    """Rows in a file that can be resumed."""

    def __init__(self, file: RowFile | ParquetFile, label_type: str | None) -> None:
        super().__init__(label_type)
        self.file = file

    def begin(self, run: Run, space: LabelSpace) -> None:
        """Open the file; raises UsageError when the rows that it keeps came from another model or device."""
        self._space = space
        self.file.begin(run._asdict())

    def write(self, prediction: Prediction) -> None:
        """Write one row."""
        self.file.write(self._row(prediction))

    def finish(self) -> None:
        """Complete the file."""
        self.file.finish()
