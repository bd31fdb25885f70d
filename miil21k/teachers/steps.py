"""A plan of steps, each done once: a step says what it depends on, and its record what came of it.

A step is done when its record holds the same facts and its output still has the digest that it had. The record is
written at the start as well, without a digest: so a step that was cut off is gone on with, and one of another plan is
noticed.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from miil21k.errors import UsageError
from miil21k.files import replace_file
from miil21k.records import FrozenMapping, read_json
from miil21k.store.integrity import sha256_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

__all__ = ["Record", "Step", "perform", "record_path"]


@dataclass(frozen=True)
class Step:
    """A step of the plan in `folder`, and the facts that its output depends on, as JSON values."""

    name: str
    folder: Path
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Record:
    """What is known of a step.

    output: the path of what it made, below the folder of the plan. sha256: of that; empty while it is not done.
    seconds: of the try that ended it. report: figures of the step.
    """

    step: str
    facts: Mapping[str, Any]
    output: str = ""
    sha256: str = ""
    seconds: float = 0.0
    report: Mapping[str, Any] = field(default_factory=lambda: FrozenMapping({}))

    def path(self, folder: Path) -> Path:
        """Return where the output lies."""
        return folder / self.output


def record_path(step: Step) -> Path:
    """Return where the record of a step lies."""
    return step.folder / f"{step.name}.step.json"


def perform(
    step: Step,
    work: Callable[[bool, bool], tuple[Path, dict[str, Any]]],
    say: Callable[[str], None],
    *,
    overwrite: bool = False,
) -> Record:
    """Do a step, unless it is done; returns its record.

    work: told whether to go on with what is there, or to start anew; returns the output and figures for the report.
    overwrite: a step that was done or begun with other facts is done anew. Raises UsageError for such a step without.
    """
    step = replace(step, facts=json.loads(json.dumps(step.facts)))
    path = record_path(step)
    before = _read(path)
    state = _state(step, before)
    if state == "done":
        assert before is not None
        say(f"{step.name}: done before, {before.output}")
        return before
    if state == "other":
        assert before is not None
        if not overwrite:
            differs = _difference(before.facts, step.facts)
            raise UsageError(
                f"'{step.folder}' holds the step '{step.name}' of another plan: {differs}. Choose "
                "another -o, or --overwrite to do it, and what follows from it, anew."
            )
    if state == "damaged":
        assert before is not None
        say(f"{step.name}: '{before.output}' is gone, or another file than it was, and is made anew.")
    say(f"{step.name}: {'goes on' if state == 'begun' else 'begins'}")
    _write(path, Record(step.name, dict(step.facts)))
    began = time.perf_counter()
    output, report = work(state == "begun", state in ("other", "damaged"))
    seconds = time.perf_counter() - began
    relative = str(output.relative_to(step.folder)) if output.is_relative_to(step.folder) else str(output)
    done = Record(step.name, dict(step.facts), relative, sha256_of(output), round(seconds, 3), report)
    _write(path, done)
    say(f"{step.name}: done in {seconds / 3600:.3f} hours, {relative}")
    return done


def _read(path: Path) -> Record | None:
    return read_json(path, Record) if path.exists() else None


def _write(path: Path, record: Record) -> None:
    content = {**vars(record), "facts": dict(record.facts), "report": dict(record.report)}
    replace_file(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n", parents=True)


def _state(step: Step, before: Record | None) -> Literal["new", "begun", "done", "damaged", "other"]:
    if before is None:
        return "new"
    if dict(before.facts) != dict(step.facts):
        return "other"
    if not before.sha256:
        return "begun"
    output = before.path(step.folder)
    return "done" if output.is_file() and sha256_of(output) == before.sha256 else "damaged"


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    names = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
    for name in names:
        old, new = before.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            return f"{name}.{_difference(old, new)}"
        return f"{name} was {old!r}, is {new!r}" + (", ..." if len(names) > 1 else "")
    return "nothing"
