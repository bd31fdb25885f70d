"""The folder of a run: configuration, metrics as JSON lines and CSV, curves, TensorBoard when it is installed."""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
import time
from importlib import util
from typing import TYPE_CHECKING, Any

from miil21k.files import replace_file, sweep
from miil21k.records import StrictJsonError, parse, read_json
from miil21k.train.state import STATE, WEIGHTS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["Journal", "clear_run", "holds_run", "read_config", "read_unreadable", "write_config"]

CONFIG = "config.json"
RECIPE = "recipe.json"
METRICS = "metrics.jsonl"
TABLE = "metrics.csv"
CURVES = "curves.png"
UNREADABLE = "unreadable.csv"
BOARD = "tensorboard"
DRAW_EVERY = 20.0  # seconds: a picture takes half of one, and an epoch of a few images little more


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Write `config.json` of a run, and its recipe alone as `recipe.json`, which another run can be started by."""
    for name, content in ((CONFIG, config), (RECIPE, config["recipe"])):
        replace_file(folder / name, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_config(folder: Path) -> dict[str, Any] | None:
    """Return `config.json` of the run in `folder`, None when there is no run; raises StrictJsonError when damaged."""
    path = folder / CONFIG
    if not path.exists():
        return None
    config: dict[str, Any] = read_json(path)
    return config


def holds_run(folder: Path) -> bool:
    """Return whether `folder` holds a run that came to save anything; one that did not leaves nothing to lose."""
    return any((folder / name).exists() for name in (STATE, *WEIGHTS))


def clear_run(folder: Path) -> None:
    """Remove the files of a run from `folder`, and what a kill left half written; other files stay."""
    for name in (CONFIG, RECIPE, METRICS, TABLE, CURVES, UNREADABLE, STATE, *WEIGHTS):
        (folder / name).unlink(missing_ok=True)
    sweep(folder)
    shutil.rmtree(folder / BOARD, ignore_errors=True)


def read_unreadable(folder: Path) -> dict[str, str]:
    """Return image name -> reason as `unreadable.csv` of the run in `folder` has it, empty when there is none."""
    path = folder / UNREADABLE
    if not path.exists():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        return {row["image"]: row["reason"] for row in csv.DictReader(file)}


class Journal:
    """Appends the rows of a run; only the main process has one.

    Every row goes to `metrics.jsonl` at once. Rows of kind `epoch` also make up `metrics.csv`, which is rewritten whole
    at the end of an epoch, and `curves.png`, which is drawn every 20 seconds and at the end. Opening it drops the rows
    after update `resume_at`: they are of work that a killed run did after its last state file, and that is done again.
    """

    def __init__(self, folder: Path, resume_at: int) -> None:
        self.folder = folder
        self._path = folder / METRICS
        rows = [row for row in self._read() if row["update"] <= resume_at]
        self.epochs = [row for row in rows if row["kind"] == "epoch"]
        replace_file(self._path, "".join(json.dumps(row) + "\n" for row in rows))
        self._drawn, self._drawn_at = 0, time.monotonic()  # a kill may have come before the last picture
        self._board = self._open_board(resume_at)

    def _read(self) -> list[dict[str, Any]]:
        if not self._path.exists():
            return []
        whole, _, _ = self._path.read_bytes().rpartition(b"\n")  # a kill may cut the last line short
        try:
            rows = [parse(line, dict) for line in whole.splitlines()]
            if not all(isinstance(row.get("update"), int) and isinstance(row.get("kind"), str) for row in rows):
                raise StrictJsonError("a row without 'kind' and 'update'")
            return rows
        except StrictJsonError as error:
            raise error.inside(str(self._path)) from None

    def _open_board(self, resume_at: int) -> Any:
        if util.find_spec("tensorboard") is None:
            return None
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(self.folder / BOARD), purge_step=resume_at + 1)

    def write(self, kind: str, row: Mapping[str, Any]) -> None:
        """Append one row; kind `step` or `epoch`; `row` holds `update` and numbers (null stands for nan)."""
        entry = {"kind": kind, **{name: _finite(value) for name, value in row.items()}}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        if self._board is not None:
            for name, value in row.items():
                if isinstance(value, float) and math.isfinite(value):
                    self._board.add_scalar(f"{kind}/{name}", value, row["update"])
        if kind == "epoch":
            self.epochs.append(entry)
            self._rewrite_tables()
            if time.monotonic() - self._drawn_at >= DRAW_EVERY:
                self._draw_curves()

    def _rewrite_tables(self) -> None:
        columns = list(dict.fromkeys(name for row in self.epochs for name in row if name != "kind"))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.epochs)
        replace_file(self.folder / TABLE, text.getvalue())

    def write_unreadable(self, found: Mapping[str, str]) -> None:
        """Rewrite `unreadable.csv`: the images that were left out, and why."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("image", "reason"))
        writer.writerows(sorted(found.items()))
        replace_file(self.folder / UNREADABLE, text.getvalue())

    def _draw_curves(self) -> None:
        """Draw `curves.png` from the epochs so far, where matplotlib is installed."""
        if util.find_spec("matplotlib") is None:
            return
        from miil21k.train.curves import draw_curves

        draw_curves(self.epochs, self.folder / CURVES)
        self._drawn, self._drawn_at = len(self.epochs), time.monotonic()

    def close(self) -> None:
        """Draw what is not drawn yet; flush TensorBoard."""
        if len(self.epochs) > self._drawn:
            self._draw_curves()
        if self._board is not None:
            self._board.close()


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
