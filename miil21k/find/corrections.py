"""Corrections beside an index: a file of JSON lines, one per picture, that is replaced whole with every change."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from miil21k.errors import UsageError
from miil21k.files import Lock, replace_file
from miil21k.find.labels import VERDICTS
from miil21k.find.store import real_name
from miil21k.records import StrictJsonError, parse
from miil21k.text import printable

if TYPE_CHECKING:
    from collections.abc import Container
    from pathlib import Path

    from miil21k.hierarchy.concepts import Concepts

__all__ = ["CorrectionFile"]

UNDO = "undo"


class CorrectionFile:
    """Corrections at `path`, which `read_corrections` reads too. concepts: what labels are. names: the pictures."""

    def __init__(self, path: Path, concepts: Concepts, names: Container[str]) -> None:
        self.path, self._concepts, self._names = path, concepts, names

    def read(self) -> dict[str, dict[str, str]]:
        """Return the corrections by the path of their picture; raises UsageError for a damaged file."""
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return {}
        try:
            rows = [parse(line) for line in text.splitlines() if line]
            return {real_name(row["path"]): row for row in rows}
        except (StrictJsonError, KeyError, TypeError) as error:
            raise UsageError(f"'{printable(self.path)}' is damaged: {error}") from None

    def save(self, given: Any) -> None:
        """Save one correction, or take one back (verdict `undo`). given: path, label (a wnid) and verdict.

        Raises UsageError for what is none, OSError where the file cannot be written.
        """
        row = self._checked(given)
        with Lock(self.path.with_name(f".{self.path.name}.lock")):  # another server may serve the same index
            rows = self.read()
            rows.pop(row["path"], None)
            if row["verdict"] != UNDO:
                rows[row["path"]] = row
            replace_file(self.path, "".join(json.dumps(one) + "\n" for one in rows.values()))

    def _checked(self, given: Any) -> dict[str, str]:
        fields = ("path", "label", "verdict", "answer")
        if not isinstance(given, dict) or not all(isinstance(given.get(name, ""), str) for name in fields):
            raise UsageError("A correction is an object with path, label and verdict, which are text.")
        path, label, verdict, answer = (given.get(name, "") for name in fields)
        if path not in self._names:
            raise UsageError(f"'{printable(path)}' is no picture of the index.")
        if verdict not in (*VERDICTS, UNDO):
            raise UsageError(f"'{printable(verdict)}' is no verdict: there are {', '.join(VERDICTS)} and {UNDO}.")
        concept = self._concepts.index_of.get(label)
        if verdict in ("right", "is") and concept is None:
            raise UsageError(f"'{printable(label)}' is no concept of '{self._concepts.space.name}'.")
        named = concept is not None and verdict in ("right", "is")
        return {
            "path": path,
            "label": label if named else "",
            "verdict": verdict,
            "name": self._concepts.display_name(concept) if named and concept is not None else "",
            "answer": answer if answer in self._concepts.index_of else "",
            "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }
