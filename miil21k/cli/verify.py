"""`miil21k verify`: recompute the digests of cached files."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import TYPE_CHECKING

from miil21k.cli.options import add_options
from miil21k.errors import UsageError
from miil21k.runtime.options import ModelOptions
from miil21k.zoo.manifest import load_manifest
from miil21k.zoo.names import trained_weights

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from miil21k.store.verify import Finding

__all__ = ["HELP", "configure", "run"]

HELP = "Recompute the SHA-256 of cached weights and compare it with what was published or pinned."


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `miil21k verify`."""
    parser.add_argument("names", nargs="*", metavar="NAME", help="names or aliases; each must be cached")
    parser.add_argument("--all", action="store_true", help="every cached file, converted ones and exports included")
    place = ("revision", "cache_dir")
    add_options(parser, ModelOptions, only=place, defaults=dict.fromkeys(place))
    parser.add_argument("--json", action="store_true", help="one JSON object per file")


def run(args: argparse.Namespace) -> int:
    """Print one line per file; returns 1 when one is not what it should be, or a name is not cached."""
    if bool(args.names) == args.all:
        raise UsageError("Name the weights to verify, or pass --all, one of the two.")
    good = True
    for finding in _findings(args):
        if finding is None:
            good = False
            continue
        good = good and finding.status != "mismatch"
        if args.json:
            print(json.dumps({**dataclasses.asdict(finding), "path": str(finding.path)}), flush=True)
        else:
            print(_text(finding), flush=True)
    return 0 if good else 1


def _findings(args: argparse.Namespace) -> Iterator[Finding | None]:
    """Yield what was found; None for a name without any file, after saying so."""
    from miil21k.runtime.export_cache import verify_exports
    from miil21k.store.cache import Cache
    from miil21k.store.verify import verify, verify_conversions

    cache = Cache.at(args.cache_dir)
    for weights in load_manifest().models if args.all else [trained_weights(name) for name in args.names]:
        empty = True
        for finding in verify(weights, cache, args.revision):
            empty = False
            yield finding
        if not args.all:
            yield from verify_exports(cache, weights.name)
        if empty and not args.all:
            print(f"miil21k verify: {weights.name} is not cached.", file=sys.stderr)
            yield None
    if args.all:
        yield from verify_conversions(cache)
        yield from verify_exports(cache)


def _text(finding: Finding) -> str:
    line = f"{finding.status:9} {finding.name}  {finding.path}\n          {finding.sha256}"
    if finding.status == "ok":
        return f"{line} ({finding.stated_by})"
    if finding.status == "unpinned":
        return f"{line} (no digest is known: the first use pins it)"
    own = finding.name == "converted" or finding.stated_by == "proved"
    way_out = "delete it" if own else f"miil21k fetch --force {finding.name}"
    return f"{line}\n          {finding.stated_by} is {finding.expected}; to replace the file: {way_out}"
