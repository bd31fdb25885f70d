"""Write a proved ONNX file, with its report beside it; or nothing."""

from __future__ import annotations

import copy
import gc
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from miil21k.environment import silence_telemetry
from miil21k.errors import ExportError, UsageError
from miil21k.export.onnx.model import assemble, decoder_of
from miil21k.export.onnx.network import network_to_onnx
from miil21k.export.onnx.padding import padding_difference, with_zero_padding
from miil21k.export.onnx.proof import prove
from miil21k.export.onnx.report import report_of, report_path, require_within_bounds
from miil21k.export.onnx.saving import MOST_BYTES, put_in_place, weights_path, write_model
from miil21k.export.options import ExportOptions
from miil21k.files import replace_file, scratch_folder, sweep
from miil21k.store.integrity import tensors_digest
from miil21k.zoo.export_card import WEIGHTS_KEY, read_export_card

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from miil21k.runtime.loading import Loaded

__all__ = ["export_onnx", "own_photographs", "photographs_in"]

silence_telemetry()

_PHOTO_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


def own_photographs() -> list[Path]:
    """Return the photographs that come with miil21k, inside the package (a wheel) or in a clone."""
    package = Path(__file__).parents[2]
    inside = package / "photographs"
    folder = inside if inside.exists() else package.parent / "examples" / "images"
    return sorted(folder.glob("*.jpg"))


def export_onnx(
    loaded: Loaded,
    output: Path,
    options: ExportOptions | None = None,
    *,
    licence: str = "",
    photos: Sequence[Path] = (),
    say: Callable[[str], None] = lambda _: None,
    most_bytes: int = MOST_BYTES,
) -> dict[str, Any]:
    """Export `loaded` to `output`, prove it, and return the report that lies beside it as `<output>.json`.

    loaded: a torch network with its label space; it is put into evaluation mode and left as it is. licence: of its
    weights. photos: image files to prove it on, beside the three that come with miil21k. say: told each step.
    most_bytes: more than that go to a second file, `<output>.data`. An existing file is replaced by a proved one or
    stays as it was. Raises ExportError when the network cannot be exported or misses a bound, UsageError for an
    output of another name.
    """
    options = options or ExportOptions()
    if output.suffix != ".onnx":
        raise UsageError(f"'{output}' does not end in .onnx, by which miil21k and others know an ONNX model.")
    if not output.parent.is_dir():
        raise UsageError(f"There is no folder '{output.parent}'.")
    size = sum(tensor.nbytes for tensor in loaded.model.state_dict().values())
    decoder = decoder_of(loaded, options)
    for note in decoder.notes:
        say(note)
    pictures = [*own_photographs(), *photos]
    notes: dict[str, Any] = {}
    if options.padding == "zeros":
        original, loaded = loaded, with_zero_padding(loaded)
        say("measuring what zeros in place of reflected edges change")
        notes = {"zero_padding": padding_difference(original, loaded, decoder, pictures)}
    loaded.model.eval()
    say(f"exporting {loaded.name} ({size / 1e6:.0f} MB of weights)")
    digest = tensors_digest(loaded.model)
    try:
        # In a folder of their own, the graph and the weights that it names have the names that they will keep.
        sweep(output.parent)
        with scratch_folder(output.parent, output.name) as folder:
            part = folder / output.name
            copied = copy.deepcopy(loaded.model)
            network = network_to_onnx(copied, loaded.preprocess.input_size, part if size > most_bytes else None)
            model = assemble(network, loaded, options, licence=licence, weights_sha256=digest)
            interface = _interface(model)
            written = write_model(model, part)
            del copied, network, model  # copies of the weights; what the exporter leaves refers to itself
            gc.collect()
            say("proving it against torch")
            topk = options.topk if options.form == "full" else None
            proof = prove(part, loaded.model, loaded.preprocess, decoder, pictures, topk=topk)
            require_within_bounds(proof, loaded.name)
            beside = weights_path(part)
            facts = {"bytes": written, WEIGHTS_KEY: beside.name if beside.exists() else None, **interface, **notes}
            import onnxruntime

            runtime = f"onnxruntime {onnxruntime.__version__}, CPUExecutionProvider"
            report = report_of(read_export_card(part), proof, len(pictures), runtime, facts)
            replace_file(report_path(output), json.dumps(report, indent=1) + "\n")
            put_in_place(part, output)
    except OSError as error:
        raise ExportError(f"Cannot write {output.parent}: {error.strerror or error}.") from None
    return report


def _interface(model: onnx.ModelProto) -> dict[str, Any]:
    return {
        "opset": model.opset_import[0].version,
        "inputs": [_declared(value) for value in model.graph.input],
        "outputs": [_declared(value) for value in model.graph.output],
    }


def _declared(value: onnx.ValueInfoProto) -> dict[str, Any]:
    tensor = value.type.tensor_type
    shape = [dim.dim_param or dim.dim_value for dim in tensor.shape.dim]
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    return {"name": value.name, "dtype": dtype, "shape": shape}


def photographs_in(folder: Path, *, below: bool = False) -> list[Path]:
    """Return the pictures of a folder, with `below` of its subfolders too; raises UsageError when there are none."""
    found = sorted(path for path in folder.glob("**/*" if below else "*") if path.suffix.lower() in _PHOTO_SUFFIXES)
    if not found:
        raise UsageError(f"'{folder}' holds no pictures ({', '.join(sorted(_PHOTO_SUFFIXES))}).")
    return found
