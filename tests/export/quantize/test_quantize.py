"""A quantised export answers as fp32 does on pictures that did not set it up, or is not written."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import hypothesis
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper
from PIL import Image
from small_networks import small_network

from miil21k.cli.main import main
from miil21k.data.transforms import normalise
from miil21k.errors import ExportError, UsageError
from miil21k.export.onnx.file import export_onnx, own_photographs
from miil21k.export.onnx.graph import IR_VERSION, OPSET
from miil21k.export.onnx.proof import open_session
from miil21k.export.onnx.report import report_path
from miil21k.export.options import ExportOptions, QuantizeOptions
from miil21k.export.quantize.agreement import Agreeing, Agreement, speed_ratios
from miil21k.export.quantize.calibration_set import divide, read_crops, spread
from miil21k.export.quantize.network_part import put_network, take_network
from miil21k.export.quantize.precision import dynamic_int8, fp16, measure_ranges, quantizable, static_int8, staying
from miil21k.export.quantize.quantize import quantize_onnx
from miil21k.export.quantize.search import (
    LOOKS,
    Aim,
    Search,
    Setting,
    choose_mode,
    network_logits,
    share_needed,
)
from miil21k.predict.predictor import Predictor
from miil21k.runtime.int8_probe import products_are_exact
from miil21k.runtime.loading import open_export
from miil21k.zoo.export_card import read_export_card

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

    from miil21k.runtime.loading import Loaded

WEIGHTS = ("w0", "w1", "w2")
KEEP = QuantizeOptions(min_agreement=0.5, require_faster=False)


def cut(folder: Path, per_photograph: int, seed: int) -> Path:
    """Write crops of the photographs that come with miil21k."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for path in own_photographs():
        image = Image.open(path)
        for at in range(per_photograph):
            edge = int(min(image.size) * rng.uniform(0.5, 0.95))
            left, top = (int(rng.integers(0, length - edge)) for length in image.size)
            image.crop((left, top, left + edge, top + edge)).save(folder / f"{path.stem}_{at}.png")
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return sorted(cut(tmp_path_factory.mktemp("pictures") / "setting", 4, 0).iterdir())


@pytest.fixture(scope="module")
def judges(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return sorted(cut(tmp_path_factory.mktemp("judges") / "judging", 6, 1).iterdir())


@pytest.fixture(scope="module")
def small_full(small: Loaded, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("full") / "small.onnx"
    export_onnx(small, path)
    return path


@pytest.fixture(scope="module")
def small_vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vit") / "vit.onnx"
    export_onnx(small_network("test_vit"), path, ExportOptions(form="tensor"))
    return path


def network_of(path: Path) -> onnx.ModelProto:
    return take_network(onnx.load(path), read_export_card(path).preprocess.input_size)


def pixels_for(path: Path, count: int) -> np.ndarray:
    size = read_export_card(path).preprocess.input_size
    return np.random.default_rng(0).standard_normal((count, *size)).astype(np.float32)


def ranges_of(network: onnx.ModelProto, pixels: np.ndarray) -> Any:
    return measure_ranges(network, iter([pixels]), "minmax")


def test_the_network_is_taken_out_and_put_back_unchanged(small_full: Path, judges: list[Path]) -> None:
    model = onnx.load(small_full)
    again = put_network(model, network_of(small_full))
    onnx.checker.check_model(again)
    assert [prop.key for prop in again.metadata_props] == [prop.key for prop in model.metadata_props]
    images = np.asarray(Image.open(judges[0]).convert("RGB"))[None]
    before = open_session(model.SerializeToString()).run(None, {"images": images})
    after = open_session(again.SerializeToString()).run(None, {"images": images})
    assert all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))
    assert quantizable(network_of(small_full), "static")
    assert not any(node.name.startswith(("images/", "decode/")) for node in network_of(small_full).graph.node)


