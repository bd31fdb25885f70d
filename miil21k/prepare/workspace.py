"""The folder `.prepare` in a target that is being prepared: the plan, finished units, and what is not finished yet.

```
.prepare/plan.json            source, options and versions: what a later run must have the same
.prepare/units/<id>.json      one finished class: counts (written last, so it is the proof that all is in place)
.prepare/units/<id>.csv       its rows of the manifest
.prepare/samples/<id>.<place> its samples as tar blocks, with their positions beside them (webdataset)
.prepare/shards/<name>.json   one finished shard: images, bytes, SHA-256
.prepare/shards_of            digest of the rows of all classes that the shards are cut from
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

from miil21k import records
from miil21k.errors import PrepareError, UsageError
from miil21k.files import Lock, replace_file
from miil21k.prepare.manifest import decode_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from miil21k.prepare.members import ClassUnit

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
        values = records.read_json(path)
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
        busy = f"Another run is preparing '{self.target}': wait for it, or stop it first."
        with Lock(self.target / ".prepare.lock", busy=busy) as lock:
            try:
                yield
            finally:
                if not self.root.exists():  # finished, or refused before anything was done
                    with suppress(OSError):  # Windows removes no open file
                        lock.path.unlink()
                    with suppress(OSError):  # it is not empty
                        if made:
                            self.target.rmdir()

    def begin(self, plan: dict[str, Any]) -> bool:
        """Return True when `plan` was carried out before; else make the folders ready to go on with it.

        Raises like `check`.
        """
        if self.check(plan):
            shutil.rmtree(self.root, ignore_errors=True)
            return True
        self.summary.unlink(missing_ok=True)  # of a run whose classes are tried again
        for leftover in (self.staging, self.spool):
            shutil.rmtree(leftover, ignore_errors=True)
        for folder in (self.units, self.samples, self.shards, self.staging):
            folder.mkdir(parents=True, exist_ok=True)
        for folder in (self.target, self.root, self.units, self.shards):
            for partial in folder.glob(".*.part*"):
                partial.unlink()
        self._drop_what_a_power_cut_took()
        replace_file(self.root / "plan.json", json.dumps(plan, indent=1).encode())
        return False

    def check(self, plan: dict[str, Any]) -> bool:
        """Return whether `plan` was carried out before, with nothing left to try again; changes nothing.

        Raises UsageError when the target holds something else, or was begun with another plan. The size of the source
        belongs to the plan once all is done; before, the source may be replaced.
        """
        plan = json.loads(json.dumps(plan))
        stored = self.root / "plan.json"
        if self.is_complete():
            _same_plan(self.target, read_json(self.summary, "plan")["plan"], plan)
            return True
        if stored.exists():
            begun = read_json(stored, "source")
            if begun.get("version") != plan["version"]:
                raise UsageError(
                    f"'{self.target}' was begun by another version of miil21k: finish it with that one, or give a new "
                    "folder."
                )
            _same_plan(self.target, begun, {**plan, "source": {**plan["source"], "bytes": begun["source"]["bytes"]}})
        elif self.target.is_dir():
            if any(entry.name not in (".prepare", ".prepare.lock") for entry in self.target.iterdir()):
                raise UsageError(f"'{self.target}' is not empty, and was not begun by this command: give a new folder.")
        elif self.target.exists():
            raise UsageError(f"'{self.target}' is a file: give the folder to make.")
        return False

    def is_complete(self) -> bool:
        """Say whether a run came to its end here, and left nothing to try again (or that was thrown away)."""
        if not self.summary.exists():
            return False
        summary = read_json(self.summary, "plan")
        left = summary.get("damaged_archives") or summary.get("unreadable")
        return not left or not (self.root / "plan.json").exists()

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
        if stored.exists() and (not now or stored.read_text() != now):
            for record in list(self.records()):
                if not self._is_whole(record):
                    self.forget(record["id"])
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

    def is_finished(self, unit: ClassUnit) -> bool:
        """Say whether the class is in place, as it is in the source, and nothing of it is to be tried again."""
        record = self.find_record(unit.id)
        return record is not None and record["stamp"] == unit.stamp and not record["again"]

    def record(self, unit_id: str, values: dict[str, Any]) -> None:
        """Note that the class `unit_id` is in place."""
        replace_file(self.units / f"{unit_id}.json", json.dumps(values).encode())

    def find_record(self, unit_id: str) -> dict[str, Any] | None:
        """Return what was noted of the class `unit_id`, None before it is in place."""
        path = self.units / f"{unit_id}.json"
        return read_json(path, "id", "stamp", "digest", "again") if path.exists() else None

    def forget(self, unit_id: str) -> None:
        """Note that the class `unit_id` is not in place any more."""
        (self.units / f"{unit_id}.json").unlink(missing_ok=True)

    def records(self) -> Iterator[dict[str, Any]]:
        """Yield what was noted of every finished class, in bytewise order of their ids."""
        for unit_id in sorted(path.stem for path in self.units.glob(ENTRIES)):
            yield read_json(self.units / f"{unit_id}.json", "id", "again")

    def publish(self, staged: Path, final: Path) -> None:
        """Move the folder `staged` to `final`, over what an interrupted attempt may have left there."""
        final.parent.mkdir(parents=True, exist_ok=True)
        if final.exists():
            shutil.rmtree(final)
        staged.rename(final)


def _boot_id() -> str:
    """Return what changes whenever the machine starts; empty where the system does not say, so it may have."""
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
