"""A proved export of the cache instead of the torch network, where one may answer."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from miil21k.errors import UnknownModel, UsageError
from miil21k.hierarchy.load import load_label_space
from miil21k.hierarchy.spaces import LABEL_SPACES, shipped_digest
from miil21k.runtime.choose import open_proved
from miil21k.runtime.export_cache import Graph, find_proved
from miil21k.runtime.installed import gpu_in_sight, machine, runtime_of
from miil21k.runtime.loading import DEFAULT_MODEL, Loaded, default_model, head_space, load, preprocess_of
from miil21k.runtime.onnx_backend import OnnxBackend
from miil21k.runtime.options import threads_of
from miil21k.store.cache import Cache, find_cached
from miil21k.zoo.manifest import find_weights

if TYPE_CHECKING:
    from collections.abc import Mapping

    from miil21k.runtime.base import BackendName
    from miil21k.runtime.export_cache import ProvedExport
    from miil21k.runtime.measured_rates import Rate
    from miil21k.runtime.options import LoadOptions
    from miil21k.zoo.schema import Weights

__all__ = ["fastest_export", "graph_of", "load_fastest", "obstacle", "order", "published_row", "rates_here"]

log = logging.getLogger("miil21k.predict")


def load_fastest(name: str | None, options: LoadOptions) -> Loaded:
    """Return what `load` returns, as a backend where the cache holds a proved export of these published weights.

    With `options.backend` `auto` an export is only ever used, never made, so that no call takes a minute unasked:
    `miil21k fetch` makes it, and so does `miil21k-predict`, which says so. Of several the fastest runs (`order`).
    Raises UsageError for `onnx` and `openvino` when there is none to use; otherwise what `load` raises.
    """
    weights = published_row(name, options)
    if weights is None or options.backend == "torch":
        return load(name, options)
    notice = None
    reason = obstacle(options)
    if reason is None:
        if name is None:
            weights, options, notice = default_model(options)
        found = fastest_export(weights, options)
        if found is not None:
            return replace(_opened(found, weights, options), notice=notice)
    if options.backend == "auto":
        log.debug("torch computes: %s", reason or "no proved export is cached")
        loaded = load(weights.name if notice else name, options)
        return replace(loaded, notice=notice or loaded.notice)
    if reason is not None:
        raise UsageError(f"The backend '{options.backend}' runs proved exports, and {reason}: leave --backend out.")
    raise UsageError(
        f"No proved export of '{weights.name}' for the backend '{options.backend}' is cached: make it with "
        f"'miil21k fetch {weights.name} --backend {options.backend}'."
    )


def published_row(name: str | None, options: LoadOptions) -> Weights | None:
    """Return the row of the zoo that `name` stands for; None for files and for an architecture with a checkpoint."""
    if name is None:
        return None if options.checkpoint is not None or options.head is not None else find_weights(DEFAULT_MODEL)
    if name.endswith((".onnx", ".safetensors")):
        return None
    try:
        return find_weights(name)
    except UnknownModel:
        return None


def obstacle(options: LoadOptions) -> str | None:
    """Return why torch must compute under these options, or None."""
    if options.checkpoint is not None:
        return "the checkpoint is your own ('miil21k export onnx' makes an export of it)"
    if options.head is not None:
        return "the option head is for a checkpoint of your own"
    if options.dtype != "fp32" and (options.dtype, options.backend) != ("bf16", "openvino"):
        return f"{options.dtype} is computed by torch" + (" or OpenVINO" if options.dtype == "bf16" else "")
    if options.device not in ("auto", "cpu"):
        return f"those of the cache are for the CPU, not for {options.device}"
    if options.backend == "auto" and options.device == "auto" and gpu_in_sight():
        return "a GPU is in sight"
    return None


def order(
    options: LoadOptions, *, single: bool = False, rates: Mapping[str, Rate] | None = None
) -> tuple[BackendName, ...]:
    """Return the backends that may run an export, the best one first.

    rates: of this machine, by backend; the highest comes first where both are known, else OpenVINO does. single: there
    is one image, so first the one that starts soonest, which is ONNX Runtime: its graph is optimised already.
    """
    if options.backend != "auto":
        return (options.backend,)
    if single:
        return ("onnx", "openvino")
    rule: tuple[BackendName, ...] = ("openvino", "onnx")
    if rates is None or any(name not in rates for name in rule):
        return rule
    return tuple(sorted(rule, key=lambda name: -rates[name].images_per_second))


def graph_of(weights: Weights, weights_sha256: str, options: LoadOptions, backend: str) -> Graph | None:
    """Return the graph that `backend` would run for these weights, None when its library is not installed.

    weights_sha256: of their file. Raises what `load` raises for options that make no sense.
    """
    runtime = runtime_of(backend)
    if runtime is None:
        return None
    space = head_space(weights, options)
    digest = shipped_digest(space) if space in LABEL_SPACES else load_label_space(space).sha256
    size = preprocess_of(weights, options).input_size
    return Graph(weights.name, weights_sha256, tuple(size), digest, backend, runtime)


def fastest_export(weights: Weights, options: LoadOptions, *, single: bool = False) -> ProvedExport | None:
    """Return the first proved export in the `order` of backends, None when there is none; nothing is downloaded."""
    cache = Cache.at(options.cache_dir)
    if not (cache.root / "exports").is_dir():
        return None
    file = find_cached(weights, cache, options.revision)
    if file is None:
        return None
    rates = {} if single or options.backend != "auto" else _rates(cache, weights, file.sha256, options)
    for backend in order(options, single=single, rates=rates):
        graph = graph_of(weights, file.sha256, options, backend)
        found = find_proved(cache, graph) if graph else None
        if found is not None:
            if options.backend == "auto":
                log.debug("%s computes: %s", backend, _why(single, rates))
            return found
    return None


def rates_here(weights: Weights, options: LoadOptions) -> dict[str, Rate]:
    """Return how fast the proved exports of these weights ran on this machine, by backend; empty when not measured."""
    cache = Cache.at(options.cache_dir)
    file = find_cached(weights, cache, options.revision)
    return {} if file is None else _rates(cache, weights, file.sha256, options)


def _rates(cache: Cache, weights: Weights, weights_sha256: str, options: LoadOptions) -> dict[str, Rate]:
    graph = graph_of(weights, weights_sha256, options, "openvino")
    if graph is None:
        return {}  # ONNX Runtime is the only one
    from miil21k.runtime.measured_rates import read_rates

    return read_rates(cache, graph, machine())


def _why(single: bool, rates: Mapping[str, Rate]) -> str:
    """Return why `auto` takes what it takes, for the log."""
    if single:
        return "one image, for which ONNX Runtime's export is preferred, as it starts soonest"
    if len(rates) > 1:
        measured = ", ".join(f"{name} {rate.images_per_second:.1f}" for name, rate in rates.items())
        return f"images per second on this machine are {measured}"
    return "OpenVINO's export is preferred to ONNX Runtime's, as they were not compared on this machine"


def _opened(found: ProvedExport, weights: Weights, options: LoadOptions) -> Loaded:
    preprocess = preprocess_of(weights, options)
    classes, size = found.record["num_classes"], preprocess.input_size
    backend = open_proved(found.model, classes, size, backend=found.graph.backend, dtype=options.dtype)
    if isinstance(backend, OnnxBackend):
        backend.open_ahead(threads_of(options), once=options.workers == 0 and options.batch_size == 1)
    space = load_label_space(head_space(weights, options))
    digest = found.record["weights_sha256"]
    return Loaded(
        backend, weights.name, space, weights.head, preprocess, weights_sha256=digest, licence=weights.licence
    )
