"""What `miil21k prepare` and `prepare verify` show: progress on standard error, results on standard output."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from miil21k.prepare.manifest import manifest_name

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["PrepareProgress", "VerifyProgress", "counts", "print_plan", "print_summary", "print_warnings"]

_FAULTS_SHOWN = 20
_SECONDS_PER_LINE = 60  # of progress in a file


class _Lines:
    """A log: what a bar draws over and over becomes lines."""

    def write(self, text: str) -> None:
        """Print `text` when there is something in it."""
        if text.strip():
            print(text.strip(), file=sys.stderr)

    def flush(self) -> None:
        """Send on what was printed."""
        sys.stderr.flush()


def _bar(unit: str, total: int | None, done: int = 0) -> Any:
    """Return a tqdm bar on standard error; where that is no terminal, a line a minute."""
    from tqdm import tqdm

    options: dict[str, Any] = {"unit": f" {unit}", "total": total, "initial": done, "smoothing": 0.05}
    if sys.stderr.isatty():
        return tqdm(**options, file=sys.stderr, dynamic_ncols=True)
    seconds = _SECONDS_PER_LINE
    return tqdm(**options, file=_Lines(), ncols=80, mininterval=seconds, maxinterval=seconds, delay=seconds, miniters=1)


class _OneBar:
    def __init__(self) -> None:
        self._bar: Any = None

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class PrepareProgress(_OneBar):
    """Finished images, then finished shards. How many images there are is estimated from the share of the source."""

    def __init__(self) -> None:
        super().__init__()
        self._reached = 0.0
        self._shards = False

    def __enter__(self) -> PrepareProgress:
        self._bar = _bar("images", None)
        return self

    def update(self, record: dict[str, Any]) -> None:
        """Count a finished class or shard; see `prepare`."""
        if "shards" in record:
            self._shard(record["finished"], record["shards"])
            return
        self._reached = max(self._reached, record["reached"])
        if self._reached > 0:
            self._bar.total = round((self._bar.n + record["members"]) / self._reached)
        if record.get("resumed"):  # done, but not in the time of this run
            self._bar.initial += record["members"]
            self._bar.n += record["members"]
        else:
            self._bar.update(record["members"])

    def _shard(self, finished: int, shards: int) -> None:
        if not self._shards:
            self._close()
            self._shards = True
            self._bar = _bar("shards", shards, finished - 1)
        self._bar.update(1)


class VerifyProgress(_OneBar):
    """Files that are checked."""

    def __enter__(self) -> VerifyProgress:
        return self

    def update(self, checked: int, total: int) -> None:
        """Show that `checked` of `total` files are checked."""
        if self._bar is None:
            self._bar = _bar("files", total)
        self._bar.update(checked - self._bar.n)


def print_plan(plan: dict[str, Any], as_json: bool) -> None:
    """Print what a dry run found."""
    if as_json:
        print(json.dumps(plan, indent=1))
        return
    _print_counts(plan)
    print(f"space     {_size(plan['bytes'])}, at most {_size(plan['peak_bytes'])} on the way")
    print(f"          estimated from {plan['sampled']} images; {_size(plan['free_bytes'])} are free")
    if plan["finished"]:
        print(f"finished  {plan['finished']:,} classes by an earlier run")
    _print_faults(plan)
    if not plan["finished"] and plan["peak_bytes"] > plan["free_bytes"]:
        print_warnings(["that is more than there is free"])


def print_summary(summary: dict[str, Any], target: Path, as_json: bool) -> None:
    """Print what a finished run has written to `target`."""
    if as_json:
        print(json.dumps(summary, indent=1))
        return
    _print_counts(summary)
    print(f"space     {_size(summary['bytes'])} from {_size(summary['source_bytes'])}")
    print(f"manifest  {target / manifest_name(summary['plan']['options']['manifest'])}")
    _print_faults(summary)


def _print_counts(values: dict[str, Any]) -> None:
    print(f"classes   {counts(values['classes'])}")
    print(f"images    {counts(values['images'])}, sum {values['members']:,}")
    for outcome, count in values["outcomes"].items():
        if outcome.startswith(("failed:", "duplicate:")):
            print(f"          {outcome.removeprefix('failed:').replace(':', ' ')} {count:,}")
    print(f"release   {values['release']['name'] or 'none'}")


def _print_faults(values: dict[str, Any]) -> None:
    faults = [f"archive of {unit} {damage}" for unit, damage in values["damaged_archives"].items()]
    if values["ignored"]:
        more = f" and {len(values['ignored']) - 3:,} more" if len(values["ignored"]) > 3 else ""
        faults.append(f"no class, and left out: {', '.join(values['ignored'][:3])}{more}")
    print_warnings([*values["release"]["deviations"], *faults])


def print_warnings(sentences: list[str]) -> None:
    """Print the first `sentences` to standard error, and how many more there are."""
    for sentence in sentences[:_FAULTS_SHOWN]:
        print(f"warning: {sentence}", file=sys.stderr)
    if len(sentences) > _FAULTS_SHOWN:
        print(f"warning: and {len(sentences) - _FAULTS_SHOWN:,} more (--json shows all)", file=sys.stderr)


def counts(values: dict[str, int]) -> str:
    """Return `values` as one line."""
    return ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in values.items())


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:,.0f} {unit}" if unit == "bytes" else f"{count:,.1f} {unit}"
        count /= 1000
    return f"{count:,.2f} TB"
