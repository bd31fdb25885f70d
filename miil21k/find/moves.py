"""Work on files that can be killed, gone on with, and put back: links, copies and moves with an undo file.

What is to be done is written down first, whole. Each step is done at once or not at all, never over a file that is
there, and tells afterwards that it was done; so after a kill the same plan is gone on with. Undoing goes backwards, and
leaves alone, and names, what was changed since.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from miil21k.errors import Miil21kError, UsageError
from miil21k.files import Lock, atomic, replace_file
from miil21k.records import read_json

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["KINDS", "UNDO_FILE", "Done", "FileStep", "Plan", "digest_of", "perform", "undo", "undo_path", "unfinished"]

SCHEMA = 1
UNDO_FILE = "miil21k-undo"
_BLOCK = 1 << 20


@dataclass(frozen=True)
class FileStep:
    """One thing to do. kind: a key of `KINDS`. source, target: absolute paths.

    num_bytes, modified_ns: of the source, as it was planned. sha256: of a copy's bytes. content: of a file that is
    written, whose source is empty.
    """

    kind: str
    source: str
    target: str
    num_bytes: int = 0
    modified_ns: int = 0
    sha256: str = ""
    content: str = ""


@dataclass
class Plan:
    """Steps in their order. folders: that were made for them. done: all of it was tried to its end."""

    steps: list[FileStep]
    folders: list[str] = field(default_factory=list)
    done: bool = False


class Done(NamedTuple):
    """What came of a plan. steps: how many are done now. failed: one sentence for each other one."""

    steps: int
    failed: list[str]


class _Refused(Exception):
    """A step that must not be done, in one sentence."""


def undo_path(folder: Path) -> Path:
    """Return a name for a new undo file in `folder`."""
    number, path = 1, folder / f"{UNDO_FILE}.json"
    while path.exists():
        number += 1
        path = folder / f"{UNDO_FILE}-{number}.json"
    return path


def unfinished(folder: Path) -> Path | None:
    """Return the undo file of an interrupted run in `folder`, None without any."""
    for path in sorted(folder.glob(f"{UNDO_FILE}*.json")) if folder.is_dir() else []:
        if not _read(path).done:
            return path
    return None


def perform(path: Path, plan: Plan | None = None, *, progress: Callable[[int], None] | None = None) -> Done:
    """Do the steps of `plan` that are not done, written down at `path` first; without a plan those written there.

    progress: called with how many steps were tried. Steps that cannot be done are left out, and named; the others are
    done. Raises Miil21kError where the undo file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with Lock(path.with_suffix(".lock"), busy=f"Another run is working on '{path.parent}'.", keep=False):
        if plan is None:
            plan = _read(path)
        else:  # what an earlier run did is that run's to undo
            plan.steps = [step for step in plan.steps if not KINDS[step.kind].is_done(step)]
            plan.folders = _missing_folders(plan.steps)
            if not plan.steps:
                return Done(0, [])
            _write(path, plan)
        failed = []
        for number, step in enumerate(plan.steps, 1):
            try:
                if not KINDS[step.kind].is_done(step):
                    _require_room(step)
                    Path(step.target).parent.mkdir(parents=True, exist_ok=True)
                    KINDS[step.kind].do(step)
            except _Refused as refusal:
                failed.append(str(refusal))
            except OSError as error:
                failed.append(f"'{step.source or step.target}': {error.strerror or error}.")
            if progress is not None:
                progress(number)
        kept = [step for step in plan.steps if KINDS[step.kind].is_done(step)]
        _write(path, Plan(kept, plan.folders, done=True))
    return Done(len(kept), failed)


def undo(path: Path, *, progress: Callable[[int], None] | None = None) -> Done:
    """Take back what the undo file at `path` records, the last step first.

    What was changed since is left alone and named; then the file stays with what is left, else it goes.
    Raises UsageError for what is no undo file.
    """
    if not path.is_file():
        raise UsageError(f"There is no undo file '{path}'.")
    with Lock(path.with_suffix(".lock"), busy=f"Another run is working on '{path.parent}'.", keep=False):
        plan = _read(path)
        left, failed = [], []
        for number, step in enumerate(reversed(plan.steps), 1):
            try:
                KINDS[step.kind].undo(step)
            except _Refused as refusal:
                left.append(step)
                failed.append(str(refusal))
            except OSError as error:
                left.append(step)
                failed.append(f"'{step.target}': {error.strerror or error}.")
            if progress is not None:
                progress(number)
        for folder in reversed(plan.folders):
            with suppress(OSError):  # somebody put something there
                os.rmdir(folder)
        if left:
            _write(path, Plan(left[::-1], plan.folders, done=True))
        else:
            path.unlink()
    if not left:
        with suppress(OSError):
            path.parent.rmdir()
    return Done(len(plan.steps) - len(left), failed)


# -- the steps ------------------------------------------------------------------------------------------------------


class StepKind(NamedTuple):
    """How a kind of step is done, known as done, and undone; `do` and `undo` raise `_Refused` and OSError."""

    do: Callable[[FileStep], None]
    is_done: Callable[[FileStep], bool]
    undo: Callable[[FileStep], None]


def _require_source(step: FileStep) -> None:
    try:
        state = os.stat(step.source)
    except FileNotFoundError:
        raise _Refused(f"'{step.source}' is gone.") from None
    if (state.st_size, state.st_mtime_ns) != (step.num_bytes, step.modified_ns):
        raise _Refused(f"'{step.source}' was changed since it was indexed: run 'miil21k index' again.")


def _require_room(step: FileStep) -> None:
    if os.path.lexists(step.target) and not _same_file(step):
        raise _Refused(f"'{step.target}' exists: it is left alone.")


