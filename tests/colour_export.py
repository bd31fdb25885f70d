"""An export that tells colours apart by their mean: a real file for ONNX Runtime, opened in no time."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from shapes import COLOURS, shape_space

from miil21k.zoo.export_card import ExportCard
from miil21k.zoo.schema import Preprocess

if TYPE_CHECKING:
    from pathlib import Path

EDGE = 8


def write_colour_export(path: Path, *, takes_bytes: bool = False) -> None:
    """Write an export of the space of `shapes`: it sees which colour an image has, and never of which form it is.

    takes_bytes: it takes crops, uint8 [B, EDGE, EDGE, 3], as the form `full` does.
    """
    space = shape_space()
    weight, bias = np.zeros((14, 3), np.float32), np.full(14, -50, np.float32)
    for index, name in enumerate(space.tree.names):
        colour, _, form = name.partition("_")
        if form:  # less the further its colour is from the image's
            target = np.array(COLOURS[colour]) / 255
            weight[index], bias[index] = 40 * target, -20 * target @ target
    batch: list[str | int] = ["batch", 3, EDGE, EDGE]
    images = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, batch)
    first = []
    if takes_bytes:
        images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", EDGE, EDGE, 3])
        first = [
            helper.make_node("Cast", ["images"], ["levels"], to=TensorProto.FLOAT),
            helper.make_node("Transpose", ["levels"], ["planes"], perm=[0, 3, 1, 2]),
            helper.make_node("Div", ["planes", "most"], ["pixels"]),
        ]
    graph = helper.make_graph(
        [
            *first,
            helper.make_node("ReduceMean", ["pixels"], ["embedding"], axes=[2, 3], keepdims=0),
            helper.make_node("Gemm", ["embedding", "weight", "bias"], ["logits"], transB=1),
        ],
        "colours",
        [images],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 14]),
            helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", 3]),
        ],
        [
            numpy_helper.from_array(weight, "weight"),
            numpy_helper.from_array(bias, "bias"),
            numpy_helper.from_array(np.float32(255), "most"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    card = ExportCard(
        model="colours",
        arch="MeanColour",
        form="full" if takes_bytes else "tensor",
        head="leaf_softmax",
        space=space,
        preprocess=Preprocess((3, EDGE, EDGE), "bilinear", 1.0, "center", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "here"),
        decoding={},
        licence="CC0-1.0",
        weights_sha256="0" * 64,
        versions={},
    )
    helper.set_model_props(model, card.to_metadata())
    onnx.save(model, path)


def coloured(name: str) -> bytes:
    """Return a PNG of one of `COLOURS`."""
    file = io.BytesIO()
    Image.new("RGB", (12, 9), COLOURS[name]).save(file, "png")
    return file.getvalue()
