"""What TensorRT's ONNX parser takes, of the operators that exports have; asked before an engine is built.

The table holds facts from the parser's support matrix for TensorRT 10.15 (onnx-tensorrt, docs/operators.md) and its
change log: opset 9 to 24; `Pad` with reflected edges since 8.2, `LayerNormalization` and `Trilu` since 8.6. What is not
in the table has not been needed by an export, or is not supported.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import onnx
from onnx import TensorProto, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["OPSETS", "SUPPORTED", "Refusal", "refusals"]

OPSETS = (9, 24)
# Operators without a restriction that an export could break.
_FREE = (
    "Abs",
    "Add",
    "And",
    "ArgMax",
    "BatchNormalization",
    "Cast",
    "Ceil",
    "Clip",
    "Concat",
    "Constant",
    "ConstantOfShape",
    "Conv",
    "Cos",
    "Div",
    "Equal",
    "Erf",
    "Exp",
    "Expand",
    "Flatten",
    "Floor",
    "Gather",
    "GatherElements",
    "GatherND",
    "Gelu",
    "Gemm",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "Greater",
    "GreaterOrEqual",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "InstanceNormalization",
    "LeakyRelu",
    "Less",
    "LessOrEqual",
    "Log",
    "MatMul",
    "Max",
    "Min",
    "Mul",
    "Neg",
    "Not",
    "Or",
    "Pow",
    "Range",
    "Reciprocal",
    "Relu",
    "Reshape",
    "Round",
    "Shape",
    "Sigmoid",
    "Sign",
    "Sin",
    "Slice",
    "Softmax",
    "Softplus",
    "Split",
    "Sqrt",
    "Sub",
    "Sum",
    "Tanh",
    "Tile",
    "Transpose",
    "Trilu",
    "Where",
)
_REDUCTIONS = {f"Reduce{kind}" for kind in ("L1", "L2", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")}
_DYNAMIC = {"ConvInteger", "DynamicQuantizeLinear", "MatMulInteger", "QLinearConv", "QLinearMatMul"}


@dataclass(frozen=True)
class Refusal:
    """Nodes that the parser would refuse: the operator, the first of them, how many, why, and the way out."""

    operator: str
    node: str
    count: int
    reason: str
    way_out: str

    def __str__(self) -> str:
        others = f" and {self.count - 1} more" if self.count > 1 else ""
        return f"{self.operator} ('{self.node}'{others}): {self.reason}; {self.way_out}"


def refusals(model: onnx.ModelProto) -> list[Refusal]:
    """Return what TensorRT would refuse of `model`, operators in the order of the graph; empty when it takes all."""
    known = _Constants(model)
    found: dict[tuple[str, str, str], str] = {}
    counts: Counter[tuple[str, str, str]] = Counter()
    for node in _nodes(model):
        for reason, way_out in _problems(node, known):
            key = node.op_type, reason, way_out
            found.setdefault(key, node.name or (node.output[0] if node.output else node.op_type))
            counts[key] += 1
    return [
        *_opset(model),
        *(Refusal(kind, name, counts[kind, why, out], why, out) for (kind, why, out), name in found.items()),
    ]


def _opset(model: onnx.ModelProto) -> Iterator[Refusal]:
    version = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if not OPSETS[0] <= version <= OPSETS[1]:
        reason = f"TensorRT reads opsets {OPSETS[0]} to {OPSETS[1]}"
        yield Refusal(f"opset {version}", model.graph.name, 1, reason, "export the model with miil21k export onnx")


class _Constants:
    """The values that are known before the graph runs, by name, and the inputs of type uint8."""

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self.values: dict[str, onnx.TensorProto] = {tensor.name: tensor for tensor in graph.initializer}
        for node in _nodes(model):
            if node.op_type == "Constant":
                value = next((a.t for a in node.attribute if a.name == "value"), None)
                if value is not None:
                    self.values[node.output[0]] = value
        self.fixed = {*self.values, *(node.output[0] for node in _nodes(model) if node.op_type == "Constant")}
        self.uint8 = {
            value.name for value in graph.input if value.type.tensor_type.elem_type == TensorProto.UINT8
        } - self.values.keys()
        self.functions = {(function.domain, function.name) for function in model.functions}

    def array(self, name: str) -> Any:
        return numpy_helper.to_array(self.values[name]) if name in self.values else None


def _nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Yield all nodes, those of functions and of branches too."""
    stack: list[Iterable[onnx.NodeProto]] = [model.graph.node, *(function.node for function in model.functions)]
    while stack:
        for node in stack.pop(0):
            yield node
            stack += [a.g.node for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]


