"""What answers in one run of `predict`: a predictor in this process, or the workers of an engine."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from miil21k.errors import UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

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
def answering(args: argparse.Namespace, options: PredictOptions) -> Iterator[Predictor | BulkPredictor]:
    """Return what answers the command line; the engine is left when the context ends."""
    if args.engine is None:
        from miil21k.predict.predictor import Predictor

        yield Predictor(args.model, options=options)
        return
    from miil21k.predict.bulk import BulkPredictor

    if args.engine == "local":
        from miil21k.engines.local import LocalEngine, available_cores

        # Processes that share one GPU would each load the network onto it.
        yield BulkPredictor(
            args.model, options, lambda gpu: LocalEngine(args.workers or (1 if gpu else available_cores()))
        )
        return
    from miil21k.engines.ray_engine import RayEngine

    engine = RayEngine(args.address, args.workers)
    try:
        yield BulkPredictor(args.model, options, lambda gpu: engine.on_gpus() if gpu else engine, gpus=engine.gpus)
    finally:
        engine.close()
