"""Make a proved export of published weights and keep it in the cache; `miil21k.runtime.resolve` decides when."""

from __future__ import annotations

import copy
import gc
import shutil
import time
from typing import TYPE_CHECKING, Any

from miil21k.environment import installed_versions
from miil21k.errors import ExportError
from miil21k.export.onnx.file import own_photographs
from miil21k.export.onnx.model import assemble, decoder_of
from miil21k.export.onnx.network import PIXELS, network_to_onnx
from miil21k.export.onnx.proof import BOUNDS, Runner, prove
from miil21k.export.onnx.report import require_within_bounds
from miil21k.export.onnx.saving import MOST_BYTES, write_model
from miil21k.export.options import ExportOptions
from miil21k.runtime.base import ExportFile
from miil21k.runtime.export_cache import MODEL, PACKAGES, find_proved, storing
from miil21k.runtime.registry import find_runtime
from miil21k.store.integrity import tensors_digest

if TYPE_CHECKING:
    from pathlib import Path

    from miil21k.runtime.export_cache import Graph, ProvedExport
    from miil21k.runtime.loading import Loaded
    from miil21k.store.cache import Cache

__all__ = ["make_proved"]


def make_proved(loaded: Loaded, graph: Graph, cache: Cache) -> ProvedExport:
    """Export `loaded`, prove it as `graph.backend` will run it, and keep it in the cache in place of an older one.

    loaded: the torch network of `graph`; it is put into evaluation mode and left as it is. The export takes
    normalised pixels and gives logits and embedding, so that one serves all options of a prediction.
    Raises ExportError when the network cannot be exported, misses a bound of the proof, or cannot be written.
    """
    began = time.monotonic()
    runtime, licence = find_runtime(graph.backend), loaded.licence or ""
    loaded.model.eval()
    record: dict[str, Any] = {
        "arch": type(loaded.model).__name__,
        "licence": licence,
        "weights_sha256": tensors_digest(loaded.model),
        "label_space": loaded.space.name,
        "num_classes": loaded.space.num_classes,
        "versions": installed_versions() | installed_versions(PACKAGES),
    }
    try:
        with storing(cache, graph, record) as folder:
            if runtime.prepare is None:
                # Weights beside the graph are mapped: OpenVINO reads the pair in a tenth of the time of one file.
                _write_plain(loaded, folder / MODEL, licence, record["weights_sha256"], beside=True)
            else:
                plain = folder / "plain" / MODEL
                plain.parent.mkdir()
                _write_plain(loaded, plain, licence, record["weights_sha256"])
                runtime.prepare(plain, folder / MODEL)
                shutil.rmtree(plain.parent)
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


def _proof(path: Path, loaded: Loaded, graph: Graph) -> dict[str, Any]:
    file = ExportFile(path, graph.input_size, normalises=False, prepared=True)
    backend = find_runtime(graph.backend).open(file, loaded.space.num_classes, "cpu", "fp32")
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
