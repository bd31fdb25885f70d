"""Which backend `auto` tries first."""

from __future__ import annotations

import pytest

from miil21k.predict.options import PredictOptions
from miil21k.runtime.fastest import order
from miil21k.runtime.measured_rates import Rate


def rates(**values: float) -> dict[str, Rate]:
    return {name: Rate(f"{name} 1.0", value) for name, value in values.items()}


@pytest.mark.parametrize(
    ("known", "first"),
    [
        (rates(onnx=48.0, openvino=61.0), "openvino"),
        (rates(onnx=61.5, openvino=61.0), "onnx"),
        (rates(onnx=61.0, openvino=61.0), "openvino"),
        (rates(onnx=999.0), "openvino"),
        ({}, "openvino"),
        (None, "openvino"),
    ],
)
def test_the_higher_rate_comes_first_and_openvino_where_none_was_measured(known, first: str) -> None:
    found = order(PredictOptions(), rates=known)
    assert found[0] == first
    assert sorted(found) == ["onnx", "openvino"]


def test_one_image_and_a_named_backend_ask_for_no_rates() -> None:
    known = rates(onnx=48.0, openvino=61.0)
    assert order(PredictOptions(), single=True, rates=known) == ("onnx", "openvino")
    assert order(PredictOptions(backend="onnx"), rates=known) == ("onnx",)
    assert order(PredictOptions(backend="openvino"), single=True) == ("openvino",)
