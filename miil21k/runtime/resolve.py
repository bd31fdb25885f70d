"""What answers: weights, a proved export of them or torch, and the library and device that compute."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from miil21k.environment import installed_versions, require
from miil21k.errors import ExportError, MissingExtra, UnknownModel, UsageError
from miil21k.hierarchy.load import load_label_space
from miil21k.hierarchy.spaces import LABEL_SPACES, shipped_digest
from miil21k.runtime.export_cache import (
    PACKAGES,
    Graph,
    failure,
    find_proved,
    making,
    missing_package,
    note_failure,
)
from miil21k.runtime.loading import DEFAULT_MODEL, Loaded, default_model, head_space, load_model, preprocess_of
from miil21k.runtime.machine import gpu_in_sight, machine
from miil21k.runtime.options import threads_of
from miil21k.runtime.registry import RUNTIMES, export_runtimes, find_runtime
from miil21k.store.cache import Cache, find_cached
from miil21k.zoo.manifest import find_weights

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import TypeAlias

    from miil21k.runtime.export_cache import ProvedExport
    from miil21k.runtime.options import LoadOptions
    from miil21k.runtime.speed import Rate
    from miil21k.zoo.schema import Weights

    Count: TypeAlias = Callable[[int], int]
    Make: TypeAlias = Callable[[Loaded, Graph, Cache], ProvedExport]

__all__ = ["measured_rates", "obtain_export", "order", "published_row", "resolve", "saving"]

# What an export takes to make and prove: seconds, and images in torch ("export s" of docs/export.md).
MAKING_SECONDS, MAKING_IMAGES = 8.0, 100
log = logging.getLogger("miil21k.runtime")


def resolve(
    name: str | None,
    options: LoadOptions,
    *,
    images: Count | None = None,
    make: Make | None = None,
    nameless: bool = False,
) -> Loaded:
    """Return what answers for `name` under these options, ready to `start`.

    Published weights are answered by a proved export of the cache, else by torch, which the log says in one line. make:
    makes an export that is missing (`make_proved` of `miil21k.export.cache_export`) where a backend for exports was
    named, or `options.make_export` says so, or, unless that is False, where the `images` of the run are so many that
    it saves more time than it takes; None where none can be made. images: told a number, it returns how many images
    there are, counted no further; None when nobody knows. nameless: see `load_model`.
    Raises UsageError for a named backend that may not answer, and for an export that was asked for and is neither
    cached nor to be made; otherwise what `load_model` and `obtain_export` raise.
    """
    named = options.backend != "auto"
    weights = published_row(name, options)
    unsaid = nameless and weights is not None and weights.label_space is None and options.label_space is None
    if weights is None or unsaid or (named and find_runtime(options.backend).runs == "network"):
        return load_model(name, options, nameless=nameless)
    reason = _obstacle(options)
    if reason is not None:
        if named:
            raise UsageError(f"The backend '{options.backend}' runs proved exports, and {reason}: leave --backend out.")
        log.debug("torch computes: %s", reason)
        return load_model(name, options, nameless=nameless)
    if options.make_export is False:
        make = None
    notice = None
    if name is None:
        weights, options, notice = default_model(options)
    single = images is not None and images(2) == 1
    found = _cached_export(weights, options, single=single)
    if found is None and make is not None and (named or options.make_export):
        found = obtain_export(weights, options, _wanted(options, single=single), make)
    if found is not None:
        return replace(_opened(found, weights, options), notice=notice)
    if named or options.make_export:
        kind = f" for the backend '{options.backend}'" if named else ""
        way = f"miil21k fetch {weights.name}" + (f" --backend {options.backend}" if named else "")
        raise UsageError(f"No proved export of '{weights.name}'{kind} is cached: make it with '{way}'.")
    loaded = _torch_or_made(weights, options, images, make)
    return replace(loaded, notice=notice)


def _torch_or_made(weights: Weights, options: LoadOptions, images: Count | None, make: Make | None) -> Loaded:
    """Return torch's network, or an export made now where that saves time; the log says what was decided."""
    loaded = load_model(weights.name, options)
    runtime = _wanted(options)
    reason = _unmakeable(weights, options, runtime)
    if reason is not None:
        log.debug("torch computes: no proved export is cached, and %s", reason)
        return loaded
    least = _least_images(runtime)
    if make is not None and images is not None and images(least) >= least:
        from miil21k.runtime.speed import images_per_second
        from miil21k.store.integrity import tensors_digest

        digest = tensors_digest(loaded.model)  # before it is changed for its backend
        loaded = replace(loaded, weights_sha256=digest, backend=loaded.start())
        assert loaded.backend is not None
        rate = images_per_second({"torch": loaded.backend}, loaded.preprocess.input_size, briefly=True)["torch"]
        most = round(100 * (MAKING_SECONDS * rate + MAKING_IMAGES))  # far above what it takes
        count = images(most)
        costs, saves = saving(count, rate, RUNTIMES[runtime].gain)
        words = f"{count:,}{' or more' if count == most else ''} images at {rate:.1f} a second in torch"
        if saves > costs:
            title = RUNTIMES[runtime].title
            log.info("%s: an export for %s saves about %.0f s and takes about %.0f", words, title, saves, costs)
            try:
                return _opened(obtain_export(weights, options, runtime, make), weights, options)
            except ExportError as error:
                log.info("torch answers, since no proved export could be made: %s", error)
                return loaded
        log.debug("%s: an export would save about %.0f s and take about %.0f", words, saves, costs)
    log.info(
        "torch answers: no export of %s is cached; 'miil21k fetch %s' makes one ahead, which starts without torch",
        weights.name,
        weights.name,
    )
    return loaded