def _problems(node: onnx.NodeProto, known: _Constants) -> Iterator[tuple[str, str]]:
    """Yield (reason, way out) for everything that is wrong with a node."""
    if (node.domain, node.op_type) in known.functions:
        return
    if node.op_type in _DYNAMIC:
        yield "TensorRT has none", _SYMMETRIC
    elif node.domain not in ("", "ai.onnx") or node.op_type not in SUPPORTED:
        yield "it is not among the operators that TensorRT is known to take", "use ONNX Runtime for this model"
    else:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        yield from SUPPORTED[node.op_type](node, attributes, known)
    if node.op_type != "Cast" and known.uint8 & set(node.input):
        yield "TensorRT takes uint8 tensors as inputs only, to be cast at once", _TENSOR_FORM


_TENSOR_FORM = "export the model with --form tensor, and resize before it"


def _free(*_: Any) -> Iterator[tuple[str, str]]:
    yield from ()


def _resize(_: onnx.NodeProto, attributes: dict[str, Any], __: _Constants) -> Iterator[tuple[str, str]]:
    if attributes.get("antialias", 0):
        yield "TensorRT's resize has no antialiasing", _TENSOR_FORM
    elif attributes.get("mode", b"nearest") not in (b"nearest", b"linear"):
        yield "TensorRT's resize is nearest or linear", _TENSOR_FORM


def _pad(_: onnx.NodeProto, attributes: dict[str, Any], __: _Constants) -> Iterator[tuple[str, str]]:
    if attributes.get("mode", b"constant") not in (b"constant", b"edge", b"reflect", b"wrap"):
        yield "TensorRT pads with a constant, the edge, its reflection or around", "export with --padding zeros"


def _pool(node: onnx.NodeProto, attributes: dict[str, Any], _: _Constants) -> Iterator[tuple[str, str]]:
    if any(step != 1 for step in attributes.get("dilations", ())):
        yield "TensorRT's pooling has no dilation", "use ONNX Runtime for this model"
    if len(attributes["kernel_shape"]) not in (2, 3) or len(node.output) > 1:
        yield "TensorRT pools two or three axes and gives no indices", "use ONNX Runtime for this model"


def _fixed_axes(node: onnx.NodeProto, _: dict[str, Any], known: _Constants) -> Iterator[tuple[str, str]]:
    if len(node.input) > 1 and node.input[1] and node.input[1] not in known.fixed:
        yield "TensorRT needs its axes before the graph runs", "use ONNX Runtime for this model"


def _topk(node: onnx.NodeProto, attributes: dict[str, Any], known: _Constants) -> Iterator[tuple[str, str]]:
    count = known.array(node.input[1])
    if not attributes.get("sorted", 1) or (count is not None and int(count.ravel()[0]) >= 3840):
        yield "TensorRT sorts, and finds fewer than 3,840", "export with a smaller --topk"


def _layer_norm(node: onnx.NodeProto, _: dict[str, Any], __: _Constants) -> Iterator[tuple[str, str]]:
    if len([name for name in node.output if name]) > 1:
        yield "TensorRT gives its first output only", "use ONNX Runtime for this model"


def _quantize(node: onnx.NodeProto, _: dict[str, Any], known: _Constants) -> Iterator[tuple[str, str]]:
    zero = known.array(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    if zero is None and len(node.input) > 2 and node.input[2]:
        yield "TensorRT needs its zero point before the graph runs", _SYMMETRIC
    elif zero is not None and (zero.any() or zero.dtype.name in ("uint8", "int32")):
        kind = "biases stay float32" if zero.dtype.name == "int32" else "to int8 with a zero point of 0"
        yield f"TensorRT quantises symmetrically, {kind}", _SYMMETRIC


_SYMMETRIC = "use float16, or quantise with miil21k export quantize --symmetric"
SUPPORTED: dict[str, Callable[[onnx.NodeProto, dict[str, Any], _Constants], Iterator[tuple[str, str]]]] = {
    **dict.fromkeys(_FREE, _free),
    **dict.fromkeys(_REDUCTIONS, _fixed_axes),
    **dict.fromkeys(("CumSum", "Squeeze", "Unsqueeze"), _fixed_axes),
    **dict.fromkeys(("AveragePool", "MaxPool"), _pool),
    **dict.fromkeys(("QuantizeLinear", "DequantizeLinear"), _quantize),
    "LayerNormalization": _layer_norm,
    "Pad": _pad,
    "Resize": _resize,
    "TopK": _topk,
}
