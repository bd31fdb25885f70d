"""The folder `.prepare` in a target that is being prepared: the plan, finished units, and what is not finished yet.

```
.prepare/plan.json            source, options and versions: what a later run must have the same
.prepare/units/<id>.json      one finished class: counts (written last, so it is the proof that all is in place)
.prepare/units/<id>.csv       its rows of the manifest
.prepare/samples/<id>.<place> its samples as tar blocks, with their positions beside them (webdataset)
.prepare/shards/<name>.json   one finished shard: images, bytes, SHA-256
.prepare/boot                 which start of the machine the last run belongs to
.prepare/staging, spool       what a kill may leave half done; emptied when a run begins
```
"""

from __future__ import annotations

import errno
import json
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from miil21k.errors import PrepareError, UsageError
from miil21k.files import replace_file
from miil21k.prepare.manifest import decode_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["ENTRIES", "Workspace", "disk_errors", "read_json"]

ENTRIES = "[!.]*.json"  # of a folder of the journal; what `replace_file` has not finished begins with a dot
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def disk_errors(target: Path) -> Iterator[None]:
    """Turn an OSError of the block into one sentence: a full disk, or what cannot be read or written."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise PrepareError(
                f"No space left for '{target}': free some and run the same command again, finished classes are kept."
            ) from None
        raise PrepareError(f"Cannot read or write '{error.filename or target}': {error.strerror or error}.") from None


def read_json(path: Path, *keys: str) -> dict[str, Any]:
    """Return the JSON object at `path`. Raises PrepareError when it is damaged or lacks one of `keys`."""
    try:
        values = json.loads(path.read_bytes())
        missing = [key for key in keys if key not in values]
    except (ValueError, TypeError):  # no JSON, no text, no object
        missing = ["JSON object"]
    if missing:
        raise PrepareError(f"'{path}' is damaged (no {missing[0]} in it): remove it, or prepare into a new folder.")
    return values  # type: ignore[no-any-return]


class Workspace:
    """Paths and records below `target`; see the module."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.root = target / ".prepare"
        self.units = self.root / "units"
        self.samples = self.root / "samples"
        self.shards = self.root / "shards"
        self.staging = self.root / "staging"
        self.spool = self.root / "spool"
        self.summary = target / "summary.json"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other runs out of the target. Raises UsageError when one is at work there."""
        made = not self.target.exists()
        self.target.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.target / ".prepare.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise UsageError(f"Another run is preparing '{self.target}': wait for it, or stop it first.") from None
        try:
            yield
        finally:
            lock.release()
            if not self.root.exists():  # finished, or refused before anything was done
                (self.target / ".prepare.lock").unlink(missing_ok=True)
                if made:
                    with suppress(OSError):  # it is not empty
                        self.target.rmdir()

    def begin(self, plan: dict[str, Any]) -> bool:
        """Return True when `plan` was carried out before; else make the folders ready to go on with it.

        Raises like `check`.
        """
        if self.check(plan):
            shutil.rmtree(self.root, ignore_errors=True)
            return True
        for leftover in (self.staging, self.spool):
            shutil.rmtree(leftover, ignore_errors=True)
        for folder in (self.units, self.samples, self.shards, self.staging):
            folder.mkdir(parents=True, exist_ok=True)
        for folder in (self.target, self.root, self.units, self.shards):
            for partial in folder.glob(".*.part*"):
                partial.unlink()
        self._drop_what_a_power_cut_took()
        stored = self.root / "plan.json"
        if not stored.exists():
            replace_file(stored, json.dumps(plan, indent=1).encode())
        return False

    def check(self, plan: dict[str, Any]) -> bool:
        """Return whether `plan` was carried out before; changes nothing.

        Raises UsageError when the target holds something else, or was begun with another plan.
        """
        plan = json.loads(json.dumps(plan))
        stored = self.root / "plan.json"
        if self.summary.exists():
            _same_plan(self.target, read_json(self.summary, "plan")["plan"], plan)
            return True
        if stored.exists():
            _same_plan(self.target, read_json(stored), plan)
        elif self.target.is_dir():
            if any(entry.name not in (".prepare", ".prepare.lock") for entry in self.target.iterdir()):
                raise UsageError(f"'{self.target}' is not empty, and was not begun by this command: give a new folder.")
        elif self.target.exists():
            raise UsageError(f"'{self.target}' is a file: give the folder to make.")
        return False

    def forget_unless_begun(self) -> None:
        """Remove the plan when no class is finished: the source was refused, and another one is welcome."""
        if not any(self.units.glob(ENTRIES)):
            shutil.rmtree(self.root)

    def _drop_what_a_power_cut_took(self) -> None:
        """Forget finished classes and shards whose files did not reach the disk before the machine went down.

        Records reach the disk at once (`replace_file`), images and samples when the system writes them: waiting for
        millions of files one by one would take longer than making them. A file that was lost is shorter than noted.
        """
        stored, now = self.root / "boot", _boot_id()
        if stored.exists() and stored.read_text() != now:
            for record in list(self.records()):
                if not self._is_whole(record):
                    (self.units / f"{record['id']}.json").unlink()
            for path in self.shards.glob(ENTRIES):
                shard = read_json(path, "name", "bytes")
                if _size(self.target / shard["name"]) != shard["bytes"]:
                    path.unlink()
        replace_file(stored, now)

    def _is_whole(self, record: dict[str, Any]) -> bool:
        rows = self.units / f"{record['id']}.csv"
        if not rows.exists():
            return False
        if record["samples"] is None:
            return all(_size(self.target / r.file) == r.bytes for r in decode_rows(rows.read_bytes()) if r.file)
        return all(_size(self.samples / name) == size for name, size in record["samples"].items())

    def finish(self) -> None:
        """Remove everything that only an unfinished run needs."""
        shutil.rmtree(self.root)

    def is_finished(self, unit_id: str) -> bool:
        """Say whether the class `unit_id` is in place."""
        return (self.units / f"{unit_id}.json").exists()

    def record(self, unit_id: str, values: dict[str, Any]) -> None:
        """Note that the class `unit_id` is in place."""
        replace_file(self.units / f"{unit_id}.json", json.dumps(values).encode())

    def read_record(self, unit_id: str) -> dict[str, Any]:
        """Return what was noted of the finished class `unit_id`."""
        return read_json(self.units / f"{unit_id}.json", "id")

    def records(self) -> Iterator[dict[str, Any]]:
        """Yield what was noted of every finished class, in bytewise order of their ids."""
        for unit_id in sorted(path.stem for path in self.units.glob(ENTRIES)):
            yield self.read_record(unit_id)

    def publish(self, staged: Path, final: Path) -> None:
        """Move the folder `staged` to `final`, over what an interrupted attempt may have left there."""
        final.parent.mkdir(parents=True, exist_ok=True)
        if final.exists():
            shutil.rmtree(final)
        staged.rename(final)


def _boot_id() -> str:
    """Return what changes whenever the machine starts; empty where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _same_plan(target: Path, stored: dict[str, Any], wanted: dict[str, Any]) -> None:
    differing = [
        f"{group} {name}: {stored.get(group, {}).get(name)!r}, now {wanted[group].get(name)!r}"
        for group in ("source", "options", "release")
        for name in wanted[group]
        if stored.get(group, {}).get(name) != wanted[group][name]
    ]
    if differing:
        raise UsageError(
            f"'{target}' was begun with other settings ({'; '.join(differing)}): give the same, or a new folder."
        )
