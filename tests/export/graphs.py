"""Small graphs around the parts of an export, and a session that runs them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from miil21k.export.onnx.decoding import HEDGE_INPUT, decoded_shapes, write_decoding
from miil21k.export.onnx.graph import IR_VERSION, OPSET, GraphWriter
from miil21k.export.onnx.proof import open_session

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnxruntime import InferenceSession

    from miil21k.decode.decoder import Decoder

INDICES = {"topk_index", "path", "hedge_node"}


def session_of(
    graph: GraphWriter, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto]
) -> InferenceSession:
    content = helper.make_graph(graph.nodes, "part", inputs, outputs, graph.initializers)
    model = helper.make_model(content, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model)
    return open_session(model.SerializeToString())


class DecodingGraph:
    """The decoding part alone: logits -> answers by name."""

    def __init__(self, decoder: Decoder, topk: int = 5) -> None:
        graph = GraphWriter("decode")
        write_decoding(graph, "logits", decoder, topk)
        logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", decoder.space.num_classes])
        level = helper.make_tensor_value_info(HEDGE_INPUT, TensorProto.FLOAT, [])
        outputs = []
        for name, shape in decoded_shapes(decoder, topk).items():
            dtype = TensorProto.INT32 if name in INDICES else TensorProto.FLOAT
            outputs.append(helper.make_tensor_value_info(name, dtype, ["batch", *shape]))
        self.names = [value.name for value in outputs]
        self.bytes = sum(len(tensor.raw_data) for tensor in graph.initializers)
        self._session = session_of(graph, [logits, level], outputs)

    def __call__(self, logits: np.ndarray, level: float | None = None) -> dict[str, Any]:
        feed = {"logits": logits}
        if level is not None:
            feed[HEDGE_INPUT] = np.array(level, np.float32)
        return dict(zip(self.names, self._session.run(self.names, feed), strict=True))
