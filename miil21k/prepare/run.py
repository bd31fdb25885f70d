"""From a source to a finished target: plan, classes, shards, manifest."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from miil21k.errors import PrepareError, UsageError
from miil21k.prepare.class_job import ClassJob, prepare_class
from miil21k.prepare.manifest import require_manifest_format
from miil21k.prepare.releases import compare_with_release
from miil21k.prepare.report import write_report
from miil21k.prepare.shard_job import shard_jobs, write_shard
from miil21k.prepare.sources import open_source
from miil21k.prepare.split import FOLDERS
from miil21k.prepare.workspace import ENTRIES, Workspace, disk_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from miil21k.engines.local import Engine
    from miil21k.prepare.options import PrepareOptions
    from miil21k.prepare.sources import Source

__all__ = ["Outcome", "prepare"]

PLAN_VERSION = 1


class Outcome(NamedTuple):
    """summary: what `summary.json` holds. resumed: classes that an earlier run had finished (all when complete)."""

    summary: dict[str, Any]
    resumed: int


def prepare(
    source: str,
    target: Path,
    options: PrepareOptions,
    engine: Engine,
    *,
    release: str = "auto",
    strict: bool = False,
    progress: Callable[[dict[str, Any]], None] | None = None,
) -> Outcome:
    """Prepare `source` into `target`, or go on with what an interrupted run left; return the summary.

    release: what the result is compared with (`compare_with_release`). strict: deviations from it, failed images and
    damaged archives raise PrepareError, once everything is written. progress: called with the record of every
    finished class and shard.
    The result depends on the source and the options only: neither on the engine, nor on interruptions.
    Raises UsageError for a target that holds something else, PrepareError for a full disk or a source that is cut
    off; both leave finished work in place.
    """
    require_manifest_format(options.manifest)
    compare_with_release((), {}, release)  # a wrong name is found before the work, not after
    opened = open_source(source)
    if target.resolve() == opened.path.resolve() or opened.path.resolve() in target.resolve().parents:
        raise UsageError(f"'{target}' lies in the source '{source}': give a folder outside.")
    space = Workspace(target)
    with disk_errors(target), space.locked():
        plan = {
            "version": PLAN_VERSION,
            "source": opened.identity(),
            "options": options.fingerprint(),
            "release": {"expected": release},
        }
        if space.begin(plan):
            summary = json.loads(space.summary.read_bytes())
            resumed = summary["classes"]["total"]
        else:
            resumed = sum(1 for _ in space.units.glob(ENTRIES))
            summary = _carry_out(opened, space, options, engine, plan, progress)
    if strict:
        _check(summary, target)
    return Outcome(summary, resumed)


def _carry_out(
    source: Source,
    space: Workspace,
    options: PrepareOptions,
    engine: Engine,
    plan: dict[str, Any],
    progress: Callable[[dict[str, Any]], None] | None,
) -> dict[str, Any]:
    ignored: list[str] = []
    for record in engine.run(prepare_class, _class_jobs(source, space, options, ignored)):
        if progress:
            progress(record)
    if options.format == "webdataset":
        counts: Counter[str] = Counter()
        for record in space.records():
            counts.update(record["places"])
        samples = {place: counts[place] for place in FOLDERS if counts[place]}
        for record in engine.run(write_shard, shard_jobs(space.target, samples, options.shard_size, options.seed)):
            if progress:
                progress(record)
    summary = write_report(space, plan, ignored)
    space.finish()
    return summary


def _class_jobs(source: Source, space: Workspace, options: PrepareOptions, ignored: list[str]) -> Iterator[ClassJob]:
    for unit in source.units(space.spool, space.is_finished, ignored):
        yield ClassJob(unit, str(space.target.absolute()), options)


def _check(summary: dict[str, Any], target: Path) -> None:
    faults = list(summary["release"]["deviations"])
    if summary["images"].get("failed"):
        faults.append(f"{summary['images']['failed']:,} images failed")
    if summary["damaged_archives"]:
        faults.append(f"{len(summary['damaged_archives']):,} class archives are damaged")
    if faults:
        raise PrepareError(f"'{target}' is written, but not as asked with --strict: {'; '.join(faults)}.")