def test_static_int8_is_written_judged_and_predicts(
    small_full: Path, pictures: list[Path], judges: list[Path], tmp_path: Path
) -> None:
    output = tmp_path / "small.int8.onnx"
    report = quantize_onnx(small_full, output, pictures, KEEP, judges=judges)
    measured = report["quantization"]
    assert (measured["mode"], measured["agreement"]["images"]) == ("static", len(judges))
    assert 0.5 <= measured["agreement"]["top1"] <= 1
    assert measured["agreement"]["logits"] > 0
    assert measured["times_faster"].keys() == {"batch 1", "batch 8"}
    assert report["bytes"] == output.stat().st_size < report["bytes_fp32"]
    assert json.loads(report_path(output).read_text()) == report
    card = read_export_card(output)
    assert card.precision == "int8"
    assert card.quantization["agreement"] == measured["agreement"]
    answer = Predictor(str(output), device="cpu").predict(judges[0])
    assert answer.to_dict()["dtype"] == "int8"
    kinds = {tensor.data_type for tensor in onnx.load(output).graph.initializer}
    assert onnx.TensorProto.INT8 in kinds
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small.int8.onnx", "small.int8.onnx.json"]


def test_preprocessing_decoding_and_outputs_stay_float(small_full: Path, pictures: list[Path], tmp_path: Path) -> None:
    output = tmp_path / "small.int8.onnx"
    quantize_onnx(small_full, output, pictures, KEEP)
    before, after = onnx.load(small_full), onnx.load(output)
    for prefix in ("images/", "decode/"):
        ours, theirs = ([n for n in model.graph.node if n.name.startswith(prefix)] for model in (after, before))
        assert [node.SerializeToString() for node in ours] == [node.SerializeToString() for node in theirs]
    writer = {name: node.op_type for node in after.graph.node for name in node.output}
    assert writer["logits"] == "Gemm"
    assert writer["embedding"] != "DequantizeLinear"


def test_a_setting_that_ruins_the_answers_is_refused_and_leaves_nothing(
    small_full: Path, pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from miil21k.export.quantize import search

    real = search.static_int8

    def ruined(network: onnx.ModelProto, *args: Any, **kwargs: Any) -> onnx.ModelProto:
        found = real(network, *args, **kwargs)
        for tensor in found.graph.initializer:
            if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) > 1:
                values = numpy_helper.to_array(tensor)
                tensor.CopyFrom(numpy_helper.from_array(np.roll(values, 1, axis=0), tensor.name))
        return found

    monkeypatch.setattr(search, "static_int8", ruined)
    output = tmp_path / "ruined.onnx"
    output.write_bytes(b"an older one")
    ruin = r"was not quantised: the best of [2-7] settings \(INT8 static, minmax, \d+ of \d"
    options = QuantizeOptions(require_faster=False, most_left_out=0.25, min_agreement=0.6)
    with pytest.raises(ExportError, match=ruin):
        quantize_onnx(small_full, output, pictures, options)
    assert output.read_bytes() == b"an older one"
    assert [path.name for path in tmp_path.iterdir()] == ["ruined.onnx"]


