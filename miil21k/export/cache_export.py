"""Make a proved export of published weights and keep it in the cache, once."""

from __future__ import annotations

import copy
import gc
import shutil
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from miil21k.environment import installed_versions
from miil21k.errors import ExportError, MissingExtra
from miil21k.export.onnx.file import own_photographs
from miil21k.export.onnx.model import ExportOptions, assemble, decoder_of
from miil21k.export.onnx.network import PIXELS, network_to_onnx
from miil21k.export.onnx.proof import BOUNDS, Runner, prove
from miil21k.export.onnx.report import require_within_bounds
from miil21k.export.onnx.saving import MOST_BYTES, write_model
from miil21k.export.throughput import compare_exports
from miil21k.runtime.choose import open_proved
from miil21k.runtime.export_cache import MODEL, PACKAGES, failure, find_proved, making, note_failure, storing
from miil21k.runtime.fastest import graph_of
from miil21k.runtime.loading import load
from miil21k.store.cache import Cache
from miil21k.store.download import obtain
from miil21k.store.integrity import tensors_digest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from miil21k.predict.options import PredictOptions
    from miil21k.runtime.export_cache import Graph, ProvedExport
    from miil21k.runtime.loading import Loaded
    from miil21k.zoo.schema import Weights

__all__ = ["FailedBefore", "make_proved", "require_proved"]

_RUNTIMES = {"onnx": ("onnxruntime", "export"), "openvino": ("openvino", "openvino")}
_WEIGHTS = f"{MODEL}.data"
_LEAST_MAPPED = "1024"  # bytes; smaller tensors stay in the graph


class FailedBefore(ExportError):
    """The export failed with the same versions of packages, and was not tried again."""


def require_proved(
    weights: Weights,
    options: PredictOptions,
    backend: str,
    *,
    again: bool = True,
    say: Callable[[str], None] = lambda _: None,
) -> ProvedExport:
    """Return the proved export of published weights for `backend`, made when the cache has none.

    options: those of the prediction; the weights are fetched when they are not cached. again: try although it failed
    before with the same versions of packages. say: told before and after it is made. One process makes it, others wait.
    Where other backends have theirs already, all are timed, so that `auto` takes the fastest.
    Raises ExportError when it cannot be made, which is remembered; MissingExtra when its runtime is not installed; and
    what `load` raises.
    """
    cache = Cache.at(options.cache_dir)
    file = obtain(weights, revision=options.revision, cache_dir=options.cache_dir, offline=options.offline)
    graph = graph_of(weights, file.sha256, options, backend)
    if graph is None:
        raise MissingExtra(*_RUNTIMES[backend], f"The backend {backend}")
    try:
        found = _found_or_made(weights, options, graph, cache, again=again, say=say)
    except OSError as error:
        raise ExportError(f"Cannot write {cache.root}: {error.strerror or error}.") from None
    graphs = (graph_of(weights, file.sha256, options, name) for name in _RUNTIMES)
    compare_exports(cache, [one for g in graphs if g and (one := find_proved(cache, g))], say=say)
    return found


def _found_or_made(
    weights: Weights, options: PredictOptions, graph: Graph, cache: Cache, *, again: bool, say: Callable[[str], None]
) -> ProvedExport:
    versions = installed_versions((*PACKAGES, "torch", "timm"))
    with making(cache, graph):
        found = find_proved(cache, graph)
        if found is not None:
            return found
        if not again and (reason := failure(cache, graph, versions)) is not None:
            raise FailedBefore(reason)
        loaded = load(weights.name, replace(options, backend="torch"))
        say(f"making a proved export of {weights.name} for {graph.runtime.partition(',')[0]}, once")
        try:
            made = make_proved(loaded, graph, cache, licence=weights.licence)
        except ExportError as error:
            note_failure(cache, graph, str(error), versions)
            raise
        say(f"made and proved in {made.record['seconds']:.0f} s, {made.size / 1e6:.0f} MB in {made.folder}")
        return made


def make_proved(loaded: Loaded, graph: Graph, cache: Cache, *, licence: str) -> ProvedExport:
    """Export `loaded`, prove it as `graph.backend` will run it, and keep it in the cache in place of an older one.

    loaded: the torch network of `graph`; it is put into evaluation mode and left as it is. The export takes
    normalised pixels and gives logits and embedding, so that one serves all options of a prediction.
    Raises ExportError when the network cannot be exported, misses a bound of the proof, or cannot be written.
    """
    began = time.monotonic()
    loaded.model.eval()
    record: dict[str, Any] = {
        "arch": type(loaded.model).__name__,
        "licence": licence,
        "weights_sha256": tensors_digest(loaded.model),
        "label_space": loaded.space.name,
        "num_classes": loaded.space.num_classes,
        "versions": installed_versions() | installed_versions(("onnx", "onnxscript")),
    }
    try:
        with storing(cache, graph, record) as folder:
            if graph.backend == "onnx":
                plain = folder / "plain" / MODEL
                plain.parent.mkdir()
                _write_plain(loaded, plain, licence, record["weights_sha256"])
                _optimise(plain, folder)
                shutil.rmtree(plain.parent)
            else:
                # Weights beside the graph are mapped: OpenVINO reads the pair in a tenth of the time of one file.
                _write_plain(loaded, folder / MODEL, licence, record["weights_sha256"], beside=True)
            record["proof"] = _proof(folder / MODEL, loaded, graph)
            record["seconds"] = round(time.monotonic() - began, 1)
    except OSError as error:
        raise ExportError(f"Cannot write {cache.root / 'exports'}: {error.strerror or error}.") from None
    found = find_proved(cache, graph)
    assert found is not None
    return found


def _write_plain(loaded: Loaded, path: Path, licence: str, digest: str, *, beside: bool = False) -> None:
    """Write the network alone, without metadata: the record says what it is, and the package has the label space.

    beside: put the weights into a second file, as those that are too large for one are.
    """
    size = sum(tensor.nbytes for tensor in loaded.model.state_dict().values())
    copied = copy.deepcopy(loaded.model)
    network = network_to_onnx(copied, loaded.preprocess.input_size, path if beside or size > MOST_BYTES else None)
    model = assemble(network, loaded, ExportOptions(form="tensor"), licence=licence, weights_sha256=digest)
    del model.metadata_props[:]
    write_model(model, path)
    del copied, network, model  # copies of the weights; what the exporter leaves refers to itself
    gc.collect()


def _optimise(plain: Path, folder: Path) -> None:
    """Write the graph as ONNX Runtime optimises it for this processor, its tensors in a file that is mapped."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.optimized_model_filepath = str(folder / MODEL)
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", _WEIGHTS)
    options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", _LEAST_MAPPED)
    try:
        ort.InferenceSession(str(plain), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions share no base class
        raise ExportError(f"ONNX Runtime {ort.__version__} cannot optimise the export: {error}") from None


def _proof(path: Path, loaded: Loaded, graph: Graph) -> dict[str, Any]:
    backend = open_proved(path, loaded.space.num_classes, loaded.preprocess.input_size, backend=graph.backend)
    runner = Runner(frozenset({PIXELS}), lambda feed: backend.run(feed[PIXELS], embed=True)._asdict())
    photographs = own_photographs()
    decoder = decoder_of(loaded, ExportOptions(form="tensor"))
    try:
        proof = prove(runner, loaded.model, loaded.preprocess, decoder, photographs)
    except RuntimeError as error:  # how the libraries fail while they compute
        raise ExportError(f"The export of '{loaded.name}' does not run in {graph.runtime}: {error}") from None
    require_within_bounds(proof, loaded.name)
    return {
        "runtime": graph.runtime,
        "photographs": len(photographs),
        "bounds": vars(BOUNDS),
        "worst": proof.worst(),
        "rows": proof.rows,
    }
