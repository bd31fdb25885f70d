"""`miil21k doctor`: versions, devices, caches, reachability, and what to do."""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import TYPE_CHECKING

from miil21k.cli.options import add_options
from miil21k.runtime.options import ModelOptions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from miil21k.store.doctor import Examination, Host, Place

__all__ = ["HELP", "configure", "run"]

HELP = "Show versions, devices, caches and which hosts answer, and say what to do."
_LONGEST_WAIT = 600.0


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `miil21k doctor`."""
    parser.add_argument("-f", "--format", choices=("text", "json"), default="text", help="default: text")
    parser.add_argument("--json", action="store_const", const="json", dest="format", help="the same as -f json")
    place = dict.fromkeys(("cache_dir", "offline"))
    add_options(parser, ModelOptions, only=place, defaults=place)
    parser.add_argument("--timeout", type=_seconds, default=5.0, metavar="S", help="seconds per host, default: 5")


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value <= _LONGEST_WAIT:
        raise argparse.ArgumentTypeError(f"must lie above 0 and up to {_LONGEST_WAIT:g} seconds, not {text}")
    return value


_seconds.__name__ = "number"


def run(args: argparse.Namespace) -> int:
    """Print the examination; returns 1 when nothing can be predicted with: no weights here, and no host answers."""
    from miil21k.runtime.export_cache import list_proved
    from miil21k.store.cache import Cache
    from miil21k.store.doctor import examine

    exports = tuple(str(export) for export in list_proved(Cache.at(args.cache_dir)))
    found = examine(args.cache_dir, offline=args.offline, timeout=args.timeout, exports=exports)
    if args.format == "json":
        print(json.dumps(dataclasses.asdict(found), indent=2))
    else:
        print("\n".join(_text(found)))
    able = found.cached or any(h.status is not None and h.status < 400 for h in found.hosts)
    return 0 if able else 1


def _text(found: Examination) -> Iterator[str]:
    yield "versions"
    yield from (f"  {name:34}{version or 'not installed'}" for name, version in found.versions.items())
    yield f"system\n  {found.system}"
    yield "devices"
    yield from (f"  {device}" for device in found.devices)
    yield "cache"
    yield from (_place(place) for place in found.places)
    yield f"  weights here: {', '.join(found.cached) or 'none'}"
    yield from (f"  proved export: {export}" for export in found.exports)
    yield from (f"  unfinished: {leftover}" for leftover in found.leftovers)
    yield "variables"
    yield from (f"  {name}={value}" for name, value in found.variables.items())
    yield "network" if not found.offline else "network\n  off limits: no host was asked"
    yield from (_host(host) for host in found.hosts)
    yield f"embedded weights\n  {'present' if found.embedded else 'missing'}"
    yield f"WordNet 3.0\n  {'present' if found.wordnet else 'not found'}"
    yield "what to do"
    yield from (f"  {sentence}" for sentence in found.advice or ("nothing: all is well",))


def _place(place: Place) -> str:
    writable = "" if place.writable else ", read-only"
    return (
        f"  {place.path}: {place.what}, {place.used / 2**20:.1f} MiB used, {place.free / 2**30:.1f} GiB free{writable}"
    )


def _host(host: Host) -> str:
    answer = f"HTTP {host.status} in {host.milliseconds} ms" if host.status is not None else f"no answer: {host.reason}"
    return f"  {host.host:46}{answer}"
