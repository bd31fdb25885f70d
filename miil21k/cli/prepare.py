"""`miil21k prepare`: from the raw archive to ImageNet-21K-P; `prepare verify` and `prepare stats` for the result."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from miil21k.data.images import MAX_PIXELS
from miil21k.engines.local import LocalEngine
from miil21k.errors import UsageError
from miil21k.prepare.options import Format, Manifest, Mode, PrepareOptions, Resize, resolve_codec
from miil21k.processors import available_cpus

if TYPE_CHECKING:
    from collections.abc import Iterator

    from miil21k.engines.local import Engine

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
_CONTENT = (
    "min_images",
    "val_per_class",
    "mode",
    "size",
    "resize",
    "format",
    "shard_size",
    "seed",
    "max_pixels",
    "manifest",
)
_ALLOWED = {
    "prepare": frozenset({*_CONTENT, "codec", "engine", "address", "workers", "dry_run", "strict", "release", "json"}),
    "verify": frozenset({"release", "decode", "workers", "json", "strict"}),
    "stats": frozenset({"plot", "json"}),
}
_FAULTS_SHOWN = 20


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `miil21k prepare`, `prepare verify` and `prepare stats`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    parser.usage = "%(prog)s [options] SOURCE TARGET | verify TARGET | stats TARGET"
    parser.argument_default = argparse.SUPPRESS  # so that an option of another verb is noticed
    parser.add_argument("source", metavar="SOURCE", help="outer archive, folder of per-class tars, or class folders")
    parser.add_argument("target", metavar="TARGET", help="folder to make, or to go on with")
    _configure_content(parser.add_argument_group("what is made"))
    _configure_work(parser.add_argument_group("how it is made"))
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


def _configure_content(group: Any) -> None:  # argparse's group type is private
    group.add_argument("--min-images", type=int, metavar="N", help="keep classes with strictly more (default: 500)")
    group.add_argument("--val-per-class", type=int, metavar="N", help="first N by bytewise file name (default: 50)")
    group.add_argument("--mode", choices=get_args(Mode), help="default: squish")
    group.add_argument("--size", type=int, metavar="PIXELS", help="default: 224 for squish, 256 for short-edge")
    group.add_argument("--resize", choices=get_args(Resize), help="published aliases (default: antialiased)")
    group.add_argument("--format", choices=get_args(Format), help="default: folders")
    group.add_argument("--manifest", choices=get_args(Manifest), help="parquet needs pyarrow (default: csv)")
    group.add_argument("--shard-size", type=int, metavar="N", help="images per shard (default: 5000)")
    group.add_argument("--seed", type=int, metavar="N", help="of the order in shards (default: 0)")
    group.add_argument("--max-pixels", type=int, metavar="N", help=f"larger images fail (default: {MAX_PIXELS:,})")
    group.add_argument(
        "--codec", choices=("auto", "turbo", "pillow"), help="turbo needs the extra 'prepare' (default: auto)"
    )


def _configure_work(group: Any) -> None:
    group.add_argument("--workers", type=int, metavar="N", help="processes (default: all cores); 1 is this one")
    group.add_argument("--engine", choices=("local", "ray"), help="default: local")
    group.add_argument("--address", metavar="ADDRESS", help="of the Ray cluster, e.g. auto, head:6379")
    group.add_argument("--dry-run", action="store_true", help="say what would happen and how much space it takes")


def run(args: argparse.Namespace) -> int:
    """Do what is asked for; returns 1 when `verify` finds faults."""
    given = vars(args)
    verb = given.pop("source") if given["source"] in ("verify", "stats") else "prepare"
    for name in given.keys() - {"source", "target"} - _ALLOWED[verb]:
        owner = next(other for other, names in _ALLOWED.items() if name in names)
        raise UsageError(f"--{name.replace('_', '-')} is an option of '{owner}', not of '{verb}'.")
    if given.get("workers", 1) < 1:
        raise UsageError(f"--workers is {given['workers']}, but must be 1 or more.")
    target = Path(given.pop("target"))
    work = {"prepare": _prepare, "verify": _verify, "stats": _stats}[verb]
    return work(target, given)


def _prepare(target: Path, given: dict[str, Any]) -> int:
    from miil21k.prepare.dry_run import dry_run
    from miil21k.prepare.run import prepare

    chosen = {name: given[name] for name in _CONTENT if name in given}
    codec = resolve_codec(given.get("codec", "auto"), given.get("resize", "antialiased"))
    options = PrepareOptions(codec=codec, **chosen)
    release = given.get("release", "auto")
    if "dry_run" in given:
        _print_plan(dry_run(given["source"], options, release), "json" in given)
        return 0
    with _engine(given) as engine, _Progress() as progress:
        outcome = prepare(
            given["source"],
            target,
            options,
            engine,
            release=release,
            strict="strict" in given,
            progress=progress.update,
        )
    if outcome.resumed:
        print(f"{outcome.resumed:,} classes were finished before.", file=sys.stderr)
    _print_summary(outcome.summary, "json" in given)
    return 0


@contextmanager
def _engine(given: dict[str, Any]) -> Iterator[Engine]:
    if given.get("engine", "local") == "local":
        if "address" in given:
            raise UsageError("--address is of a Ray cluster: add --engine ray.")
        yield LocalEngine(given.get("workers") or available_cpus())
        return
    from miil21k.engines.ray_engine import RayEngine

    engine = RayEngine(given.get("address"), given.get("workers"))
    try:
        yield engine
    finally:
        engine.close()


class _Progress:
    """A bar of finished images on stderr, when that is a terminal."""

    def __enter__(self) -> _Progress:
        from tqdm import tqdm

        self._bar = tqdm(unit=" images", disable=not sys.stderr.isatty(), smoothing=0.05)
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def update(self, record: dict[str, Any]) -> None:
        """Count the images of a finished class; a shard is shown by its name."""
        if "members" in record:
            self._bar.update(record["members"])
        else:
            self._bar.set_postfix_str(record["name"])


def _print_plan(plan: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(plan, indent=1))
        return
    print(f"classes   {_counts(plan['classes'])}")
    print(f"images    {_counts(plan['images'])}")
    print(f"release   {plan['release']['name'] or 'none'}")
    print(f"space     {_size(plan['bytes'])}, at most {_size(plan['peak_bytes'])} on the way")
    print(f"          estimated from {plan['sampled']} images")
    _print_deviations(plan["release"]["deviations"])


def _print_summary(summary: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(summary, indent=1))
        return
    print(f"classes   {_counts(summary['classes'])}")
    print(f"images    {_counts(summary['images'])}, sum {summary['members']:,}")
    for outcome, count in summary["outcomes"].items():
        if outcome.startswith(("failed:", "duplicate:")):
            print(f"          {outcome.removeprefix('failed:')} {count:,}")
    print(f"release   {summary['release']['name'] or 'none'}")
    print(f"space     {_size(summary['bytes'])} from {_size(summary['source_bytes'])}")
    faults = [f"archive of {unit} {damage}" for unit, damage in summary["damaged_archives"].items()]
    _print_deviations([*summary["release"]["deviations"], *faults])


def _print_deviations(sentences: list[str]) -> None:
    for sentence in sentences[:_FAULTS_SHOWN]:
        print(f"warning: {sentence}", file=sys.stderr)
    if len(sentences) > _FAULTS_SHOWN:
        print(f"warning: and {len(sentences) - _FAULTS_SHOWN:,} more (--json shows all)", file=sys.stderr)


def _verify(target: Path, given: dict[str, Any]) -> int:
    from miil21k.prepare.verify import verify

    workers = given.get("workers") or available_cpus()
    found = verify(target, release=given.get("release", "auto"), decode="decode" in given, workers=workers)
    if "json" in given:
        print(json.dumps(found._asdict(), indent=1))
    else:
        print(f"layout    {found.layout}")
        print(f"classes   {_counts(found.classes)}")
        print(f"images    {_counts(found.images)}")
        print(f"release   {found.release['name'] or 'none'}")
        print(f"checked   {found.checked:,} files, {len(found.faults):,} faults")
        _print_deviations([*found.faults, *found.release["deviations"]])
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
    for place, counts in values["places"].items():
        print(f"{place:<12}  {counts['classes']:>7,} classes  {counts['images']:>12,} images")
    spread = ", ".join(f"{name} {value:,.0f}" for name, value in values["train_images_per_class"].items())
    print(f"per class     {spread or 'no train images'}")
    for level in values["levels"]:
        print(f"level {level['level']:>2}      {level['classes']:>7,} classes  {level['images']:>12,} images")
    return 0


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in counts.items())


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:,.0f} {unit}" if unit == "bytes" else f"{count:,.1f} {unit}"
        count /= 1000
    return f"{count:,.2f} TB"
