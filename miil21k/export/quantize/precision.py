"""A network in fewer bits, by onnxruntime.quantization: INT8 with fixed or measured ranges, and fp16."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from typing import TYPE_CHECKING

import onnx

from miil21k.environment import silence_telemetry
from miil21k.errors import ExportError
from miil21k.export.onnx.network import OUTPUTS, PIXELS
from miil21k.files import temporary_folder

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any

    import numpy as np
    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto

    from miil21k.export.options import Method, QuantizeMode

__all__ = ["dynamic_int8", "fp16", "measure_ranges", "quantizable", "static_int8", "staying"]

silence_telemetry()

# What carries weights, by which a layer is counted, left out and measured.
_WEIGHTED = {"static": ("Conv", "Gemm", "MatMul"), "dynamic": ("Gemm", "MatMul")}
# What lies between them: operators that runtimes have in 8 bits too, so that activations need not widen on the way.
# Softmax, normalisation, sigmoids and averages over the image stay float: they are cheap, and 8 bits harm them most.
_BETWEEN: tuple[str, ...] = ("Add", "Mul", "Clip", "Relu", "LeakyRelu", "MaxPool", "AveragePool", "Concat", "Pad")
_BETWEEN += ("Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Split")
_FLOAT_IN_FP16 = ("Softmax", "LayerNormalization", "ReduceMean", "ReduceSum", "InstanceNormalization", "Erf")


def quantizable(network: ModelProto, mode: QuantizeMode) -> list[str]:
    """Return the names of the nodes with weights that `mode` turns into 8 bits, first to last.

    MatMul counts where one factor is constant: a product of two activations has no weights.
    """
    constants = {tensor.name for tensor in network.graph.initializer}
    return [
        node.name
        for node in network.graph.node
        if node.op_type in _WEIGHTED.get(mode, ()) and constants & set(node.input[:2])
    ]


def staying(network: ModelProto, layers: Sequence[str]) -> list[str]:
    """Return the nodes that stay float where these layers do: also what lies between layers and reads from one of them.

    In an operator that reads float values 8 bits would round for nothing.
    """
    names: list[str] = []
    wanted = set(layers)
    floats: set[str] = set()
    for node in network.graph.node:
        if node.name in wanted or (node.op_type in _BETWEEN and not floats.isdisjoint(node.input)):
            names.append(node.name)
            floats.update(node.output)
    return names


def measure_ranges(network: ModelProto, batches: Iterable[NDArray[np.float32]], method: Method) -> Any:
    """Return the range of each activation over `batches`, float32 [B, 3, H, W], as static_int8 takes it.

    method: `minmax`; `entropy` (least Kullback-Leibler divergence of the histograms) or `percentile` (99.999 %).
    One batch at a time is in memory with all its activations.
    """
    from onnxruntime.quantization.calibrate import CalibrationMethod, create_calibrator

    kinds = {
        "minmax": CalibrationMethod.MinMax,
        "entropy": CalibrationMethod.Entropy,
        "percentile": CalibrationMethod.Percentile,
    }
    with temporary_folder("miil21k-quantize") as folder, _quiet():
        path = folder / "network.onnx"
        onnx.save_model(network, str(path))
        calibrator = create_calibrator(
            path,
            [*_WEIGHTED["static"], *_BETWEEN],
            augmented_model_path=str(folder / "augmented.onnx"),
            calibrate_method=kinds[method],
            extra_options={"symmetric": False},
        )
        for pixels in batches:
            calibrator.collect_data(_OneBatch(pixels))
        return calibrator.compute_data()


class _OneBatch:
    """One batch, as the calibrators read it."""

    def __init__(self, pixels: NDArray[np.float32]) -> None:
        self._batches: Iterator[dict[str, NDArray[np.float32]]] = iter([{PIXELS: pixels}])

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        return next(self._batches, None)


def static_int8(
    network: ModelProto,
    ranges: Any,
    *,
    leave_out: Sequence[str] = (),
    symmetric: bool = False,
    weight_bits: int = 8,
) -> ModelProto:
    """Return `network` with uint8 activations and int8 weights per output channel, as QuantizeLinear pairs (QDQ).

    ranges: of `measure_ranges`. leave_out: names of nodes that stay float. weight_bits: 8, or 7 for half the range.
    symmetric: int8 activations with zero point 0 and float32 biases, as TensorRT takes them; without it biases are
    int32. The outputs `logits` and `embedding` are not rounded.
    """
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
    from onnxruntime.quantization.quant_utils import QuantType

    found = _int8(
        QDQQuantizer,
        "static",
        network,
        weight_bits,
        activation_qType=QuantType.QInt8 if symmetric else QuantType.QUInt8,
        tensors_range=ranges,
        nodes_to_quantize=[],
        nodes_to_exclude=list(leave_out),
        op_types_to_quantize=[*_WEIGHTED["static"], *_BETWEEN],
        extra_options={"ActivationSymmetric": symmetric, "QuantizeBias": not symmetric},
    )
    return _kept_float(_with_float_outputs(found), leave_out)


def dynamic_int8(network: ModelProto, *, leave_out: Sequence[str] = (), weight_bits: int = 8) -> ModelProto:
    """Return `network` with int8 weights in its matrix products, whose activations are rounded as they come."""
    from onnxruntime.quantization.onnx_quantizer import ONNXQuantizer
    from onnxruntime.quantization.quant_utils import QuantizationMode, QuantType

    return _int8(
        ONNXQuantizer,
        "dynamic",
        network,
        weight_bits,
        mode=QuantizationMode.IntegerOps,
        static=False,
        activation_qType=QuantType.QUInt8,
        tensors_range=None,
        nodes_to_quantize=[],
        nodes_to_exclude=list(leave_out),
        op_types_to_quantize=list(_WEIGHTED["dynamic"]),
        extra_options={"MatMulConstBOnly": True},
    )


def _int8(quantizer: Any, kind: QuantizeMode, network: ModelProto, weight_bits: int, **how: Any) -> ModelProto:
    """Return what a quantizer class makes of `network`: int8 weights per output channel, in 8 bits or 7 of them.

    A processor without instructions for it adds two products of 8 bits in 16, which overflow; those of 7 bits fit.
    """
    from onnxruntime.quantization.quant_utils import QuantType

    with _quiet(), _failures(kind):
        how |= {"per_channel": True, "reduce_range": weight_bits == 7, "weight_qType": QuantType.QInt8}
        made = quantizer(_copy(network), **how)
        made.quantize_model()
        made.model.topological_sort()
        return made.model.model


def fp16(network: ModelProto) -> ModelProto:
    """Return `network` in float16 with float32 pixels, logits and embedding; softmax, normalisation and sums stay
    float32, since they lose most."""
    paths = list(sys.path)
    try:
        from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16
    finally:
        sys.path[:] = paths  # that package adds its own folder, whose modules have everyday names
    with _quiet(), _failures("fp16"):
        blocked = [*DEFAULT_OP_BLOCK_LIST, *_FLOAT_IN_FP16]
        narrow = convert_float_to_float16(_copy(network), keep_io_types=True, op_block_list=blocked)
    # A tensor that several of the float32 nodes read is cast once for each, under one name, which is no valid graph.
    once = {node.output[0]: node for node in reversed(narrow.graph.node)}
    kept = [node for node in narrow.graph.node if once[node.output[0]] is node]
    del narrow.graph.node[:]
    narrow.graph.node.extend(kept)
    return narrow


def _copy(network: ModelProto) -> ModelProto:
    copied = onnx.ModelProto()
    copied.CopyFrom(network)
    return copied


def _with_float_outputs(network: ModelProto) -> ModelProto:
    """Take the rounding off the outputs: their readers inside keep it.

    The quantizer writes producer -> <name>_QuantizeLinear_Input -> Quantize -> Dequantize -> <name>.
    """
    graph = network.graph
    writer = {output: node for node in graph.node for output in node.output}
    for name in OUTPUTS:
        widen = writer[name]
        if widen.op_type != "DequantizeLinear":
            continue
        narrow = writer[widen.input[0]]
        inner, rounded = narrow.input[0], f"{name}_rounded"
        for node in graph.node:
            _rename(node.input, name, rounded)
            _rename(node.input, inner, name)
            _rename(node.output, name, rounded)
            _rename(node.output, inner, name)
        if not any(rounded in node.input for node in graph.node):
            graph.node.remove(widen)
            graph.node.remove(narrow)
    return network


def _kept_float(network: ModelProto, names: Sequence[str]) -> ModelProto:
    """Put an operator that changes nothing behind the layers of these names that stand between two rounded tensors.

    When it opens a file, ONNX Runtime quantises the weights of such a layer, with one scale for all channels: worse
    than what the layer was left out for. Elsewhere the operator would keep the layer and its activation from running
    as one.
    """
    writer = {output: node.op_type for node in network.graph.node for output in node.output}
    readers: dict[str, list[NodeProto]] = {}
    for node in network.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for at, node in reversed(list(enumerate(network.graph.node))):
        if node.name not in names or node.op_type not in _WEIGHTED["static"] or node.output[0] in OUTPUTS:
            continue
        output = node.output[0]
        behind = readers.get(output, [])
        if len(behind) == 1 and behind[0].op_type in ("Clip", "Relu", "LeakyRelu"):
            behind = readers.get(behind[0].output[0], [])
        rounded = any(reader.op_type == "QuantizeLinear" for reader in behind)
        if rounded and "DequantizeLinear" in (writer.get(name) for name in node.input[:2]):
            node.output[0] = f"{output}/float"
            same = onnx.helper.make_node("LeakyRelu", [f"{output}/float"], [output], f"{node.name}/float", alpha=1.0)
            network.graph.node.insert(at + 1, same)
    return network


def _rename(names: Any, old: str, new: str) -> None:
    for at, name in enumerate(names):
        if name == old:
            names[at] = new


@contextlib.contextmanager
def _failures(mode: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the quantizers raise ValueError, KeyError, RuntimeError and bare Exception
        import onnxruntime

        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ExportError(f"ONNX Runtime {onnxruntime.__version__} cannot quantize this ({mode}): {reason}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence advice about steps that were taken, and what the calibrators print."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        root.setLevel(level)
