"""From a source to a finished target: plan, classes, shards, manifest."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from miil21k.errors import PrepareError, UsageError
from miil21k.prepare.class_job import ClassJob, prepare_class
from miil21k.prepare.codecs import fingerprint, with_codec
from miil21k.prepare.manifest import require_manifest_format
from miil21k.prepare.releases import compare_with_release
from miil21k.prepare.report import write_report
from miil21k.prepare.shards import drop_outdated_shards, shard_jobs, write_shard
from miil21k.prepare.sources import open_raw
from miil21k.prepare.split import FOLDERS
from miil21k.prepare.workspace import ENTRIES, Workspace, disk_errors, read_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from miil21k.distribute.local import Engine
    from miil21k.prepare.members import ClassUnit
    from miil21k.prepare.options import PrepareOptions
    from miil21k.prepare.sources import RawSource

__all__ = ["PrepareOutcome", "check_summary", "make_plan", "prepare", "require_well"]

PLAN_VERSION = 2
_FEW = 3


class PrepareOutcome(NamedTuple):
    """summary: what `summary.json` holds. resumed: classes that stayed as an earlier run left them."""

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
) -> PrepareOutcome:
    """Prepare `source` into `target`, or go on with what an interrupted run left; return the summary.

    release: what the result is compared with (`compare_with_release`). progress: called with the record of every
    finished class, those of an earlier run first (`resumed` is True in them), and of every finished shard (with how
    many are `finished` out of `shards`).
    The result depends on the source and the options only: neither on the engine, nor on interruptions. What could not
    be read, and damaged archives of classes, are tried again by the next run (`require_well`); of a source that was
    replaced, the classes that have changed are done again.
    Raises UsageError for a target that holds something else, PrepareError for a full disk or a source that is cut
    off, or lacks classes that it had; all leave finished work in place.
    """
    target = target.absolute()
    options = with_codec(options)
    require_manifest_format(options.manifest)
    opened = open_raw(source)
    plan = make_plan(opened, target, options, release)
    space = Workspace(target)
    with disk_errors(target):
        space.check(plan)
        with space.locked():
            if space.begin(plan):
                summary = read_json(space.summary, "classes")
                return PrepareOutcome(summary, summary["classes"]["total"])
            try:
                return _carry_out(opened, space, options, engine, plan, progress or _silent)
            except UsageError:
                space.forget_unless_begun()
                raise


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
) -> PrepareOutcome:
    ignored: list[str] = []
    found: set[str] = set()
    before = {record["id"] for record in space.records()}
    resumed = {record["id"]: record for record in space.records() if not record["again"]}
    for record in resumed.values():
        progress({**record, "resumed": True})
    counted = set(resumed)
    for record in engine.run(prepare_class, _class_jobs(source, space, options, ignored, found)):
        if "unchanged" not in record:
            resumed.pop(record["id"], None)
        if record["id"] not in counted:
            progress(record)
    _require_all(source, sorted(before - found))
    if options.format == "webdataset":
        _write_shards(space, options, engine, progress)
    summary = write_report(space, plan, ignored)
    if not summary["damaged_archives"] and not summary["unreadable"]:
        space.finish()
    return PrepareOutcome(summary, len(resumed))


def _require_all(source: RawSource, gone: list[str]) -> None:
    """Raise PrepareError for classes that the source had when they were prepared."""
    if gone:
        more = ", ..." if len(gone) > _FEW else ""
        raise PrepareError(
            f"'{source.path}' lacks {len(gone):,} classes that were prepared from it before ({', '.join(gone[:_FEW])}"
            f"{more}): bring them back and run the same command again, or give a new folder."
        )


def _write_shards(
    space: Workspace, options: PrepareOptions, engine: Engine, progress: Callable[[dict[str, Any]], None]
) -> None:
    drop_outdated_shards(space)
    counts: Counter[str] = Counter()
    for record in space.records():
        counts.update(record["places"])
    samples = {place: counts[place] for place in FOLDERS if counts[place]}
    shards = sum(-(-count // options.shard_size) for count in samples.values())
    finished = sum(1 for _ in space.shards.glob(ENTRIES))
    jobs = shard_jobs(space.target, samples, options.shard_size, options.seed)
    for done, record in enumerate(engine.run(write_shard, jobs), finished + 1):
        progress({**record, "finished": done, "shards": shards})


def _class_jobs(
    source: RawSource, space: Workspace, options: PrepareOptions, ignored: list[str], found: set[str]
) -> Iterator[ClassJob]:
    def finished(unit: ClassUnit) -> bool:
        found.add(unit.id)
        return space.is_finished(unit)

    for unit in source.units(space.spool, finished, ignored):
        yield ClassJob(unit, str(space.target), options)


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


def require_well(summary: dict[str, Any], target: Path) -> None:
    """Raise PrepareError when a part of the source could not be read, or archives of classes are damaged.

    Everything else is written, and the next run of the same command tries these classes again.
    """
    unread, damaged = summary.get("unreadable") or {}, summary["damaged_archives"]
    faults = [f"{sum(unread.values()):,} images could not be read"] if unread else []
    faults += [f"{len(damaged):,} archives of classes are damaged"] if damaged else []
    if faults:
        classes = sorted({*unread, *damaged})
        more = ", ..." if len(classes) > _FEW else ""
        raise PrepareError(
            f"{' and '.join(faults)} ({', '.join(classes[:_FEW])}{more}): mend the source and run the same command "
            f"again, only these classes are done again; to keep the data set without them, remove '{target}/.prepare'."
        )
