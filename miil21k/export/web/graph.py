"""The graph that a page in a browser runs: that of an export of the form full, with P of every concept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnx
from onnx import TensorProto, helper

from miil21k.decode.decoded import concept_graph
from miil21k.errors import UsageError
from miil21k.export.onnx.decoding import BINS, DECODED, HEDGE_INPUT, write_concepts
from miil21k.export.onnx.graph import GraphWriter
from miil21k.export.onnx.images import CROP_INPUT
from miil21k.zoo.export_card import weights_file

if TYPE_CHECKING:
    from pathlib import Path

    from miil21k.zoo.export_card import ExportCard

__all__ = ["CONCEPTS", "web_graph"]

CONCEPTS = "concepts"


def web_graph(path: Path, card: ExportCard) -> onnx.ModelProto:
    """Return the export at `path`, of the card `card`, as a page runs it.

    Its answers are those of the export, to the bit. What differs: `concepts`, float32 [B, K], is P of every concept;
    `hedge` has to be given, since JavaScript cannot set inputs that have a default; `crop` is always true; outputs that
    no page shows are gone, with what only they need; so are the texts of label space and concepts, which lie beside it.
    Raises UsageError for the form `tensor`, and for a graph whose weights lie in a second file (above 2 GB).
    """
    if card.form != "full":
        raise UsageError(f"'{path}' is of the form {card.form}, which answers nothing: export the form full.")
    if weights_file(path) is not None:
        raise UsageError(
            f"The weights of '{path}' are larger than 2 GB, more than a browser holds: take a smaller model."
        )
    model = onnx.load(path)
    graph = model.graph
    writer = GraphWriter("concepts")
    write_concepts(writer, "logits", card.decoder(), CONCEPTS)
    graph.node.extend(writer.nodes)
    graph.initializer.extend(writer.initializers)
    shown = [value for value in graph.output if value.name in {*DECODED, BINS}]
    size = len(concept_graph(card.space))
    shown.append(helper.make_tensor_value_info(CONCEPTS, TensorProto.FLOAT, ["batch", size]))
    _refill(graph.output, shown)
    _refill(graph.input, [value for value in graph.input if value.name != CROP_INPUT])
    _refill(graph.initializer, [tensor for tensor in graph.initializer if tensor.name != HEDGE_INPUT])
    _drop_unused(graph)
    kept = [entry for entry in model.metadata_props if not entry.key.endswith("_text")]
    _refill(model.metadata_props, kept)
    return model


def _drop_unused(graph: onnx.GraphProto) -> None:
    """Remove the nodes and constants that no output needs."""
    made_by = {name: at for at, node in enumerate(graph.node) for name in node.output}
    needed: set[str] = set()
    kept: set[int] = set()
    todo = [value.name for value in graph.output]
    while todo:
        name = todo.pop()
        if name in needed:
            continue
        needed.add(name)
        if name in made_by:  # else an input or a constant
            kept.add(made_by[name])
            todo += graph.node[made_by[name]].input
    _refill(graph.node, [node for at, node in enumerate(graph.node) if at in kept])
    _refill(graph.initializer, [tensor for tensor in graph.initializer if tensor.name in needed])
    graph.ClearField("value_info")


def _refill(field: Any, values: list[Any]) -> None:
    copied = [type(value).FromString(value.SerializeToString()) for value in values]
    del field[:]
    field.extend(copied)