def _same_file(step: FileStep) -> bool:
    try:
        return os.path.samefile(step.source, step.target) and not os.path.islink(step.target)
    except OSError:
        return False


def digest_of(path: str) -> str:
    """Return the hex SHA-256 of a file."""
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            found.update(block)
    return found.hexdigest()


def _symlink(step: FileStep) -> None:
    _require_source(step)
    os.symlink(step.source, step.target)


def _is_symlink(step: FileStep) -> bool:
    return os.path.islink(step.target) and os.readlink(step.target) == step.source


def _undo_symlink(step: FileStep) -> None:
    if _is_symlink(step):
        os.unlink(step.target)
    elif os.path.lexists(step.target):
        raise _Refused(f"'{step.target}' was changed since: it is left alone.")


def _hardlink(step: FileStep) -> None:
    _require_source(step)
    os.link(step.source, step.target)


def _undo_hardlink(step: FileStep) -> None:
    if _same_file(step):
        os.unlink(step.target)
    elif os.path.lexists(step.target):
        raise _Refused(f"'{step.target}' was changed since, or its original is gone: it is left alone.")


def _copy(step: FileStep) -> None:
    _require_source(step)
    target = Path(step.target)
    with atomic(target) as part:
        shutil.copy2(step.source, part)
        if digest_of(str(part)) != step.sha256:
            raise _Refused(f"'{step.source}' is not what was indexed: run 'miil21k index' again.")
        if target.exists():
            raise _Refused(f"'{target}' exists: it is left alone.")


def _is_copy(step: FileStep) -> bool:
    return os.path.isfile(step.target) and not _same_file(step) and digest_of(step.target) == step.sha256


def _undo_copy(step: FileStep) -> None:
    if not os.path.lexists(step.target):
        return
    if not _is_copy(step):
        raise _Refused(f"'{step.target}' was changed since: it is left alone.")
    if not os.path.exists(step.source):
        raise _Refused(f"'{step.target}' is left alone: its original '{step.source}' is gone.")
    os.unlink(step.target)


def _move(step: FileStep) -> None:
    if not _same_file(step):  # else killed between the two
        _require_source(step)
    _rename(step.source, step.target)


def _rename(source: str, target: str) -> None:
    """Move a file, bytes and times, never over another one: a link first, so that at any moment one name is there."""
    try:
        if not os.path.lexists(target):
            os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno == errno.EEXIST:
            raise _Refused(f"'{target}' exists: it is left alone.") from None
        with atomic(Path(target)) as part:  # another disk, or one without links
            shutil.copy2(source, part, follow_symlinks=False)
            if digest_of(str(part)) != digest_of(source):
                raise _Refused(f"'{source}' was copied wrongly: it stays where it is.") from None
    os.unlink(source)


def _is_moved(step: FileStep) -> bool:
    if os.path.lexists(step.source):
        return False
    try:
        state = os.lstat(step.target)
    except OSError:
        return False
    return (state.st_size, state.st_mtime_ns) == (step.num_bytes, step.modified_ns)


def _undo_move(step: FileStep) -> None:
    if not os.path.lexists(step.target):
        if os.path.lexists(step.source):
            return
        raise _Refused(f"'{step.target}' is gone, so '{step.source}' cannot be put back.")
    if not _same_file(step) and not _is_moved(step):
        found = step.source if os.path.lexists(step.source) else step.target
        raise _Refused(f"'{found}' was changed since: '{step.target}' stays where it is.")
    Path(step.source).parent.mkdir(parents=True, exist_ok=True)
    _rename(step.target, step.source)


def _put(step: FileStep) -> None:
    replace_file(Path(step.target), step.content)


def _is_put(step: FileStep) -> bool:
    try:
        return Path(step.target).read_text(encoding="utf-8") == step.content
    except (OSError, UnicodeDecodeError):
        return False


def _undo_put(step: FileStep) -> None:
    if _is_put(step):
        os.unlink(step.target)
    elif os.path.lexists(step.target):
        raise _Refused(f"'{step.target}' was changed since: it is left alone.")


KINDS: dict[str, StepKind] = {
    "symlink": StepKind(_symlink, _is_symlink, _undo_symlink),
    "hardlink": StepKind(_hardlink, _same_file, _undo_hardlink),
    "copy": StepKind(_copy, _is_copy, _undo_copy),
    "move": StepKind(_move, _is_moved, _undo_move),
    "write": StepKind(_put, _is_put, _undo_put),
}


# -- the undo file --------------------------------------------------------------------------------------------------


def _missing_folders(steps: Sequence[FileStep]) -> list[str]:
    """Return the folders that the steps will make, the upper ones first."""
    found: set[Path] = set()
    for step in steps:
        for folder in Path(step.target).parents:
            if folder in found or folder.exists():
                break
            found.add(folder)
    return sorted(map(str, found))


def _write(path: Path, plan: Plan) -> None:
    content = {"schema": SCHEMA, "done": plan.done, "folders": plan.folders, "steps": [asdict(s) for s in plan.steps]}
    try:
        replace_file(path, json.dumps(content, indent=0) + "\n")
    except OSError as error:
        raise Miil21kError(
            f"The undo file '{path}' cannot be written: {error.strerror}. Nothing more is done."
        ) from None


def _read(path: Path) -> Plan:
    try:
        content = read_json(path)
        if content["schema"] != SCHEMA:
            raise UsageError(f"'{path}' is of another version of miil21k.")
        steps = [FileStep(**step) for step in content["steps"]]
        if any(step.kind not in KINDS for step in steps):
            raise KeyError("kind")
        return Plan(steps, list(content["folders"]), bool(content["done"]))
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"'{path}' is no undo file of miil21k.") from None
