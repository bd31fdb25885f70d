"""The probe is the graph that it says, and tells processors with exact products of 8 bits from others."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from miil21k.errors import UsageError
from miil21k.runtime import int8_probe
from miil21k.runtime.int8_probe import products_are_exact
from miil21k.runtime.onnx_backend import EXACT_PRODUCTS

PROBE = (
    "from miil21k.runtime.int8_probe import products_are_exact\n"
    "print(*(int(products_are_exact(backend)) for backend in {backends}))"
)


def test_the_file_is_one_convolution_of_the_largest_values() -> None:
    onnx = pytest.importorskip("onnx", reason="the extra 'export' is not installed")
    helper, tensor = onnx.helper, onnx.numpy_helper.from_array
    nodes = [
        helper.make_node("QuantizeLinear", ["pixels", "step", "zero"], ["rounded"]),
        helper.make_node("DequantizeLinear", ["rounded", "step", "zero"], ["inputs"]),
        helper.make_node("DequantizeLinear", ["weights", "step", "middle"], ["filters"]),
        helper.make_node("Conv", ["inputs", "filters"], ["sums"]),
        helper.make_node("QuantizeLinear", ["sums", "wide", "zero"], ["narrow"]),
        helper.make_node("DequantizeLinear", ["narrow", "share", "zero"], ["logits"]),
    ]
    fixed = {
        "step": np.float32(1),
        "wide": np.float32(255 * 127 * 64 / 200),
        "share": np.float32(1 / 200),
        "zero": np.uint8(0),
        "middle": np.int8(0),
        "weights": np.full((16, 64, 1, 1), 127, np.int8),
    }
    declare, kind = helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "int8_probe",
        [declare("pixels", kind, ["batch", 64, 4, 4])],
        [declare("logits", kind, ["batch", 16, 4, 4])],
        [tensor(np.asarray(values), name) for name, values in fixed.items()],
    )
    built = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert int8_probe._GRAPH.read_bytes() == built.SerializeToString()


def test_runtimes_without_int8_are_refused() -> None:
    with pytest.raises(UsageError, match="torch does not run INT8 exports; choose onnx or openvino"):
        products_are_exact("torch")


def test_onnx_runtime_is_told_to_add_up_exactly_on_every_processor() -> None:
    """Convolutions by the probe, matrix products here; without the option those of 8 bits saturate without VNNI."""
    assert products_are_exact("onnx")
    onnx = pytest.importorskip("onnx", reason="the extra 'export' is not installed")
    import onnxruntime as ort

    helper, tensor = onnx.helper, onnx.numpy_helper.from_array
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["pixels"], ["rounded", "step", "zero"]),
        helper.make_node("MatMulInteger", ["rounded", "weights", "zero", "middle"], ["sums"]),
    ]
    weights = [tensor(np.full((64, 16), 127, np.int8), "weights"), tensor(np.int8(0), "middle")]
    inputs = [helper.make_tensor_value_info("pixels", onnx.TensorProto.FLOAT, [1, 64])]
    outputs = [helper.make_tensor_value_info("sums", onnx.TensorProto.INT32, [1, 16])]
    graph = helper.make_graph(nodes, "products", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = ort.SessionOptions()
    options.add_session_config_entry(*EXACT_PRODUCTS)
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (sums,) = session.run(None, {"pixels": np.full((1, 64), 255, np.float32)})
    assert sums.tolist() == [[255 * 127 * 64] * 16]


def test_a_processor_without_vnni_saturates_in_openvino_alone() -> None:
    """In an emulator of one that has AVX2; it takes seconds."""
    emulator = shutil.which("qemu-x86_64")
    if emulator is None:
        pytest.skip("needs qemu-x86_64 (Debian: qemu-user)")
    backends = ["onnx"]
    if importlib.util.find_spec("openvino"):
        backends.append("openvino")
    python = Path(sys.executable).resolve()
    paths = [str(Path(int8_probe.__file__).parents[2]), *(entry for entry in sys.path if entry)]
    done = subprocess.run(
        [emulator, "-cpu", "Haswell", python, "-c", PROBE.format(backends=backends)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.stdout.split() == ["1", "0"][: len(backends)], done.stderr[-2000:]
