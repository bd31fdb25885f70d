"""The proved export that a run of `predict` uses: found in the cache, or made once."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

from miil21k.cli.start import settle
from miil21k.errors import ExportError, MissingExtra
from miil21k.runtime.export_cache import missing_package
from miil21k.runtime.fastest import fastest_export, obstacle, order, published_row
from miil21k.runtime.installed import runtime_of
from miil21k.runtime.loading import default_model

if TYPE_CHECKING:
    from collections.abc import Callable

    from miil21k.predict.options import PredictOptions
    from miil21k.runtime.base import BackendName
    from miil21k.zoo.schema import Weights

__all__ = ["with_proved_export"]


def with_proved_export(
    name: str | None, options: PredictOptions, *, single: bool, say: Callable[[str], None]
) -> tuple[str | None, PredictOptions]:
    """Return the model and the options by which a proved export answers, where one may; else what was given.

    The export is made when the cache has none and the packages for it are installed. single: there is one image, for
    which ONNX Runtime is preferred, since it starts faster. say: told what takes time, and why torch answers after a
    failure. Raises what `require_proved` raises when the backend was named; with `auto` torch answers after an
    ExportError.
    """
    weights = published_row(name, options)
    if weights is None or options.backend == "torch" or obstacle(options) is not None:
        return name, options
    if name is None:
        weights, options, _ = default_model(options)
    found = fastest_export(weights, options, single=single)
    if found is not None:
        backend = cast("BackendName", found.graph.backend)
    else:
        backend = _made(weights, options, order(options, single=single), say)
    if single and backend != "torch" and options.workers is None:
        options = replace(options, workers=0, batch_size=1)  # all processors for its forward pass
    return weights.name, replace(options, backend=backend)


def _made(
    weights: Weights, options: PredictOptions, wanted: tuple[BackendName, ...], say: Callable[[str], None]
) -> BackendName:
    """Make the first export of `wanted` whose library is installed, and return its backend; else `torch`."""
    unasked = options.backend == "auto"
    usual = options.img_size in (None, weights.preprocess.input_size[1])
    package = missing_package()
    if unasked and (package is not None or not usual):
        return "torch"
    if package is not None:
        raise MissingExtra(package, "export", f"Making an export for the backend {options.backend}")
    from miil21k.export.cache_export import FailedBefore, require_proved

    settle()  # tracing a network leaves much that refers to itself

    backend = next((name for name in wanted if runtime_of(name) is not None), wanted[0])
    try:
        require_proved(weights, options, backend, again=not unasked, say=say)
    except FailedBefore:
        return "torch"
    except ExportError as error:
        if not unasked:
            raise
        say(f"torch answers, since no proved export could be made: {error}")
        return "torch"
    return backend