def test_what_is_not_faster_is_refused_unless_it_may_be(
    small_full: Path, pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from miil21k.export.quantize import quantize

    monkeypatch.setattr(quantize, "speed_ratios", lambda *_: {1: 1.4, 8: 1.01})
    output = tmp_path / "slow.onnx"
    with pytest.raises(ExportError, match=r"not faster than fp32 in onnx here \(1.40x in batches of 1, 1.01x in"):
        quantize_onnx(small_full, output, pictures, QuantizeOptions(min_agreement=0.5))
    assert not list(tmp_path.iterdir())
    assert quantize_onnx(small_full, output, pictures, KEEP)["quantization"]["times_faster"]["batch 8"] == 1.01


def test_speeds_are_those_of_one_thread(small_full: Path) -> None:
    card = read_export_card(small_full)
    engines = [open_export(small_full, card, backend="onnx", device="cpu", dtype="fp32") for _ in range(2)]
    used = []
    for engine in engines:
        run = engine.run
        engine.run = lambda images, e=engine, r=run: (used.append((e._threads, len(images))), r(images))[1]  # type: ignore[method-assign]
    ratios = speed_ratios(*engines, card.preprocess, rounds=1)
    assert ratios.keys() == {1, 8}
    assert all(0.02 < ratio < 50 for ratio in ratios.values())
    assert set(used) == {(1, 1), (1, 8)}


def test_layers_that_stay_float_lose_nothing() -> None:
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal((8, 8 if name != "w0" else 3, 3, 3)).astype(np.float32) for name in WEIGHTS}
    # The second layer has one huge weight per filter, on a channel that is always 0: its steps are 200 times as wide.
    weights["w0"][0] = 0
    weights["w1"][:, 0] = 200 * np.abs(weights["w1"]).max()
    nodes, value = [], "pixels"
    for at, name in enumerate(WEIGHTS):
        nodes.append(onnx.helper.make_node("Conv", [value, name], [f"c{at}"], f"conv{at}", pads=[1, 1, 1, 1]))
        nodes.append(onnx.helper.make_node("Relu", [f"c{at}"], [f"r{at}"], f"relu{at}"))
        value = f"r{at}"
    nodes.append(onnx.helper.make_node("ReduceMean", [value, "axes"], ["embedding"], "mean", keepdims=0))
    nodes.append(onnx.helper.make_node("Gemm", ["embedding", "head"], ["logits"], "gemm", transB=1))
    fixed = {**weights, "axes": np.array([2, 3]), "head": rng.standard_normal((10, 8)).astype(np.float32)}
    declare, kind = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        nodes,
        "bad",
        [declare("pixels", kind, ["batch", 3, 8, 8])],
        [declare("logits", kind, ["batch", 10]), declare("embedding", kind, ["batch", 8])],
        [numpy_helper.from_array(values, name) for name, values in fixed.items()],
    )
    made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    network = onnx.shape_inference.infer_shapes(made)
    layers, pixels = quantizable(network, "static"), rng.standard_normal((4, 3, 8, 8)).astype(np.float32)
    assert layers == ["conv0", "conv1", "conv2", "gemm"]
    ranges = ranges_of(network, pixels)
    exact = network_logits(network, pixels)
    assert staying(network, ["conv1"]) == ["conv1", "relu1"]
    whole = np.abs(network_logits(static_int8(network, ranges), pixels) - exact).max()
    for left, alone in ((["conv1"], ["conv1/float"]), (["conv0", "conv1"], []), (["conv1", "conv2"], [])):
        kept = static_int8(network, ranges, leave_out=staying(network, left))
        assert np.abs(network_logits(kept, pixels) - exact).max() < whole / 20  # float in ONNX Runtime too
        assert [node.name for node in kept.graph.node if node.name.endswith("/float")] == alone


def test_entropy_and_percentile_measure_other_ranges(small_full: Path) -> None:
    network, pixels = network_of(small_full), pixels_for(small_full, 6)
    found = {
        method: measure_ranges(network, (pixels[at : at + 2] for at in (0, 2, 4)), method)
        for method in ("minmax", "entropy", "percentile")
    }
    highest = {
        method: np.array([float(np.ravel(ranges[name].range_value[1])[0]) for name in found["minmax"]])
        for method, ranges in found.items()
    }
    assert highest["minmax"][list(found["minmax"]).index("pixels")] == pytest.approx(float(pixels.max()))
    for method in ("entropy", "percentile"):
        assert (highest[method] <= highest["minmax"] + 1e-4).mean() > 0.9
        assert (highest[method] < 0.99 * highest["minmax"]).any()
    exact = network_logits(network, pixels)
    for ranges in found.values():
        apart = network_logits(static_int8(network, ranges), pixels) - exact
        assert 0 < np.sqrt(np.square(apart).mean()) / exact.std() < 0.5


def test_dynamic_rounds_products_of_transformers_and_auto_knows_them(small_vit: Path, small_full: Path) -> None:
    network, pixels = network_of(small_vit), pixels_for(small_vit, 4)
    assert choose_mode(network) == "dynamic"
    assert choose_mode(network_of(small_full)) == "static"
    narrow = dynamic_int8(network)
    kinds = {node.op_type for node in narrow.graph.node}
    assert {"DynamicQuantizeLinear", "MatMulInteger"} <= kinds
    assert {"Softmax", "LayerNormalization"} & kinds
    exact, found = network_logits(network, pixels), network_logits(narrow, pixels)
    assert 0 < np.abs(found - exact).max() < 0.2 * np.ptp(exact)


