"""`miil21k train`: train a model on class folders or shards. Progress on stderr, the run's folder on stdout."""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miil21k.cli.options import add_options, given, value_of
from miil21k.cli.validate import DATA
from miil21k.options import declared
from miil21k.text import printable
from miil21k.train.options import TrainRequest
from miil21k.train.recipe import Recipe

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from miil21k.train.loop import Report

HELP = "Train a model with semantic softmax or a baseline, on ImageNet-21K-P or on images and a hierarchy of your own."
_FIELDS = [field.name for field, option in declared(Recipe) if option.flags]  # that have a flag of their own


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    add = parser.add_argument
    add("data", metavar="DATA", nargs="?", help=DATA)
    add("-m", "--model", help="a name of the zoo or of timm (resnet50.a1_in1k, hf-hub:...), or an earlier checkpoint")
    add("--from-scratch", action="store_true", help="start from random weights, whatever the recipe says")
    add(
        "--recipe",
        default="miil_semantic",
        metavar="NAME",
        help="a named recipe, or the recipe.json of a run (default: %(default)s)",
    )
    add("--list-recipes", action="store_true", help="show the recipes, their sources and what they reach, and exit")
    add("--set", action="append", default=[], metavar="FIELD=VALUE", help="change any field of the recipe; repeatable")
    add_options(parser, Recipe, more=dict.fromkeys(_FIELDS, " (default: the recipe's)"))
    add(
        "-o", "--output", type=Path, default=Path("run"), metavar="RUN", help="folder of the run (default: %(default)s)"
    )
    add("--resume", action="store_true", help="go on with the run in RUN where its last state file stands")
    add("--overwrite", action="store_true", help="start anew where RUN holds a run already")
    add_options(parser, TrainRequest)
    add("-q", "--quiet", action="store_true", help="no progress on stderr")


def run(args: argparse.Namespace) -> int:
    """Run the verb."""
    from miil21k.errors import UsageError

    if args.list_recipes:
        return _list_recipes()
    if args.data is None or args.model is None:
        raise UsageError("Training needs DATA and --model, for example: miil21k train images -m tresnet_m_21k")
    progress = Reports(args.quiet)
    recipe = _recipe(args, progress.say)
    from miil21k.store.cache import Cache
    from miil21k.train.launch import train_model

    request = value_of(
        args,
        TrainRequest,
        data=args.data,
        model=args.model,
        recipe_name=Path(args.recipe).stem,
        recipe=recipe,
        folder=args.output,
        shard_cache=Cache.at(getattr(args, "cache_dir", None)).root / "shards",
    )
    outcome = train_model(request, progress, progress.say, resume=args.resume, overwrite=args.overwrite)
    if outcome.is_main:
        best = outcome.progress
        if outcome.metric and not args.quiet:
            print(f"best {outcome.metric} {best.best:.4f} in epoch {best.best_epoch}", file=sys.stderr)
        print(args.output / ("best.safetensors" if outcome.metric else "last.safetensors"))
    return 0


def _recipe(args: argparse.Namespace, say: Callable[[str], None]) -> Recipe:
    from miil21k.errors import UsageError
    from miil21k.train.recipe import override, unasked
    from miil21k.train.recipes import get_recipe

    changes: dict[str, Any] = {}
    for pair in args.set:
        field, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(f"--set takes FIELD=VALUE, not '{pair}'.")
        changes[field.strip().replace("-", "_")] = value
    flags = given(args, Recipe)
    if args.from_scratch:
        if hasattr(args, "checkpoint"):
            raise UsageError("--from-scratch and --checkpoint exclude each other.")
        flags["pretrained"] = False
    twice = sorted(set(flags) & set(changes))
    if twice:
        raise UsageError(f"'{twice[0]}' is given twice, by its flag and by --set.")
    named = get_recipe(args.recipe)
    recipe = override(named, {**changes, **flags})
    differs = unasked(named, recipe, {*changes, *flags})
    if differs:
        say(f"For {recipe.epochs} epoch(s): {differs}; --set says otherwise")
    return recipe


def _list_recipes() -> int:
    from miil21k.train.recipes import RECIPES

    for name, recipe in RECIPES.items():
        print(f"{name}\n  source: {recipe.source}\n  expected: {recipe.expected} (not reproduced by us)")
    return 0


class Reports:
    """Writes one line per report to stderr, at most twice a second between epochs."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self.last = 0.0

    def say(self, line: str) -> None:
        """Write one line, unless quiet."""
        if not self.quiet:
            print(printable(line), file=sys.stderr, flush=True)

    def __call__(self, report: Report) -> None:
        """Write one report."""
        now = time.monotonic()
        if self.quiet or (report.metrics is None and now - self.last < 0.5):
            return
        self.last = now
        parts = [
            f"epoch {report.epoch}/{report.epochs}",
            f"update {report.update:,}/{report.updates:,}",
            f"loss {report.loss:.4f}",
            f"lr {report.lr:.2e}",
            f"{report.rate:,.0f} images/s",
            f"ETA {_duration(report.eta)}",
            f"waiting for data {report.waiting:.0%}",
        ]
        if report.metrics is not None:
            parts += [f"{name} {value:.4f}" for name, value in report.metrics.items()]
        print("  ".join(parts), file=sys.stderr, flush=True)


def _duration(seconds: float) -> str:
    if math.isnan(seconds):  # no rate yet
        return "unknown"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
