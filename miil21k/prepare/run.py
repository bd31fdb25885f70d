"""From a source to a finished target: plan, classes, shards, manifest."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from miil21k.errors import PrepareError, UsageError
from miil21k.prepare.class_job import ClassJob, prepare_class
from miil21k.prepare.codecs import fingerprint
from miil21k.prepare.manifest import require_manifest_format
from miil21k.prepare.releases import compare_with_release
from miil21k.prepare.report import write_report
from miil21k.prepare.shards import shard_jobs, write_shard
from miil21k.prepare.sources import open_raw
from miil21k.prepare.split import FOLDERS
from miil21k.prepare.workspace import ENTRIES, Workspace, disk_errors, read_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from miil21k.distribute.local import Engine
    from miil21k.prepare.options import PrepareOptions
    from miil21k.prepare.sources import RawSource

__all__ = ["Outcome", "check_summary", "make_plan", "prepare"]

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
    progress: Callable[[dict[str, Any]], None] | None = None,
) -> Outcome:
    """Prepare `source` into `target`, or go on with what an interrupted run left; return the summary.

    release: what the result is compared with (`compare_with_release`). progress: called with the record of every
    finished class, those of an earlier run first (`resumed` is True in them), and of every finished shard (with how
    many are `finished` out of `shards`).
    The result depends on the source and the options only: neither on the engine, nor on interruptions.
    Raises UsageError for a target that holds something else, PrepareError for a full disk or a source that is cut
    off; both leave finished work in place.
    """
    require_manifest_format(options.manifest)
    opened = open_raw(source)
    plan = make_plan(opened, target, options, release)
    space = Workspace(target)
    with disk_errors(target):
        space.check(plan)
        with space.locked():
            if space.begin(plan):
                summary = read_json(space.summary, "classes")
                return Outcome(summary, summary["classes"]["total"])
            resumed = sum(1 for _ in space.units.glob(ENTRIES))
            try:
                summary = _carry_out(opened, space, options, engine, plan, progress or _silent)
            except UsageError:
                space.forget_unless_begun()
                raise
    return Outcome(summary, resumed)


def make_plan(source: RawSource, target: Path, options: PrepareOptions, release: str) -> dict[str, Any]:
    """Return what the result depends on, as JSON values.

    Raises UsageError for a target in the source, or an unknown release.
    """
    compare_with_release((), {}, release)  # a wrong name is found before the work, not after
    if target.resolve() == source.path.resolve() or source.path.resolve() in target.resolve().parents:
        raise UsageError(f"'{target}' lies in the source '{source.path}': give a folder outside.")
    return {
        "version": PLAN_VERSION,
        "source": source.identity(),
        "options": fingerprint(options),
        "release": {"expected": release},
    }


def _silent(_: dict[str, Any]) -> None:
    """Take a record, and do nothing with it."""


def _carry_out(
    source: RawSource,
    space: Workspace,
    options: PrepareOptions,
    engine: Engine,
    plan: dict[str, Any],
    progress: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    ignored: list[str] = []
    for record in space.records():
        progress({**record, "resumed": True})
    for record in engine.run(prepare_class, _class_jobs(source, space, options, ignored)):
        progress(record)
    if options.format == "webdataset":
        _write_shards(space, options, engine, progress)
    summary = write_report(space, plan, ignored)
    space.finish()
    return summary


def _write_shards(
    space: Workspace, options: PrepareOptions, engine: Engine, progress: Callable[[dict[str, Any]], None]
) -> None:
    counts: Counter[str] = Counter()
    for record in space.records():
        counts.update(record["places"])
    samples = {place: counts[place] for place in FOLDERS if counts[place]}
    shards = sum(-(-count // options.shard_size) for count in samples.values())
    finished = sum(1 for _ in space.shards.glob(ENTRIES))
    jobs = shard_jobs(space.target, samples, options.shard_size, options.seed)
    for done, record in enumerate(engine.run(write_shard, jobs), finished + 1):
        progress({**record, "finished": done, "shards": shards})


def _class_jobs(source: RawSource, space: Workspace, options: PrepareOptions, ignored: list[str]) -> Iterator[ClassJob]:
    for unit in source.units(space.spool, space.is_finished, ignored):
        yield ClassJob(unit, str(space.target.absolute()), options)


def check_summary(summary: dict[str, Any], source: str, *, strict: bool) -> None:
    """Raise PrepareError when the result, which is written, or a dry run says so, holds no image at all.

    strict: also for deviations from the release, failed images and damaged archives.
    """
    images = summary["images"]
    if not any(images.get(place) for place in FOLDERS):
        raise PrepareError(
            f"'{source}' gives no image, all {sum(images.values()):,} members failed: give the outer archive, a folder "
            "of per-class tars, or class folders."
        )
    faults = list(summary["release"]["deviations"])
    if images.get("failed"):
        faults.append(f"images that failed: {images['failed']:,}")
    if summary["damaged_archives"]:
        faults.append(f"damaged class archives: {len(summary['damaged_archives']):,}")
    if strict and faults:
        raise PrepareError(f"Not as asked with --strict: {'; '.join(faults)}.")