def test_fp16_halves_the_file_and_is_kept_although_it_is_slower(
    small_vit: Path, pictures: list[Path], judges: list[Path], tmp_path: Path
) -> None:
    output = tmp_path / "half.onnx"
    report = quantize_onnx(small_vit, output, pictures, QuantizeOptions(mode="fp16", min_agreement=0.8), judges=judges)
    assert report["precision"] == "fp16"
    assert report["quantization"]["agreement"]["top1"] == 1
    network = network_of(output)
    half = sum(len(t.raw_data) for t in network.graph.initializer if t.data_type == onnx.TensorProto.FLOAT16)
    full = sum(len(t.raw_data) for t in network.graph.initializer if t.data_type == onnx.TensorProto.FLOAT)
    assert half > 10 * full
    assert Predictor(str(output), device="cpu", dtype="fp16").predict(judges[0]).to_dict()["dtype"] == "fp16"
    narrow = fp16(network_of(small_vit))
    casts = {name for node in narrow.graph.node if node.op_type == "Cast" for name in node.output}
    assert all(set(node.input[:1]) <= casts for node in narrow.graph.node if node.op_type == "Softmax")


@hypothesis.settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 12), max_size=24), st.lists(st.integers(0, 20), max_size=12), st.randoms())
def test_every_picture_has_one_role_and_copies_have_none_of_their_own(
    own: list[int], others: list[int], order: random.Random
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        paths = {}
        for name, contents in (("own", own), ("others", others)):
            paths[name] = [Path(folder) / f"{name}{at}" for at in range(len(contents))]
            for path, content in zip(paths[name], contents, strict=True):
                path.write_bytes(bytes([content]))
        roles = divide(paths["own"], paths["others"])
        shown = [[path.read_bytes()[0] for path in role] for role in roles]
        flat = [content for role in shown for content in role]
        assert len(flat) == len(set(flat))  # no picture twice, and no copy beside it
        assert set(flat) == {*own, *others}
        if others:
            assert set(shown[2]) == {*others} - {*own}
        share = 4 if not others else 2
        assert len(shown[0]) == -(-len(set(own)) // share)
        assert len(shown[0]) - len(shown[1]) in (0, 1)
        for part in paths.values():
            order.shuffle(part)
        again = divide(paths["own"], paths["others"])
        assert [{path.read_bytes()[0] for path in role} for role in again] == [set(role) for role in shown]


def test_few_pictures_are_told_and_too_few_refused(small_full: Path, pictures: list[Path], tmp_path: Path) -> None:
    assert [len(role) for role in divide(pictures)] == [3, 3, 6]
    assert spread(pictures, 3) == [pictures[0], pictures[6], pictures[11]]
    copy = tmp_path / "copy.png"
    copy.write_bytes(pictures[0].read_bytes())
    for given_, judges, counts in ((pictures[:2], [], "1, 0, 1"), (pictures[:1], pictures, "1, 0, 11")):
        with pytest.raises(UsageError, match=f"without copies, there are {counts} for these, so give more"):
            quantize_onnx(small_full, tmp_path / "a.onnx", [*given_, copy], judges=judges)
    said: list[str] = []
    quantize_onnx(small_full, tmp_path / "a.onnx", pictures, KEEP, say=said.append)
    assert said[0] == "pictures: 3 set it up, 3 choose layers, 6 judge"
    with pytest.raises(
        UsageError, match=r"6 pictures that judge cannot show that 97\.0% .* give 100 or more with --eval"
    ):
        quantize_onnx(small_full, tmp_path / "b.onnx", pictures)


def test_what_is_accepted_is_shown_with_confidence() -> None:
    """One-sided Wilson bounds: at 96 % 100 of 100 show 97 %, 99 do not, and of 700 it takes 687; at 99 % 690."""
    assert share_needed(99, 0.97) == np.inf
    assert share_needed(100, 0.97) == 1
    assert share_needed(700, 0.97) * 700 == pytest.approx(687)
    assert share_needed(700, 0.97, LOOKS[1].z) * 700 == pytest.approx(690)
    assert share_needed(10**6, 0.97) == pytest.approx(0.97030, abs=1e-5)
    assert sum(1 - NormalDist().cdf(look.z) for look in LOOKS) == pytest.approx(0.05, abs=1e-6)


def test_the_first_layers_stay_float_and_no_more_of_them_than_needed(
    small_full: Path, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever number of layers is enough, the search ends at it, by doubling and bisection."""
    from miil21k.export.quantize import search

    card, network = read_export_card(small_full), network_of(small_full)
    layers = quantizable(network, "static")
    assert len(layers) > 8
    grey = np.full((4, *card.preprocess.input_size[1:], 3), 120, np.uint8)
    for enough in (0, 1, 2, 3, 5, 8, len(layers) - 1):
        tried: list[int] = []

        def setting(_: Any, count: int, enough: int = enough, tried: list[int] = tried) -> Setting:
            tried.append(count)
            expected = 1.0 if count >= enough else 0.9 + count / 1000
            result = Agreement(10, expected, expected, expected, expected, 0, 0, 0, 0)
            return Setting(network, "static", "minmax", len(layers), tuple(layers[:count]), result)

        monkeypatch.setattr(search.Search, "_setting", setting)
        options = QuantizeOptions(mode="static", most_left_out=0.999)
        chosen = Search(network, grey, grey, card.preprocess, card.decoder(), options).best(Aim(0.97, 10))
        assert chosen.left_out == tuple(layers[:enough])
        assert chosen.tried == len(tried) == len(set(tried)) <= 9
    few = QuantizeOptions(mode="static", most_left_out=0.25)
    best = Search(network, grey, grey, card.preprocess, card.decoder(), few).best(Aim(0.97, 10))
    assert len(best.left_out) == int(0.25 * len(layers)), "not enough, but the best of those that were allowed"


def test_the_second_look_keeps_most_of_what_the_first_refuses() -> None:
    """700 pictures judge, 256 choose: the first look keeps half of all networks, with few layers in float."""
    rng = np.random.default_rng(0)
    kept = [0, 0]
    for _ in range(400):
        changes = rng.beta(0.2, 2, 256 + 700)  # P that the best class changes in 8 bits: most pictures are far from it
        drawn = rng.random(700)
        for number, look in enumerate(LOOKS):
            needed = share_needed(700, 0.97, look.z)
            aim = Aim(needed, 700, look.margin)
            for part in np.linspace(1, 0, 101):  # ever more layers in float: ever fewer changes
                stays = 1 - part * changes
                share, error = float(stays[:256].mean()), float(stays[:256].std() / 16)
                if aim.reached_by(Agreement(256, share, share, share, share, error, 0, 0, 0)):
                    break
            if (drawn < stays[256:]).mean() >= needed:
                kept[number] += 1
                break
    assert 0.4 < kept[0] / 400 < 0.65
    assert sum(kept) / 400 > 0.8


def test_a_margin_adds_nothing_to_a_share_that_is_certain() -> None:
    certain = Agreement(88, 1, 1, 1, 1, 0, 0, 0, 0)
    assert Aim(1, 88, 1.0).reached_by(certain)
    assert not Aim(1, 88, 1.0).reached_by(Agreement(88, 1, 1, 1, 1 - 1e-9, 0, 0, 0, 0))
    nearly = Agreement(88, 1, 1, 1, 0.99, 0.003, 0, 0, 0)  # errors of 0.003 and 0.0106, together 0.0110
    assert Aim(0.978, 88, 1.0).reached_by(nearly)
    assert not Aim(0.98, 88, 1.0).reached_by(nearly)
    assert Aim(0.99, 88).reached_by(nearly)


def test_a_file_that_is_refused_is_followed_by_one_with_more_layers_in_float(
    small_full: Path, pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from miil21k.export.quantize import quantize

    best, agreement = Search.best, quantize._Judge.agreement
    judged: list[Agreement] = []

    def aimed(self: Search, aim: Aim) -> Setting:
        return best(self, Aim(2.0 if aim.margin else 0.0, 10))  # all layers in 8 bits, then the most that agree

    def refusing(self: Any, quantised: Any) -> Agreement:
        found = agreement(self, quantised)
        judged.append(dataclasses.replace(found, top1=float(bool(judged))))
        return judged[-1]

    monkeypatch.setattr(Search, "best", aimed)
    monkeypatch.setattr(quantize._Judge, "agreement", refusing)
    said: list[str] = []
    options = dataclasses.replace(KEEP, most_left_out=0.9)
    report = quantize_onnx(small_full, tmp_path / "model.onnx", pictures, options, say=said.append)
    assert [agreed.top1 for agreed in judged] == [0, 1]
    assert judged[1].logits < judged[0].logits
    assert report["quantization"]["left_out"]
    assert said[-2].startswith("not enough: ")
    assert report["quantization"]["shown_agreement"] == pytest.approx(0.5258, abs=1e-4)  # 6 of 6, with 99 %

    monkeypatch.setattr(quantize._Judge, "agreement", lambda _self, _quantised: judged[0])
    with pytest.raises(ExportError, match="was not quantised: the best of"):
        quantize_onnx(small_full, tmp_path / "other.onnx", pictures, options)
    assert not (tmp_path / "other.onnx").exists()


def test_weights_of_seven_bits_use_half_the_range(small_full: Path) -> None:
    network, pixels = network_of(small_full), pixels_for(small_full, 4)
    ranges = ranges_of(network, pixels)
    exact = network_logits(network, pixels)
    noise = {}
    for bits, most in ((8, 127), (7, 64)):
        made = static_int8(network, ranges, weight_bits=bits)
        int8 = onnx.TensorProto.INT8
        arrays = [numpy_helper.to_array(t) for t in made.graph.initializer if t.data_type == int8 and len(t.dims) > 1]
        assert max(int(np.abs(array.astype(np.int16)).max()) for array in arrays) == most
        noise[bits] = float(np.square(network_logits(made, pixels) - exact).mean())
    assert noise[7] < 20 * noise[8]


def test_a_processor_whose_products_overflow_gets_seven_bits_and_refuses_eight(
    small_full: Path, pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from miil21k.export.quantize import quantize
    from miil21k.runtime import int8_probe

    wide, narrow = tmp_path / "wide.onnx", tmp_path / "narrow.onnx"
    eight = QuantizeOptions(min_agreement=0.4, require_faster=False, weight_bits=8, most_left_out=0.9)
    quantize_onnx(small_full, wide, pictures, eight)
    for module in (quantize, int8_probe):
        monkeypatch.setattr(module, "products_are_exact", lambda _backend: False)
    said: list[str] = []
    auto = QuantizeOptions(min_agreement=0.4, require_faster=False, most_left_out=0.9)
    report = quantize_onnx(small_full, narrow, pictures, auto, say=said.append)
    assert report["quantization"]["weight_bits"] == read_export_card(narrow).quantization["weight_bits"] == 7
    assert any(line.startswith("weights get 7 bits: in onnx this processor's sums") for line in said)
    assert Predictor(str(narrow), backend="onnx").predict(pictures[0]).status == "ok"
    with pytest.raises(ExportError, match=r"wide\.onnx' was judged where .* --weight-bits 7"):
        Predictor(str(wide), backend="onnx")


def test_layers_are_chosen_on_pictures_that_did_not_set_it_up(small_full: Path, pictures: list[Path]) -> None:
    card, network = read_export_card(small_full), network_of(small_full)
    decoder, size = card.decoder(), card.preprocess.input_size[1:]
    grey = np.full((4, *size, 3), 120, np.uint8)
    grey[:, ::2] += np.arange(4, dtype=np.uint8)[:, None, None, None]  # ranges that fit these, and nothing else
    shown = np.concatenate(list(read_crops(pictures[::2], card.preprocess, 8)))
    options = QuantizeOptions(most_left_out=0.9, weight_bits=8)
    chosen = Search(network, grey, shown, card.preprocess, decoder, options).best(Aim(0.99, 10**6))
    assert chosen.agreement.images == len(shown)
    assert chosen.tried > 1
    assert chosen.left_out
    pixels = normalise(shown, card.preprocess)
    counting = Agreeing(decoder)
    counting.add(network_logits(network, pixels), network_logits(chosen.network, pixels))
    assert counting.result() == chosen.agreement
    easy = Search(network, grey, grey, card.preprocess, decoder, options).best(Aim(0.5, 100))
    assert (easy.tried, easy.left_out) == (1, ())


def test_what_is_expected_to_agree_agrees(embedded_export: Path) -> None:
    rng = np.random.default_rng(0)
    exact = rng.standard_normal((300, 1000)).astype(np.float32)
    decoder = read_export_card(embedded_export).decoder()
    found = []
    for noise in (0.0, 0.03, 0.1):
        counting = Agreeing(decoder)
        counting.add(exact, exact + noise * rng.standard_normal(exact.shape).astype(np.float32))
        found.append(counting.result())
    assert found[0].expected == found[0].top1 == 1
    assert [result.expected for result in found] == pytest.approx([result.top1 for result in found], abs=0.05)
    assert found[2].expected < found[1].expected - 0.05 < 0.93
    assert found[0].expected_error == 0


def test_the_error_of_what_is_expected_is_that_of_a_sample(embedded_export: Path) -> None:
    rng = np.random.default_rng(0)
    decoder = read_export_card(embedded_export).decoder()
    found = []
    for _ in range(40):
        counting = Agreeing(decoder)
        exact = rng.standard_normal((50, 1000)).astype(np.float32)
        counting.add(exact, exact + 0.05 * rng.standard_normal(exact.shape).astype(np.float32))
        found.append(counting.result())
    spread_of_means = np.std([result.expected for result in found])
    assert np.mean([result.expected_error for result in found]) == pytest.approx(spread_of_means, rel=0.35)


def test_agreement_counts_what_differs(embedded_export: Path) -> None:
    decoder = read_export_card(embedded_export).decoder()
    exact = np.zeros((4, 1000), np.float32)
    exact[:, 281] = 10
    found = exact.copy()
    found[3, 281], found[3, 282] = 9, 14
    counting = Agreeing(decoder)
    for at in (0, 2):
        counting.add(exact[at : at + 2], found[at : at + 2])
    result = counting.result()
    assert (result.images, result.top1, result.path) == (4, 0.75, 0.75)
    assert (result.logits, result.logits_relative) == (14, pytest.approx(1.4))


def test_the_embedded_model_in_int8_runs_where_its_products_add_up_exactly(
    embedded_export: Path, pictures: list[Path], judges: list[Path], tmp_path: Path
) -> None:
    output = tmp_path / "embedded.onnx"
    options = QuantizeOptions(min_agreement=0.5, require_faster=False, most_left_out=0)
    report = quantize_onnx(embedded_export, output, pictures, options, judges=judges)
    assert report["bytes"] < 0.35 * report["bytes_fp32"]
    assert report["quantization"]["agreement"]["hedged"] >= 0.7
    cat = own_photographs()[0]
    for backend in ("onnx", *(["openvino"] if _has_openvino() else [])):
        if not products_are_exact(backend):  # OpenVINO on processors without VNNI
            with pytest.raises(ExportError, match="quantise the fp32 export here, or anywhere with --weight-bits 7"):
                Predictor(str(output), device="cpu", backend=backend)
            continue
        answer = Predictor(str(output), device="cpu", backend=backend).predict(cat)
        assert [node.name for node in answer.path][:3] == ["animal", "domestic animal", "domestic cat"]
        assert answer.to_dict()["dtype"] == "int8"


def _has_openvino() -> bool:
    import importlib.util

    return importlib.util.find_spec("openvino") is not None


def test_the_verb_prints_what_was_measured_and_refuses_in_one_sentence(
    small_full: Path, pictures: list[Path], judges: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "verb.onnx"
    words = ["export", "quantize", str(small_full), "-o", str(output), "--images", str(pictures[0].parent)]
    words += ["--eval", str(judges[0].parent)]
    assert main([*words, "--min-agreement", "0.5", "--no-require-faster"]) == 0
    printed = capsys.readouterr()
    assert f"on {len(judges)} pictures that neither set it up nor chose it" in printed.out
    assert "pictures: 6 set it up, 6 choose layers, 18 judge" in printed.err
    assert main(words) == 2
    assert "exists: give --overwrite" in capsys.readouterr().err
    second = ["export", "quantize", str(output), "-o", str(tmp_path / "b.onnx"), "--images", str(judges[0].parent)]
    assert main(second) == 2
    assert "is int8 already" in capsys.readouterr().err
    assert main([*words[:2], str(small_full), "-o", str(small_full), *words[5:], "--overwrite"]) == 2
    assert "is the export itself" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*words[:4], str(tmp_path / "c.onnx"), *words[5:], "--min-agreement", "1.5"])
    assert "--min-agreement: lies above 0 and below 1, not 1.5" in capsys.readouterr().err
    broken = tmp_path / "broken"
    broken.mkdir()
    for name in "abc":
        (broken / f"{name}.jpg").write_bytes(100 * name.encode())
    assert main([*words[:4], str(tmp_path / "c.onnx"), "--images", str(broken), "--min-agreement", "0.2"]) == 1
    assert "is not an image" in capsys.readouterr().err


def test_crops_come_in_order_and_in_batches(pictures: list[Path], embedded_export: Path) -> None:
    preprocess = read_export_card(embedded_export).preprocess
    seen: list[int] = []
    batches: Iterator[np.ndarray] = read_crops(pictures[:5], preprocess, 2, seen.append)
    assert [batch.shape for batch in batches] == [(2, 224, 224, 3), (2, 224, 224, 3), (1, 224, 224, 3)]
    assert seen == [2, 2, 1]