def saving(count: int, rate: float, gain: float) -> tuple[float, float]:
    """Return how many seconds an export takes to make, and how many it saves a run over `count` images.

    rate: images that torch computes in a second. gain: how many the export computes in the time of one.
    """
    return MAKING_SECONDS + MAKING_IMAGES / rate, count / rate * (1 - 1 / gain)


def _least_images(runtime: str) -> int:
    """Return how many images it takes for an export to be worth anything, with a network of any speed."""
    return round(MAKING_IMAGES / (1 - 1 / RUNTIMES[runtime].gain))


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


def _obstacle(options: LoadOptions) -> str | None:
    """Return why no export of the cache may answer under these options, or None."""
    if options.checkpoint is not None:
        return "the checkpoint is your own ('miil21k export onnx' makes an export of it)"
    if options.head is not None:
        return "the option head is for a checkpoint of your own"
    named = options.backend != "auto"
    if options.dtype != "fp32" and not (named and options.dtype in RUNTIMES[options.backend].dtypes):
        able = [runtime.title for runtime in RUNTIMES.values() if options.dtype in runtime.dtypes]
        return f"{options.dtype} is computed by {' or '.join(able)}"
    if options.device not in ("auto", "cpu"):
        return f"those of the cache are for the CPU, not for {options.device}"
    if not named and options.device == "auto" and gpu_in_sight():
        return "a GPU is in sight"
    return None


def _unmakeable(weights: Weights, options: LoadOptions, runtime: str) -> str | None:
    """Return why no export is made unasked, nor advised, or None."""
    if (package := missing_package()) is not None:
        return f"the package '{package}' is missing, which makes one"
    if options.img_size not in (None, weights.preprocess.input_size[1]):
        return "the input size is another than the usual one"
    cache = Cache.at(options.cache_dir)
    file = find_cached(weights, cache, options.revision)
    graph = None if file is None else _graph_of(weights, file.sha256, options, runtime)
    return None if graph is None else failure(cache, graph, _versions())


def order(options: LoadOptions, *, single: bool = False, rates: Mapping[str, Rate] | None = None) -> tuple[str, ...]:
    """Return the backends that may run an export, the best one first.

    rates: of this machine, by backend; where all are known the highest comes first, else the highest `gain` of the
    table. single: there is one image, so first the one that starts soonest.
    """
    if options.backend != "auto":
        return (options.backend,)
    names = export_runtimes()
    if single:
        return tuple(sorted(names, key=lambda name: RUNTIMES[name].opens_in))
    usual = sorted(names, key=lambda name: -RUNTIMES[name].gain)
    if rates is None or any(name not in rates for name in names):
        return tuple(usual)
    return tuple(sorted(usual, key=lambda name: -rates[name].images_per_second))


def _wanted(options: LoadOptions, *, single: bool = False) -> str:
    """Return the backend for which an export is made: the best that is installed."""
    names = order(options, single=single)
    return next((name for name in names if RUNTIMES[name].library() is not None), names[0])


def _graph_of(weights: Weights, weights_sha256: str, options: LoadOptions, backend: str) -> Graph | None:
    """Return the graph that `backend` would run for these weights, None when its library is not installed."""
    library = find_runtime(backend).library()
    if library is None:
        return None
    space = head_space(weights, options)
    digest = shipped_digest(space) if space in LABEL_SPACES else load_label_space(space).sha256
    size = preprocess_of(weights, options).input_size
    return Graph(weights.name, weights_sha256, size, digest, backend, library)


