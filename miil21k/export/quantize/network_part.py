"""The network inside an export: taken out to be changed, and put back between preprocessing and decoding."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
from onnx import TensorProto, helper

from miil21k.export.onnx.network import OUTPUTS, PIXELS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnx import ModelProto, NodeProto

__all__ = ["put_network", "take_network"]


def take_network(model: ModelProto, input_size: tuple[int, int, int]) -> ModelProto:
    """Return the part of an export from `pixels`, float32 [batch, *input_size], to `logits` and `embedding`.

    Shapes inside it are inferred. The weights are copied; `model` stays as it is.
    """
    nodes = _inside(model)
    initializers = _used(model, nodes)
    declared = {value.name: value for value in model.graph.output}
    pixels = helper.make_tensor_value_info(PIXELS, TensorProto.FLOAT, ["batch", *input_size])
    graph = helper.make_graph(nodes, "network", [pixels], [declared[name] for name in OUTPUTS], initializers)
    network = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    return onnx.shape_inference.infer_shapes(network)


def put_network(model: ModelProto, network: ModelProto) -> ModelProto:
    """Return a copy of the export `model` whose network is `network`; its metadata are those of `model`."""
    inside = {output for node in _inside(model) for output in node.output}
    outer = [node for node in model.graph.node if not inside & set(node.output)]
    # What leads to `pixels` comes first; the decoding reads what the network writes.
    ahead: list[NodeProto] = []
    needed = {PIXELS}
    for node in reversed(outer):
        if needed & set(node.output):
            ahead.insert(0, node)
            needed |= set(node.input)
    first = {node.name for node in ahead}
    behind = [node for node in outer if node.name not in first]
    kept = [*_used(model, outer), *_defaults(model)]
    graph = helper.make_graph(
        [*ahead, *network.graph.node, *behind],
        model.graph.name,
        model.graph.input,
        model.graph.output,
        [*{tensor.name: tensor for tensor in kept}.values(), *network.graph.initializer],
    )
    domains = {item.domain: item for item in (*model.opset_import, *network.opset_import)}
    whole = helper.make_model(
        graph,
        opset_imports=list(domains.values()),
        ir_version=max(model.ir_version, network.ir_version),
        producer_name=model.producer_name,
        producer_version=model.producer_version,
    )
    whole.metadata_props.extend(model.metadata_props)
    return whole


def _inside(model: ModelProto) -> list[NodeProto]:
    needed, found = set(OUTPUTS), []
    for node in reversed(model.graph.node):
        if needed & set(node.output) and PIXELS not in node.output:
            found.append(node)
            needed |= set(node.input)
    return found[::-1]


def _used(model: ModelProto, nodes: Sequence[NodeProto]) -> list[TensorProto]:
    names = {name for node in nodes for name in node.input}
    return [tensor for tensor in model.graph.initializer if tensor.name in names]


def _defaults(model: ModelProto) -> list[TensorProto]:
    """Return the defaults of the optional inputs."""
    inputs = {value.name for value in model.graph.input}
    return [tensor for tensor in model.graph.initializer if tensor.name in inputs]
