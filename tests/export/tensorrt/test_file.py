"""What no engine can be built of is refused at once; an engine is kept when it computes what the file does."""

from __future__ import annotations

import hashlib
import json
import shlex
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
import timm
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from small_networks import small_network
from timm.layers import BlurPool2d

from miil21k.cli.main import main
from miil21k.errors import ExportError, UsageError
from miil21k.export.onnx.file import export_onnx, own_photographs
from miil21k.export.onnx.model import decoder_of
from miil21k.export.onnx.padding import padding_difference, with_zero_padding
from miil21k.export.onnx.proof import open_session
from miil21k.export.options import EngineOptions, ExportOptions, QuantizeOptions
from miil21k.export.quantize.quantize import quantize_onnx
from miil21k.export.tensorrt.engine import missing
from miil21k.export.tensorrt.file import PRECISION_BOUNDS, export_tensorrt, plan_command, precision_of, trtexec_line
from miil21k.zoo.export_card import read_export_card

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PHOTOS = own_photographs()


class OrtEngine:
    """Stands in for an engine: ONNX Runtime runs the same file, its weights off by a share of their size."""

    def __init__(self, model: Path, off: float = 0.0) -> None:
        graph = onnx.load(model)
        rng = np.random.default_rng(0)
        for tensor in graph.graph.initializer:
            if tensor.data_type == TensorProto.FLOAT and off:
                values = numpy_helper.to_array(tensor)
                noise = rng.standard_normal(values.shape).astype(np.float32)
                tensor.CopyFrom(numpy_helper.from_array(values * (1 + off * noise), tensor.name))
        self.plan = graph.SerializeToString()
        self.facts = {"tensorrt": "none", "gpu": "none", "compute_capability": "none"}
        self.batches: list[int] = []
        self._session = open_session(self.plan)

    def run(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        self.batches.append(len(pixels))
        names = ["logits", "embedding"]
        return dict(zip(names, self._session.run(names, {"pixels": pixels}), strict=True))


def test_a_proved_engine_is_kept_with_its_report(tensor_export: Path, tmp_path: Path) -> None:
    engine = OrtEngine(tensor_export, off=1e-7)
    output = tmp_path / "small.engine"
    report = export_tensorrt(tensor_export, output, EngineOptions((1, 4, 9)), photos=PHOTOS, build=lambda *_: engine)
    assert output.read_bytes() == engine.plan
    assert report == json.loads((tmp_path / "small.engine.json").read_text())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small.engine", "small.engine.json"]
    assert report["onnx"]["sha256"] == hashlib.sha256(tensor_export.read_bytes()).hexdigest()
    assert (report["precision"], report["batch"], report["label_space"]) == ("float32", [1, 4, 9], "in1k")
    assert set(engine.batches) == {1, 2, 7, 9}
    assert 0 < report["proof"]["logits"] < report["proof"]["bound"] == PRECISION_BOUNDS["float32"] == 1e-4
    for row in report["proof"]["rows"]:
        assert row["same_top1"] == row["same_path"] == row["batch"]
    assert {(row["images"], row["batch"]) for row in report["proof"]["rows"]} == {
        (kind, size) for kind in ("noise", "photographs") for size in (1, 2, 7, 9)
    }


def test_an_engine_over_its_bound_leaves_what_was_there(tensor_export: Path, tmp_path: Path) -> None:
    output = tmp_path / "small.engine"
    output.write_bytes(b"the old one")
    wrong: Callable[..., OrtEngine] = lambda *_: OrtEngine(tensor_export, off=0.01)  # noqa: E731
    with pytest.raises(ExportError, match=r"from ONNX Runtime's on the same file, over 0\.0001, so it was not kept"):
        export_tensorrt(tensor_export, output, build=wrong)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"small.engine": b"the old one"}
    report = export_tensorrt(tensor_export, output, bound=0.5, build=wrong)
    assert 1e-4 < report["proof"]["logits"] < 0.5
    assert output.read_bytes() != b"the old one"


