"""Weights that do not fit in one file lie beside it, and are never read with the graph of another."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from miil21k.errors import CheckpointError, ExportError
from miil21k.export.onnx.file import export_onnx, own_photographs
from miil21k.export.onnx.proof import open_session
from miil21k.export.onnx.report import report_path
from miil21k.export.onnx.saving import put_in_place, weights_path, write_model
from miil21k.export.triton.repository import export_triton
from miil21k.predict.predictor import Predictor
from miil21k.zoo.export_card import WEIGHTS_KEY, read_export_card, read_metadata

if TYPE_CHECKING:
    from pathlib import Path

    from miil21k.runtime.loading import Loaded


@pytest.fixture(scope="module")
def pair(small: Loaded, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pair") / "small.onnx"
    report = export_onnx(small, path, most_bytes=100_000)
    assert report["weights_file"] == "small.onnx.data"
    assert report["bytes"] == path.stat().st_size + weights_path(path).stat().st_size
    assert report["proof"]["worst"]["logits"] < 1e-5
    return path


def test_a_large_export_is_two_files_and_their_report(pair: Path, small: Loaded) -> None:
    assert sorted(path.name for path in pair.parent.iterdir()) == ["small.onnx", "small.onnx.data", "small.onnx.json"]
    assert pair.stat().st_size < weights_path(pair).stat().st_size / 4
    assert report_path(pair).exists()
    model = onnx.load(pair, load_external_data=False)
    inside = [tensor for tensor in model.graph.initializer if not tensor.external_data]
    assert {"crop", "hedge"} <= {tensor.name for tensor in inside}
    assert not {tensor.name for tensor in inside} & {name for name, _ in small.model.named_parameters()}
    assert read_export_card(pair).space.num_classes == 1000


def test_a_large_export_answers_wherever_both_files_go(pair: Path, tmp_path: Path, tensor_export: Path) -> None:
    moved = tmp_path / "other.onnx"  # the name of the second file is fixed, that of the first is not
    shutil.copy(pair, moved)
    shutil.copy(weights_path(pair), tmp_path)
    ours, theirs = (
        Predictor(str(path), device="cpu", embeddings=True).predict(own_photographs()[0])
        for path in (moved, tensor_export)
    )
    assert [node.wnid for node in ours.topk] == [node.wnid for node in theirs.topk]
    assert ours.embedding is not None
    assert theirs.embedding is not None
    assert np.abs(ours.embedding - theirs.embedding).max() <= 1e-4 * np.ptp(theirs.embedding)


def test_weights_that_are_missing_or_cut_are_named(pair: Path, tmp_path: Path) -> None:
    alone = tmp_path / "small.onnx"
    shutil.copy(pair, alone)
    with pytest.raises(CheckpointError, match=r"lie in '.*small\.onnx\.data', and that file is not there: copy both"):
        Predictor(str(alone))
    weights = weights_path(pair).read_bytes()
    weights_path(alone).write_bytes(weights[:-1])
    with pytest.raises(CheckpointError, match=f"has {len(weights) - 1} bytes instead of {len(weights)}"):
        read_export_card(alone)


def test_triton_is_given_both_files(pair: Path, tmp_path: Path) -> None:
    for version in ("1", "2"):
        served = export_triton(pair, tmp_path)
        folder = served.folder / version / "model.onnx"
        assert sorted(path.name for path in folder.iterdir()) == ["model.onnx", "small.onnx.data"]
        assert read_export_card(folder / "model.onnx").model == "test_resnet.random"


def a_model(value: float) -> onnx.ModelProto:
    """Return y = x + 300 values."""
    weights = numpy_helper.from_array(np.full(300, value, np.float32), "weights")
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [300]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "weights"], ["y"])], "sum", [x], [y], [weights])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def written(value: float, output: Path, *, beside: bool) -> Path:
    """Return the path of a model in a folder beside `output`, its weights inside or beside it."""
    part = output.with_name("part") / output.name
    part.parent.mkdir()
    model = a_model(value)
    if beside:
        onnx.save_model(model, part, save_as_external_data=True, location=weights_path(part).name)
        model = onnx.load(part, load_external_data=False)
    sizes = write_model(model, part)
    assert sizes == sum(path.stat().st_size for path in part.parent.iterdir())
    return part


def put(value: float, output: Path, *, beside: bool) -> None:
    part = written(value, output, beside=beside)
    put_in_place(part, output)
    part.parent.rmdir()
    found = open_session(output).run(None, {"x": np.zeros(300, np.float32)})[0]
    assert np.array_equal(found, np.full(300, value, np.float32))


def test_pairs_and_single_files_replace_each_other(tmp_path: Path) -> None:
    output = tmp_path / "model.onnx"
    for value, beside in enumerate((True, True, False, False, True)):
        put(value, output, beside=beside)
        assert weights_path(output).exists() == beside
        assert (WEIGHTS_KEY in read_metadata(output)) == beside
        assert len(list(tmp_path.iterdir())) == 1 + beside


def test_a_new_graph_is_not_seen_before_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "model.onnx"
    put(1, output, beside=True)
    part = written(2, output, beside=True)
    moved = type(output).replace

    def killed(self: Path, target: Path) -> Path:
        if self.suffix == ".onnx":
            raise KeyboardInterrupt
        return moved(self, target)

    monkeypatch.setattr(type(output), "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        put_in_place(part, output)
    assert not output.exists()  # the old graph would have read the new weights


def test_a_file_of_somebody_else_beside_an_export_stays(tmp_path: Path) -> None:
    output = tmp_path / "model.onnx"
    put(1, output, beside=False)
    weights_path(output).write_text("notes")
    put(2, output, beside=False)
    assert weights_path(output).read_text() == "notes"


def test_a_folder_that_is_missing_and_a_model_that_is_none_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"Cannot write .*missing: No such file"):
        write_model(a_model(1), tmp_path / "missing" / "model.onnx")
    broken = a_model(1)
    broken.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(ExportError, match=r"no valid ONNX model: .*NoSuchOperator"):
        write_model(broken, tmp_path / "model.onnx")
