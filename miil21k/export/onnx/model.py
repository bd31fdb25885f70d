"""One ONNX model from its parts: images, network, decoding, metadata."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
from onnx import TensorProto, helper

from miil21k import __version__
from miil21k.decode.decoder import Decoder
from miil21k.environment import installed_versions
from miil21k.export.onnx.decoding import HEDGE_INPUT, decoded_shapes, write_decoding
from miil21k.export.onnx.graph import IR_VERSION, OPSET, GraphWriter
from miil21k.export.onnx.images import CROP_INPUT, crops, write_crop, write_normalisation
from miil21k.export.onnx.network import OUTPUTS, PIXELS
from miil21k.export.onnx.rules import onnx_rule
from miil21k.hierarchy.bin_lines import bin_lines
from miil21k.predict.options import listed
from miil21k.zoo.export_card import ExportCard

if TYPE_CHECKING:
    from typing import Any

    from miil21k.export.options import ExportOptions, Form
    from miil21k.runtime.loading import Loaded
    from miil21k.zoo.schema import Preprocess

__all__ = ["IMAGES", "assemble", "card_of", "decoder_of", "image_model"]

IMAGES = "images"
_INDICES = {"topk_index", "path", "hedge_node"}


def decoder_of(loaded: Loaded, options: ExportOptions) -> Decoder:
    """Return what the graph of `loaded` decides by.

    Raises LabelSpaceMismatch for a calibration of another head, UsageError for a rule that a graph cannot hold,
    UnknownClass for a question that names no concept, or several.
    """
    decoder = Decoder(
        loaded.space,
        loaded.head,
        rule=options.rule,
        hedge=options.hedge,
        include_withdrawn=options.include_removed_labels,
        reading=options.reading,
        min_bits=options.min_bits,
    ).asking(listed(options.ask))
    if options.bins is not None:
        decoder = decoder.binned(bin_lines(options.bins))
    if options.calibration is not None:
        decoder = decoder.calibrated(options.calibration)
    if options.form == "full" and decoder.head == "level_softmax":
        onnx_rule(decoder.tree_rule)
    return decoder


def assemble(network: onnx.ModelProto, loaded: Loaded, options: ExportOptions, **facts: str) -> onnx.ModelProto:
    """Return the finished model of the form that `options` say.

    network: what `network_to_onnx` returned; it is changed, so that its weights are not copied. facts: `licence` and
    `weights_sha256` of the card.
    """
    full = options.form == "full"
    before, after = GraphWriter("images"), GraphWriter("decode")
    inputs = [_pixels(loaded.preprocess)]
    outputs = {value.name: value for value in network.graph.output}
    results = [_named_shape(outputs[name], name) for name in OUTPUTS]
    decoding: dict[str, Any] = {}
    if full:
        inputs = _write_images(before, loaded.preprocess)
        decoder = decoder_of(loaded, options)
        write_decoding(after, OUTPUTS[0], decoder, options.topk)
        inputs.append(helper.make_tensor_value_info(HEDGE_INPUT, TensorProto.FLOAT, []))
        results = [results[0], *_answers(decoded_shapes(decoder, options.topk)), results[1]]
        decoding = {"topk": options.topk, **decoder.record()}
    content = helper.make_graph([*before.nodes, *network.graph.node, *after.nodes], "miil21k", inputs, results)
    content.initializer.extend([*before.initializers, *after.initializers])
    _refill(network, content)
    card = card_of(loaded, options.form, decoding, packages=("onnx", "onnxscript"), **facts)
    helper.set_model_props(network, card.to_metadata())
    return network


def card_of(
    loaded: Loaded, form: Form, decoding: dict[str, Any], *, packages: tuple[str, ...] = (), **facts: Any
) -> ExportCard:
    """Return what an export of `loaded` says about itself; `packages` are those whose versions matter beside ours."""
    return ExportCard(
        model=loaded.name,
        arch=type(loaded.model).__name__,
        form=form,
        head=loaded.head,
        space=loaded.space,
        preprocess=loaded.preprocess,
        decoding=decoding,
        versions=installed_versions() | installed_versions(packages),
        **facts,
    )


def _refill(model: onnx.ModelProto, content: onnx.GraphProto) -> None:
    """Replace all but the weights of `model`, which may be gigabytes, by `content`, and add what that brings."""
    graph = model.graph
    for name in ("node", "input", "output", "value_info", "metadata_props"):
        graph.ClearField(name)
    for name in ("node", "input", "output", "initializer"):
        getattr(graph, name).extend(getattr(content, name))
    graph.name = content.name
    model.ir_version = IR_VERSION
    model.producer_name, model.producer_version = "miil21k", __version__


def image_model(preprocess: Preprocess) -> onnx.ModelProto:
    """Return the first part of a `full` graph alone: images -> `resized`, uint8 [B, 3, H, W]. For proofs."""
    graph = GraphWriter("images")
    graph.add("Identity", write_crop(graph, IMAGES, preprocess), output="resized")
    shape = ["batch", *preprocess.input_size]
    output = helper.make_tensor_value_info("resized", TensorProto.UINT8, shape)
    content = helper.make_graph(graph.nodes, "images", _image_inputs(preprocess), [output], graph.initializers)
    return helper.make_model(content, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


def _write_images(graph: GraphWriter, preprocess: Preprocess) -> list[onnx.ValueInfoProto]:
    write_normalisation(graph, write_crop(graph, IMAGES, preprocess), preprocess, PIXELS)
    return _image_inputs(preprocess)


def _image_inputs(preprocess: Preprocess) -> list[onnx.ValueInfoProto]:
    images = helper.make_tensor_value_info(IMAGES, TensorProto.UINT8, ["batch", "height", "width", 3])
    if not crops(preprocess):
        return [images]
    return [images, helper.make_tensor_value_info(CROP_INPUT, TensorProto.BOOL, [])]


def _pixels(preprocess: Preprocess) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(PIXELS, TensorProto.FLOAT, ["batch", *preprocess.input_size])


def _named_shape(output: onnx.ValueInfoProto, name: str) -> onnx.ValueInfoProto:
    """Return the declaration of a network output with its batch axis called `batch`."""
    width = output.type.tensor_type.shape.dim[1].dim_value
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width])


def _answers(shapes: dict[str, list[int]]) -> list[onnx.ValueInfoProto]:
    return [
        helper.make_tensor_value_info(
            name, TensorProto.INT32 if name in _INDICES else TensorProto.FLOAT, ["batch", *shape]
        )
        for name, shape in shapes.items()
    ]
