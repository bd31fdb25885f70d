"""`miil21k prepare`: from the raw archive to ImageNet-21K-P; `prepare verify` and `prepare stats` for the result."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miil21k.cli.options import add_options, names_of, value_of, whole
from miil21k.cli.prepare_output import (
    PrepareProgress,
    VerifyProgress,
    counts,
    print_plan,
    print_summary,
    print_warnings,
)
from miil21k.distribute.local import LocalEngine
from miil21k.environment import available_cpus
from miil21k.errors import UsageError
from miil21k.predict.options import RunOptions
from miil21k.prepare.options import PrepareOptions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from miil21k.distribute.local import Engine

__all__ = ["HELP", "configure", "run"]

HELP = "Make ImageNet-21K-P from the raw archive: filter classes, split, resize; go on after a kill."
_EPILOG = """examples:
  miil21k prepare winter21_whole.tar.gz DATA --dry-run
  miil21k prepare winter21_whole.tar.gz DATA               run it again after an interruption: it goes on
  miil21k prepare fall11_whole.tar DATA --format webdataset --release fall11 --strict
  miil21k prepare TARS DATA --engine ray --address auto
  miil21k prepare verify DATA
  miil21k prepare stats DATA --plot images.png

A source that is called verify or stats: ./verify, ./stats. To begin anew, remove TARGET or give another."""
_ALLOWED = {
    "prepare": frozenset(
        {*names_of(PrepareOptions), "engine", "address", "workers", "dry_run", "strict", "release", "json"}
    ),
    "verify": frozenset({"release", "decode", "workers", "json", "strict"}),
    "stats": frozenset({"plot", "json"}),
}
# Options that only some choices of another one heed.
_WITHOUT_EFFECT = {
    "size": ("mode", ("squish", "short-edge")),
    "resize": ("mode", ("squish", "short-edge")),
    "shard_size": ("format", ("webdataset",)),
    "seed": ("format", ("webdataset",)),
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `miil21k prepare`, `prepare verify` and `prepare stats`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    parser.usage = "%(prog)s [options] SOURCE TARGET | verify TARGET | stats TARGET"
    parser.argument_default = argparse.SUPPRESS  # so that an option of another verb is noticed
    parser.add_argument("source", metavar="SOURCE", help="outer archive, folder of per-class tars, or class folders")
    parser.add_argument("target", metavar="TARGET", help="folder to make, or to go on with")
    add_options(parser.add_argument_group("what is made"), PrepareOptions)
    work = parser.add_argument_group("how it is made")
    work.add_argument("--workers", type=whole(1), metavar="N", help="processes (default: all cores); 1 is this one")
    add_options(work, RunOptions, only=("engine", "address"))
    work.add_argument("--dry-run", action="store_true", help="say what would happen and how much space it takes")
    checks = parser.add_argument_group("checks")
    checks.add_argument(
        "--release", choices=("auto", "fall11", "winter21", "none"), help="compare with (default: auto)"
    )
    checks.add_argument(
        "--strict", action="store_true", help="return 1 for deviations, failed images, damaged archives"
    )
    checks.add_argument("--decode", action="store_true", help="verify: decode every image, not only compare hashes")
    checks.add_argument(
        "--plot", type=Path, metavar="FILE", help="stats: draw images per class and level (PNG, PDF, SVG)"
    )
    checks.add_argument("--json", action="store_true", help="print the whole result as JSON")


def run(args: argparse.Namespace) -> int:
    """Do what is asked for; returns 1 when `verify` finds faults."""
    given = vars(args).copy()
    verb = given.pop("source") if given["source"] in ("verify", "stats") else "prepare"
    for name in given.keys() - {"source", "target"} - _ALLOWED[verb]:
        owner = next(other for other, names in _ALLOWED.items() if name in names)
        raise UsageError(f"--{name.replace('_', '-')} is an option of '{owner}', not of '{verb}'.")
    target = Path(given.pop("target"))
    if verb == "prepare":
        return _prepare(target, value_of(args, PrepareOptions), given)
    return {"verify": _verify, "stats": _stats}[verb](target, given)


def _prepare(target: Path, options: PrepareOptions, given: dict[str, Any]) -> int:
    from miil21k.prepare.dry_run import dry_run
    from miil21k.prepare.run import check_summary, prepare, require_well

    for option, (owner, needed) in _WITHOUT_EFFECT.items():
        chosen = getattr(options, owner)
        if option in given and chosen not in needed:
            raise UsageError(f"--{option.replace('_', '-')} has no effect with --{owner} {chosen}: leave it out.")
    release = given.get("release", "auto")
    source, as_json, strict = given["source"], "json" in given, "strict" in given
    if "dry_run" in given:
        with PrepareProgress() as progress:
            plan = dry_run(source, target, options, release, progress.update)
        print_plan(plan, as_json)
        check_summary(plan, source, strict=strict)
        return 0
    with _engine(given) as engine, PrepareProgress() as progress:
        outcome = prepare(source, target, options, engine, release=release, progress=progress.update)
    if outcome.resumed:
        print(f"{outcome.resumed:,} classes were finished before.", file=sys.stderr)
    print_summary(outcome.summary, target, as_json)
    check_summary(outcome.summary, source, strict=strict)
    require_well(outcome.summary, target)
    return 0


@contextmanager
def _engine(given: dict[str, Any]) -> Iterator[Engine]:
    if given.get("engine", "local") == "local":
        if "address" in given:
            raise UsageError("--address is of a Ray cluster: add --engine ray.")
        yield LocalEngine(given.get("workers") or available_cpus())
        return
    from miil21k.distribute.ray_engine import RayEngine

    engine = RayEngine(given.get("address"), given.get("workers"))
    if engine.joined:
        print(f"joined the Ray cluster at '{engine.joined}'", file=sys.stderr)
    try:
        yield engine
    finally:
        engine.close()


def _verify(target: Path, given: dict[str, Any]) -> int:
    from miil21k.prepare.verify import verify

    workers = given.get("workers") or available_cpus()
    release, decode = given.get("release", "auto"), "decode" in given
    with VerifyProgress() as progress:
        found = verify(target, release=release, decode=decode, workers=workers, progress=progress.update)
    if "json" in given:
        print(json.dumps(found._asdict(), indent=1))
    else:
        print(f"layout    {found.layout}")
        print(f"classes   {counts(found.classes)}")
        print(f"images    {counts(found.images)}")
        print(f"release   {found.release['name'] or 'none'}")
        print(f"checked   {found.checked:,} files, faults {len(found.faults):,}")
        print_warnings([*found.faults, *found.release["deviations"]])
    return 1 if found.faults or ("strict" in given and found.release["deviations"]) else 0


def _stats(target: Path, given: dict[str, Any]) -> int:
    from miil21k.prepare.stats import draw_stats, image_stats

    stats = image_stats(target)
    if "plot" in given:
        draw_stats(stats, given["plot"])
    values = stats.to_dict()
    if "json" in given:
        print(json.dumps(values, indent=1))
        return 0
    for place, found in values["places"].items():
        print(f"{place.replace('_', ' '):<12}  {found['classes']:>7,} classes  {found['images']:>12,} images")
    spread = ", ".join(f"{name} {value:,.0f}" for name, value in values["train_images_per_class"].items())
    print(f"per class     {spread or 'no train images'}")
    for level in values["levels"]:
        print(f"level {level['level']:>2}      {level['classes']:>7,} classes  {level['images']:>12,} images")
    return 0
