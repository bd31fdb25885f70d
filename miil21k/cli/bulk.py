"""What answers in one run of `predict`: a predictor in this process, or the workers of an engine."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from miil21k.cli.exports import with_proved_export
from miil21k.errors import UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from miil21k.predict.bulk import BulkPredictor
    from miil21k.predict.options import PredictOptions
    from miil21k.predict.predictor import Predictor

__all__ = ["answering", "refuse_engine_options"]


def refuse_engine_options(args: argparse.Namespace) -> None:
    """Raise UsageError for options that do not go together."""
    if args.address is not None and args.engine != "ray":
        raise UsageError("--address is of a Ray cluster: add --engine ray.")
    if args.engine is None:
        return
    if args.save_plots is not None:
        raise UsageError("--save-plots reads every image again, one by one: leave --engine out, or the pictures.")
    if args.workers == 0:
        raise UsageError("--engine needs at least one worker: --workers 1 or more.")


@contextmanager
def answering(
    args: argparse.Namespace, options: PredictOptions, *, single: bool, say: Callable[[str], None]
) -> Iterator[Predictor | BulkPredictor]:
    """Return what answers the command line; the engine is left when the context ends.

    single, say: as for `with_proved_export`, which chooses the backend of this machine's processes. The machines of a
    cluster have caches of their own, so `auto` is torch on all of them.
    """
    model = args.model
    if args.engine != "ray":
        model, options = with_proved_export(model, options, single=single, say=say)
    elif options.backend == "auto":
        options = replace(options, backend="torch")
    if args.engine is None:
        from miil21k.predict.predictor import Predictor

        yield Predictor(model, options=options)
        return
    from miil21k.predict.bulk import BulkPredictor

    if args.engine == "local":
        from miil21k.distribute.local import LocalEngine
        from miil21k.environment import available_cpus

        # Processes that share one GPU would each load the network onto it.
        yield BulkPredictor(model, options, lambda gpu: LocalEngine(args.workers or (1 if gpu else available_cpus())))
        return
    from miil21k.distribute.ray_engine import RayEngine

    engine = RayEngine(args.address, args.workers)
    try:
        yield BulkPredictor(model, options, lambda gpu: engine.on_gpus() if gpu else engine, gpus=engine.gpus)
    finally:
        engine.close()