def _cached_export(weights: Weights, options: LoadOptions, *, single: bool = False) -> ProvedExport | None:
    """Return the first proved export in the `order` of backends, None when there is none; nothing is downloaded."""
    cache = Cache.at(options.cache_dir)
    if not (cache.root / "exports").is_dir():
        return None
    file = find_cached(weights, cache, options.revision)
    if file is None:
        return None
    rates = {} if single or options.backend != "auto" else measured_rates(weights, options)
    for backend in order(options, single=single, rates=rates):
        graph = _graph_of(weights, file.sha256, options, backend)
        found = find_proved(cache, graph) if graph else None
        if found is not None:
            if options.backend == "auto":
                log.debug("%s computes: %s", backend, _why(backend, rates, single=single))
            return found
    return None


def _why(backend: str, rates: Mapping[str, Rate], *, single: bool) -> str:
    """Return why `auto` takes what it takes, for the log."""
    title = RUNTIMES[backend].title
    if single:
        return f"one image, for which {title}'s export is preferred, as it starts soonest"
    if len(rates) > 1:
        measured = ", ".join(f"{name} {rate.images_per_second:.1f}" for name, rate in rates.items())
        return f"images per second on this machine are {measured}"
    return f"{title}'s export is preferred to others, as they were not compared on this machine"


def measured_rates(weights: Weights, options: LoadOptions) -> dict[str, Rate]:
    """Return how fast the proved exports of these weights ran on this machine, by backend; empty when not measured."""
    cache = Cache.at(options.cache_dir)
    file = find_cached(weights, cache, options.revision)
    installed = [name for name in export_runtimes() if RUNTIMES[name].library() is not None]
    if file is None or len(installed) < 2:
        return {}
    from miil21k.runtime.speed import read_rates

    graph = _graph_of(weights, file.sha256, options, installed[0])
    return {} if graph is None else read_rates(cache, graph, machine())


def _opened(found: ProvedExport, weights: Weights, options: LoadOptions) -> Loaded:
    preprocess = preprocess_of(weights, options)
    backend = found.start(options.dtype)
    backend.open_ahead(threads_of(options), once=options.workers == 0 and options.batch_size == 1)
    return Loaded(
        found.model,
        weights.name,
        load_label_space(head_space(weights, options)),
        weights.head,
        preprocess,
        weights_sha256=found.record["weights_sha256"],
        licence=weights.licence,
        runtime=found.graph.backend,
        device="cpu",
        dtype=options.dtype,
        backend=backend,
    )


def obtain_export(weights: Weights, options: LoadOptions, backend: str, make: Make) -> ProvedExport:
    """Return the proved export of published weights for `backend`, made when the cache has none.

    options: those of the prediction; the weights are fetched when they are not cached. One process makes it, others
    wait; the log says so before and after. Where other backends have theirs already, all are timed, so that `auto`
    takes the fastest.
    Raises ExportError when it cannot be made, which is remembered, MissingExtra for what is not installed, and what
    `load_model` raises.
    """
    from miil21k.runtime.speed import compare_exports
    from miil21k.store.download import obtain

    runtime = find_runtime(backend)
    for package in PACKAGES:
        require(package, "export", f"Making an export for the backend {backend}")
    cache = Cache.at(options.cache_dir)
    file = obtain(weights, revision=options.revision, cache_dir=options.cache_dir, offline=options.offline)
    graph = _graph_of(weights, file.sha256, options, backend)
    if graph is None:
        raise MissingExtra(runtime.package, runtime.extra, f"The backend {backend}")
    try:
        with making(cache, graph):
            found = find_proved(cache, graph) or _made(weights, options, graph, cache, make)
    except OSError as error:
        raise ExportError(f"Cannot write {cache.root}: {error.strerror or error}.") from None
    graphs = (_graph_of(weights, file.sha256, options, name) for name in export_runtimes())
    compare_exports(cache, [one for g in graphs if g and (one := find_proved(cache, g))])
    return found


def _made(weights: Weights, options: LoadOptions, graph: Graph, cache: Cache, make: Make) -> ProvedExport:
    loaded = load_model(weights.name, replace(options, backend="torch"))
    log.info("making a proved export of %s for %s, once", weights.name, graph.runtime.partition(",")[0])
    try:
        made = make(loaded, graph, cache)
    except ExportError as error:
        note_failure(cache, graph, str(error), _versions())
        raise
    log.info("made and proved in %.0f s, %.0f MB in %s", made.record["seconds"], made.size / 1e6, made.folder)
    return made


def _versions() -> dict[str, str]:
    """Return the versions of the packages that make an export."""
    return installed_versions((*PACKAGES, "torch", "timm"))
