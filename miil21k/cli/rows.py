"""Rows of plain values on standard output, as CSV or JSON lines."""

from __future__ import annotations

import csv
import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["print_csv", "print_jsonl"]


def print_jsonl(rows: Sequence[dict[str, Any]]) -> None:
    """Print one JSON object per line, in UTF-8; a byte of a name that is no UTF-8 as its escape."""
    for row in rows:
        sys.stdout.buffer.write(json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")


def print_csv(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> None:
    """Print a CSV with these columns."""
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    writer = csv.DictWriter(sys.stdout, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
