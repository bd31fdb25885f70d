"""`miil21k fetch NAME...`: download weights ahead of their use, and make the exports that `predict` runs."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from miil21k.cli.options import add_options
from miil21k.cli.start import log_to_stderr, make_export
from miil21k.errors import Miil21kError, UsageError
from miil21k.runtime.options import ModelOptions
from miil21k.runtime.registry import RUNTIMES, export_runtimes
from miil21k.text import printable
from miil21k.zoo.names import trained_weights

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from miil21k.runtime.options import LoadOptions
    from miil21k.store.cache import Cache
    from miil21k.zoo.manifest import Weights

__all__ = ["HELP", "configure", "run"]

HELP = "Download weights ahead of their use, check them, export them for a fast start, and print where they lie."


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `miil21k fetch`."""
    parser.add_argument(
        "names", nargs="+", metavar="NAME", help="names or aliases, e.g. tresnet_m_21k; or timm's, resnet50.a1_in1k"
    )
    parser.add_argument("--dry-run", action="store_true", help="show the sources in order, and what is cached")
    parser.add_argument(
        "--force", action="store_true", help="download anew, and replace the cached file and its pinned digest"
    )
    parser.add_argument(
        "--accept-new",
        action="store_true",
        help="take and pin a file that nothing vouches for, where the pinned one cannot be had",
    )
    exports = parser.add_mutually_exclusive_group()
    exports.add_argument(
        "--backend",
        action="append",
        choices=export_runtimes(),
        help="make the proved export for this one, repeatable (default: each that is installed; then they are timed)",
    )
    exports.add_argument("--no-export", action="store_true", help="only the weights")
    source = ("revision", "cache_dir", "offline")
    add_options(parser, ModelOptions, only=source, defaults=dict.fromkeys(source))
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar, and no word about exports")
    parser.add_argument("--json", action="store_true", help="one JSON object per name")


def run(args: argparse.Namespace) -> int:
    """Fetch every name; one that fails does not stop the others, and makes the exit code 1."""
    from miil21k.store.cache import Cache, is_offline
    from miil21k.store.download import check_revision

    log_to_stderr(args)
    rows = [trained_weights(name, cache_dir=args.cache_dir, offline=args.offline) for name in args.names]
    for weights in rows:
        check_revision(weights, args.revision)
    if args.force and is_offline(args.offline):
        raise UsageError("--force downloads anew, but the network is off limits.")
    cache = Cache.at(args.cache_dir)
    failed = False
    for weights in rows:
        try:
            answer = _plan(weights, cache, args) if args.dry_run else _fetch(weights, args)
        except Miil21kError as error:
            failed = True
            answer = {"name": weights.name, "status": "error", "error": str(error)}
            if not args.json:
                print(f"miil21k fetch: {printable(error, lines=True)}", file=sys.stderr)
                continue
        print(json.dumps(answer) if args.json else "\n".join(_text(answer)), flush=True)
    return int(failed)


def _fetch(weights: Weights, args: argparse.Namespace) -> dict[str, Any]:
    from miil21k.store.download import fetch_anew, obtain

    shown = False if args.quiet else None
    if args.force:
        found = fetch_anew(weights, revision=args.revision, cache_dir=args.cache_dir, progress=shown)
    else:
        found = obtain(
            weights,
            revision=args.revision,
            cache_dir=args.cache_dir,
            offline=args.offline,
            progress=shown,
            accept_new=args.accept_new,
        )
    answer: dict[str, Any] = {
        "name": weights.name,
        "status": "ok",
        "path": str(found.path),
        "sha256": found.sha256,
        "source": found.source.where,
        "bytes": found.path.stat().st_size,
    }
    if not args.no_export:
        answer["exports"] = list(_exports(weights, args))
        if len(answer["exports"]) > 1:
            answer["images_per_second"] = _rates(weights, args)
    return answer


def _exports(weights: Weights, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Make the proved exports; by default none where `predict` would compute with torch all the same."""
    from miil21k.runtime.export_cache import missing_package
    from miil21k.runtime.machine import gpu_in_sight

    unused = weights.family == "timm"  # prediction starts from exports of the manifest's weights alone
    if args.backend is None and (unused or missing_package() is not None or gpu_in_sight()):
        return
    for backend in args.backend or [name for name in export_runtimes() if RUNTIMES[name].library() is not None]:
        yield {"backend": backend, **_export(weights, backend, args)}


def _rates(weights: Weights, args: argparse.Namespace) -> dict[str, float]:
    """Return how fast the exports ran on this machine, by backend."""
    from miil21k.runtime.resolve import measured_rates

    return {name: rate.images_per_second for name, rate in measured_rates(weights, _options(args)).items()}


def _options(args: argparse.Namespace) -> LoadOptions:
    from miil21k.runtime.options import LoadOptions

    return LoadOptions(cache_dir=args.cache_dir, revision=args.revision, offline=args.offline)


def _export(weights: Weights, backend: str, args: argparse.Namespace) -> dict[str, Any]:
    """Make one; what cannot be made is said and is no failure, since torch computes with the weights."""
    from miil21k.runtime.resolve import obtain_export

    try:
        made = obtain_export(weights, _options(args), backend, make_export)
    except Miil21kError as error:
        if not args.quiet:
            print(f"no proved export of {weights.name} for {backend}: {error}", file=sys.stderr)
        return {"status": "error", "error": str(error)}
    return {"status": "ok", "path": str(made.folder), "bytes": made.size}


def _plan(weights: Weights, cache: Cache, args: argparse.Namespace) -> dict[str, Any]:
    from miil21k.runtime.export_cache import list_proved

    sources = []
    for source in weights.sources:
        if args.revision is not None and source.kind != "hub":
            continue
        demand = cache.expected(source, args.revision)
        cached = next(cache.paths(source, args.revision), None)
        sources.append(
            {
                "source": source.where,
                "format": source.format,
                "size": source.size_seen or source.size,
                "sha256": demand and demand[0],
                "cached": cached and str(cached),
                "note": source.status,
            }
        )
    exports = [str(found.folder) for found in list_proved(cache) if found.graph.name == weights.name]
    return {
        "name": weights.name,
        "status": "planned",
        "licence": weights.licence,
        "sources": sources,
        "exports": exports,
    }


def _text(answer: dict[str, Any]) -> Iterator[str]:
    if answer["status"] == "ok":
        yield answer["path"]
        return
    yield f"{answer['name']} ({answer['licence']})"
    for source in answer["sources"]:
        digest = f"sha256 {source['sha256'][:16]}" if source["sha256"] else "no digest published: pinned on first use"
        known = ", ".join(str(part) for part in (source["format"], source["size"], digest) if part)
        yield f"  {source['source']}\n    {known}"
        yield from (f"    {key}: {source[key]}" for key in ("cached", "note") if source[key])
    yield from (f"  export: {path}" for path in answer["exports"])
