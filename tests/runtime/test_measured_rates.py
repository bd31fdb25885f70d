"""Rates of exports: one file for all backends of a network, and one entry per machine."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from miil21k.runtime.export_cache import Graph, list_proved
from miil21k.runtime.measured_rates import Rate, read_rates, write_rates
from miil21k.store.cache import Cache

if TYPE_CHECKING:
    from pathlib import Path

GRAPH = Graph("some.weights", "ab" * 32, (3, 224, 224), "cd" * 32, "onnx", "onnxruntime 1.31.0, x86 f00")
HERE = {"onnx": Rate("onnxruntime 1.31.0, x86 f00", 48.5), "openvino": Rate("openvino 2026.1", 61.25)}


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache.at(tmp_path)


def test_rates_belong_to_a_network_on_a_machine(cache: Cache) -> None:
    assert read_rates(cache, GRAPH, "here") == {}
    write_rates(cache, GRAPH, "here", HERE)
    assert read_rates(cache, GRAPH, "here") == HERE
    of_openvino = GRAPH._replace(backend="openvino", runtime="openvino 2026.1")
    assert read_rates(cache, of_openvino, "here") == HERE
    assert read_rates(cache, GRAPH, "elsewhere") == {}
    for changes in ({"weights_sha256": "ef" * 32}, {"input_size": (3, 448, 448)}, {"version": 99}):
        assert read_rates(cache, GRAPH._replace(**changes), "here") == {}
    assert list(list_proved(cache)) == []


def test_one_machine_keeps_what_another_measured(cache: Cache) -> None:
    write_rates(cache, GRAPH, "here", HERE)
    there = {"onnx": Rate("onnxruntime 1.31.0, arm f01", 9.0)}
    write_rates(cache, GRAPH, "there", there)
    again = {"openvino": Rate("openvino 2027.0", 70.0)}
    write_rates(cache, GRAPH, "here", again)
    assert read_rates(cache, GRAPH, "here") == again
    assert read_rates(cache, GRAPH, "there") == there


@pytest.mark.parametrize("content", ["", "[]", "7", '{"here": {"onnx": {"runtime": "x"}}}', '{"here": [1]}', "{torn"])
def test_a_file_that_makes_no_sense_holds_no_rates_and_is_replaced(content: str, cache: Cache) -> None:
    write_rates(cache, GRAPH, "here", HERE)
    (path,) = (cache.root / "exports").iterdir()
    path.write_text(content)
    assert read_rates(cache, GRAPH, "here") == {}
    write_rates(cache, GRAPH, "here", HERE)
    assert read_rates(cache, GRAPH, "here") == HERE
    assert list(json.loads(path.read_text())) == ["here"]
