"""`miil21k bundle create` and `miil21k bundle install`: weights for machines without a network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from miil21k.cli.options import add_options
from miil21k.errors import BundleError, UsageError
from miil21k.runtime.options import ModelOptions
from miil21k.zoo.manifest import find_weights

if TYPE_CHECKING:
    import argparse

__all__ = ["HELP", "configure", "run"]

HELP = "Carry weights to a machine without a network: one tar with files, rows, label spaces and digests."


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the two verbs of `miil21k bundle`."""
    verbs = parser.add_subparsers(dest="bundle_verb", metavar="create|install", required=True)
    create = verbs.add_parser("create", help="write a bundle; what is not cached is downloaded first")
    create.add_argument("names", nargs="+", metavar="NAME", help="names or aliases")
    create.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.tar")
    create.add_argument(
        "--calibration",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="add one for NAME: a file of miil21k calibrate, or hf-hub:OWNER/REPOSITORY; repeatable",
    )
    create.add_argument(
        "--installer",
        nargs="?",
        const="",
        metavar="EXTRA,...",
        help="write download.sh and install.sh beside it: the first makes one file to carry, of the bundle, the "
        "packages of miil21k and the second, which installs all of it on a machine without a network",
    )
    place = dict.fromkeys(("cache_dir", "offline"))
    add_options(create, ModelOptions, only=place, defaults=place)
    install = verbs.add_parser("install", help="check a bundle and put its files into the cache")
    install.add_argument("bundle", type=Path, metavar="FILE.tar")
    add_options(install, ModelOptions, only=["cache_dir"], defaults={"cache_dir": None})


def run(args: argparse.Namespace) -> int:
    """Run one of the two verbs; prints what the bundle holds."""
    return _create(args) if args.bundle_verb == "create" else _install(args)


def _create(args: argparse.Namespace) -> int:
    from miil21k.store.bundle import create_bundle
    from miil21k.zoo.names import named_calibration

    rows = list({row.name: row for row in map(find_weights, args.names)}.values())
    calibrations = {}
    for text in args.calibration:
        name, mark, file = text.partition("=")
        if not mark or (row := find_weights(name)) not in rows:
            raise UsageError(f"--calibration {text}: write NAME=FILE with a NAME of this bundle.")
        calibrations[row.name] = named_calibration(file, cache_dir=args.cache_dir, offline=args.offline)
    if args.installer is not None:
        args.output.absolute().parent.mkdir(parents=True, exist_ok=True)
    try:
        index = create_bundle(
            rows, args.output, calibrations=calibrations, cache_dir=args.cache_dir, offline=args.offline
        )
    except OSError as error:
        raise BundleError(f"Cannot write {args.output}: {error.strerror or error}.") from None
    scripts: tuple[Path, ...] = ()
    if args.installer is not None:
        from miil21k.store.installer import write_installer

        scripts = write_installer(
            args.output, [row.name for row in rows], list(filter(None, args.installer.split(",")))
        )
    size = sum(member.size for member in index.members)
    print(f"{args.output}: {', '.join(entry.name for entry in index.entries)}, {size / 1e6:.1f} MB")
    if scripts:
        print("\n".join(map(str, scripts)))
    return 0


def _install(args: argparse.Namespace) -> int:
    from miil21k.store.bundle import calibration_path, install_bundle
    from miil21k.store.cache import Cache

    index = install_bundle(args.bundle, cache_dir=args.cache_dir)
    cache = Cache.at(args.cache_dir)
    for entry in index.entries:
        print(f"{entry.name}: {cache.file(entry.source)}")
    for member in index.members:
        if member.name.startswith("calibration/"):
            print(f"calibration: {calibration_path(cache, Path(member.name).stem)}")
    return 0
