"""The metadata of an ONNX file is read without onnx, and damage is told from truth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from onnx import TensorProto, helper

from miil21k.errors import CheckpointError, LabelSpaceMismatch
from miil21k.hierarchy.load import load_label_space
from miil21k.zoo.export_card import ExportCard, read_export_card, read_metadata
from miil21k.zoo.schema import Preprocess

if TYPE_CHECKING:
    from pathlib import Path


def write(path: Path, metadata: dict[str, str], weights: int = 300) -> Path:
    """Write a model of one constant of `weights` floats with that metadata."""
    constant = helper.make_tensor("weights", TensorProto.FLOAT, [weights], [0.5] * weights)
    output = helper.make_tensor_value_info("out", TensorProto.FLOAT, [weights])
    node = helper.make_node("Identity", ["weights"], ["out"])
    model = helper.make_model(helper.make_graph([node], "one", [], [output], [constant]), doc_string="x" * 200)
    helper.set_model_props(model, metadata)
    path.write_bytes(model.SerializeToString())
    return path


def card() -> ExportCard:
    preprocess = Preprocess((3, 8, 8), "bilinear", 1.0, "squash", (0, 0, 0), (1, 1, 1), "test")
    decoding = {"topk": 5, "masked": ["n1"], "temperature": None}
    space = load_label_space("in1k")
    return ExportCard("m", "Net", "full", "leaf_softmax", space, preprocess, decoding, "MIT", "ab", {"torch": "2"})


def test_a_card_comes_back_as_it_was_written(tmp_path: Path) -> None:
    written = card()
    read = read_export_card(write(tmp_path / "m.onnx", written.to_metadata()))
    assert read.to_metadata() == written.to_metadata()
    assert read.space.sha256 == written.space.sha256
    assert read.space.glosses == written.space.glosses
    assert read.preprocess == written.preprocess


def test_long_and_foreign_texts_survive(tmp_path: Path) -> None:
    texts = {"empty": "", "long": "é\t\n" * 50_000, "名前": "猫"}
    assert read_metadata(write(tmp_path / "m.onnx", texts)) == texts


def test_a_file_cut_anywhere_is_never_read_as_whole(tmp_path: Path) -> None:
    whole = write(tmp_path / "m.onnx", {"a": "b" * 40, "c": "d"}).read_bytes()
    cut = tmp_path / "cut.onnx"
    for length in range(len(whole)):
        cut.write_bytes(whole[:length])
        try:
            found = read_metadata(cut)
        except CheckpointError:
            continue
        assert found != {"a": "b" * 40, "c": "d"}


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04rubbish", b"\xff" * 50, b"{}", b"\x08\x09"])
def test_what_is_no_model_is_an_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="no ONNX model"):
        read_metadata(path)


@pytest.mark.parametrize(
    ("key", "value", "error"),
    [
        ("miil21k_format", "9", "Export the model again"),
        ("head", "softmax", "head softmax"),
        ("preprocess", "{}", "preprocess"),
        ("decoding", "{", "damaged"),
        ("label_space_text", "nothing", "damaged|line 1"),
    ],
)
def test_damaged_metadata_is_named(tmp_path: Path, key: str, value: str, error: str) -> None:
    with pytest.raises(Exception, match=error) as raised:
        read_export_card(write(tmp_path / "m.onnx", {**card().to_metadata(), key: value}))
    assert type(raised.value).__module__ == "miil21k.errors"


def test_a_label_space_that_was_changed_is_refused(tmp_path: Path) -> None:
    metadata = card().to_metadata()
    metadata["label_space_sha256"] = "0" * 64
    with pytest.raises(LabelSpaceMismatch, match="changed after its export"):
        read_export_card(write(tmp_path / "m.onnx", metadata))
