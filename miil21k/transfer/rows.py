"""Rows of a long run: a line each as it is done, so that a run that was interrupted repeats none."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from miil21k.errors import UsageError
from miil21k.files import replace_file
from miil21k.records import StrictJsonError, parse

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

__all__ = ["Rows"]

CONFIG, ROWS = "config.json", "runs.jsonl"


def _kept(_: Mapping[str, Any]) -> bool:
    return False


class Rows:
    """The rows of a folder, in `runs.jsonl`, by what tells them apart.

    fields: names of what does. facts: what all rows must have in common, kept in `config.json`. resume: go on with
    those that are there. again: tells which of them are to be done again. name: of the file.
    Raises UsageError where rows are there and `resume` is not asked for, where they are of other facts, and where the
    file is damaged; a last line that a kill cut short is done again.
    """

    def __init__(
        self,
        folder: Path,
        facts: Mapping[str, Any],
        fields: tuple[str, ...],
        *,
        resume: bool,
        again: Callable[[Mapping[str, Any]], bool] = _kept,
        name: str = ROWS,
    ) -> None:
        self.path, self.fields = folder / name, fields
        self.done: dict[tuple[Any, ...], dict[str, Any]] = {}
        config = folder / CONFIG
        if config.exists() and (folder / ROWS).exists():
            if not resume:
                raise UsageError(f"'{folder}' holds runs already: go on with --resume, or choose another -o.")
            differs = _differences(parse(config.read_text(encoding="utf-8"), dict), facts)
            if differs:
                raise UsageError(
                    f"The runs in '{folder}' are of other images or another split ({', '.join(differs)}): choose "
                    "another -o."
                )
        else:
            replace_file(config, json.dumps(facts, indent=2) + "\n", parents=True)
            replace_file(folder / ROWS, "")
        if self.path.exists():
            self._read(again)

    def __repr__(self) -> str:
        return f"Rows({str(self.path)!r}, {len(self.done)} rows)"

    def __contains__(self, key: tuple[Any, ...]) -> bool:
        return key in self.done

    def add(self, row: dict[str, Any]) -> None:
        """Keep a row, on the disk before this returns."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        self.done[tuple(row[field] for field in self.fields)] = row

    def _read(self, again: Callable[[Mapping[str, Any]], bool]) -> None:
        whole, _, _ = self.path.read_bytes().rpartition(b"\n")
        try:
            for row in (parse(line, dict) for line in whole.splitlines()):
                if not again(row):
                    self.done[tuple(row[field] for field in self.fields)] = row
        except (StrictJsonError, KeyError):
            raise UsageError(f"'{self.path}' is damaged: remove it, or choose another -o.") from None
        replace_file(self.path, "".join(json.dumps(row) + "\n" for row in self.done.values()))


def _differences(kept: Mapping[str, Any], facts: Mapping[str, Any]) -> list[str]:
    plain = json.loads(json.dumps(facts))
    return [name for name in {**kept, **plain} if kept.get(name) != plain.get(name)]