def test_engines_of_nan_are_refused(tensor_export: Path, tmp_path: Path) -> None:
    engine = OrtEngine(tensor_export)
    run = engine.run
    engine.run = lambda pixels: {name: values * np.nan for name, values in run(pixels).items()}  # type: ignore[method-assign]
    with pytest.raises(ExportError, match="undefined logits on noise in a batch of 1"):
        export_tensorrt(tensor_export, tmp_path / "x.engine", bound=1.0, build=lambda *_: engine)
    assert not list(tmp_path.iterdir())


def test_the_command_names_shapes_types_and_caches(tensor_export: Path, tmp_path: Path) -> None:
    options = EngineOptions(
        (1, 8, 64), workspace=2048, timing_cache=tmp_path / "a cache", version_compatible=True, optimization_level=4
    )
    words = shlex.split(plan_command(tensor_export, tmp_path / "m.engine", options))
    assert words == [
        "trtexec",
        f"--onnx={tensor_export}",
        f"--saveEngine={tmp_path / 'm.engine'}",
        "--minShapes=pixels:1x3x160x160",
        "--optShapes=pixels:8x3x160x160",
        "--maxShapes=pixels:64x3x160x160",
        "--stronglyTyped",
        "--noTF32",
        "--memPoolSize=workspace:2048",
        f"--timingCacheFile={tmp_path / 'a cache'}",
        "--versionCompatible",
        "--builderOptimizationLevel=4",
        "--skipInference",
    ]
    assert "--noTF32" not in trtexec_line(tensor_export, tmp_path, "x", (3, 8, 8), EngineOptions(tf32=True))


@given(st.tuples(*[st.integers(-2, 40)] * 3))
def test_profiles_grow_from_one_up(batch: tuple[int, int, int]) -> None:
    if 1 <= batch[0] <= batch[1] <= batch[2]:
        assert [shape[0] for shape in EngineOptions(batch).shapes((3, 5, 6))] == list(batch)
    else:
        with pytest.raises(UsageError, match="growing from 1 up"):
            EngineOptions(batch)


def test_the_whole_graph_is_refused_with_the_way_out(
    embedded_export: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "tensorrt", str(embedded_export), "-o", str(tmp_path / "m.engine"), "--command"]) == 2
    error = capsys.readouterr().err
    assert "whose antialiased resize TensorRT does not have" in error
    assert "--form tensor" in error


def test_the_precision_is_that_of_the_file(tensor_export: Path) -> None:
    model = onnx.load(tensor_export)
    assert precision_of(model) == "float32"
    half = numpy_helper.from_array(np.zeros(2, np.float16), "half")
    model.graph.initializer.append(half)
    assert precision_of(model) == "float16"
    model.graph.node.append(helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]))
    assert precision_of(model) == "int8"


def test_symmetric_int8_is_taken_and_proved(tensor_export: Path, tmp_path: Path) -> None:
    kept = QuantizeOptions(min_agreement=1e-9, most_left_out=0, symmetric=True)
    symmetric, plain = tmp_path / "symmetric.onnx", tmp_path / "plain.onnx"
    crops = [tmp_path / f"{photo.stem}_{edge}.png" for photo in PHOTOS for edge in (120, 160, 200, 240)]
    for path, (photo, edge) in zip(crops, product(PHOTOS, (120, 160, 200, 240)), strict=True):
        Image.open(photo).crop((20, 20, 20 + edge, 20 + edge)).save(path)
    report = quantize_onnx(tensor_export, symmetric, PHOTOS, kept, judges=crops)
    assert report["quantization"]["symmetric"] is read_export_card(symmetric).quantization["symmetric"] is True
    graph = onnx.load(symmetric)
    assert sum(node.op_type == "QuantizeLinear" for node in graph.graph.node) > 10
    fixed = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    pairs = [node for node in graph.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert {fixed[node.input[2]].dtype.name for node in pairs} == {"int8"}
    assert not any(fixed[node.input[2]].any() for node in pairs)
    output = tmp_path / "small.engine"
    proved = export_tensorrt(symmetric, output, photos=PHOTOS, build=lambda *_: OrtEngine(symmetric, off=1e-4))
    assert (proved["precision"], proved["proof"]["bound"]) == ("int8", PRECISION_BOUNDS["int8"])
    assert 0 < proved["proof"]["logits"] < PRECISION_BOUNDS["int8"]
    uneven = replace(kept, symmetric=False, require_faster=False)
    quantize_onnx(tensor_export, plain, PHOTOS, uneven, judges=crops)
    with pytest.raises(UsageError, match=r"rounds symmetrically about zero: .* quantize --symmetric"):
        export_tensorrt(plain, output, build=lambda *_: OrtEngine(plain))
    with pytest.raises(UsageError, match="symmetric is of mode static: fp16 has no"):
        QuantizeOptions(mode="fp16", symmetric=True)


@pytest.mark.skipif(missing() is None, reason="TensorRT and a GPU are here")
def test_without_tensorrt_the_line_for_trtexec_is_offered(
    tensor_export: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "m.engine"
    assert main(["export", "tensorrt", str(tensor_export), "-o", str(output), "--batch", "1,2,4"]) == 1
    error = capsys.readouterr().err
    assert "pip install 'miil21k[tensorrt]'" in error
    assert "--maxShapes=pixels:4x3x160x160" in error
    assert main(["export", "tensorrt", str(tensor_export), "-o", str(output), "--command"]) == 0
    assert capsys.readouterr().out.startswith("trtexec --onnx=")
    for words, sentence in (
        (["-o", str(output), "--batch", "4,2,1"], "growing from 1 up"),
        (["-o", str(tmp_path / "none" / "m.engine")], "There is no folder"),
    ):
        assert main(["export", "tensorrt", str(tensor_export), *words]) == 2
        assert sentence in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["export", "tensorrt", str(tensor_export), "-o", str(output), "--workspace", "0"])
    assert "--workspace: must be at least 1, not 0" in capsys.readouterr().err
    output.write_bytes(b"here")
    assert main(["export", "tensorrt", str(tensor_export), "-o", str(output)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.engine"]


@pytest.mark.skipif(missing() is not None, reason="needs TensorRT and a GPU")
def test_a_real_engine_is_built_and_proved(tensor_export: Path, tmp_path: Path) -> None:
    options = EngineOptions((1, 4, 8), timing_cache=tmp_path / "cache")
    report = export_tensorrt(tensor_export, tmp_path / "m.engine", options, photos=PHOTOS)
    assert report["proof"]["logits"] <= 1e-4
    assert (tmp_path / "cache").stat().st_size > 0


def test_zero_padding_is_another_network_and_measured(tmp_path: Path) -> None:
    plain = small_network()
    with pytest.raises(UsageError, match="reflects no edges"):
        with_zero_padding(plain)
    blurred = replace(plain, model=timm.create_model("test_resnet", num_classes=1000, aa_layer=BlurPool2d).eval())
    decoder = decoder_of(blurred, ExportOptions())
    same = padding_difference(blurred, blurred, decoder, PHOTOS)
    assert same["photographs"] == {"images": 3, "logits": 0.0, "same_top1": 3, "same_path": 3, "same_hedge": 3}
    report = export_onnx(blurred, tmp_path / "m.onnx", ExportOptions(form="tensor", padding="zeros"))
    assert report["zero_padding"]["noise"]["images"] == 4
    assert 1e-4 < report["zero_padding"]["photographs"]["logits"] < 1
    assert report["model"] == read_export_card(tmp_path / "m.onnx").model == "test_resnet.random (zero padding)"
    modes = [a.s for node in onnx.load(tmp_path / "m.onnx").graph.node for a in node.attribute if a.name == "mode"]
    assert b"reflect" not in modes
    assert {module.pad_mode for module in blurred.model.modules() if isinstance(module, BlurPool2d)} == {"reflect"}
