"""OpenVINO computes what torch computes, from several threads at once, and says no where it cannot."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino
import pytest
import torch
from onnx import helper
from small_networks import small_network

from miil21k.data.transforms import normalise
from miil21k.environment import available_cpus
from miil21k.errors import ExportError, MissingExtra, UsageError
from miil21k.export.onnx.file import export_onnx
from miil21k.export.onnx.graph import IR_VERSION
from miil21k.export.options import ExportOptions
from miil21k.runtime.loading import load_model, open_export
from miil21k.runtime.onnx_backend import OnnxBackend
from miil21k.runtime.openvino_backend import OpenvinoBackend
from miil21k.runtime.options import LoadOptions
from miil21k.zoo.export_card import read_export_card

if TYPE_CHECKING:
    from miil21k.runtime.loading import Loaded

CLASSES = 1000
FIRST_CALLS = """
import os, sys, threading
from pathlib import Path
import numpy as np
from miil21k.runtime.openvino_backend import OpenvinoBackend
from miil21k.runtime.options import LoadOptions
backend = OpenvinoBackend(Path(sys.argv[1]), 1000, normalises=False, input_size=(3, 160, 160))
with backend._pool().request():  # opens the file
    pass
pixels, together = np.zeros((1, 3, 160, 160), np.float32), threading.Barrier(4)
threads = [threading.Thread(target=lambda: (together.wait(), backend.run(pixels))) for _ in range(4)]
sys.setswitchinterval(1e-6)
for thread in threads:
    thread.start()
"""


@pytest.fixture(scope="module")
def small() -> Loaded:
    return small_network()  # its transform resizes and then crops


@pytest.fixture(scope="module")
def full(small: Loaded, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("full") / "small.onnx"
    export_onnx(small, path)
    return path


@pytest.fixture(scope="module")
def tensor(small: Loaded, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tensor") / "small.onnx"
    export_onnx(small, path, ExportOptions(form="tensor"))
    return path


def opened(path: Path, **changes: Any) -> OpenvinoBackend:
    card = read_export_card(path)
    size = card.preprocess.input_size
    return OpenvinoBackend(path, CLASSES, **{"normalises": card.form == "full", "input_size": size, **changes})


def crops(count: int, loaded: Loaded, seed: int = 0) -> np.ndarray:
    shape = (count, *loaded.preprocess.input_size[1:], 3)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def of_torch(images: np.ndarray, loaded: Loaded) -> tuple[np.ndarray, np.ndarray]:
    with torch.inference_mode():
        features = loaded.model.forward_features(torch.from_numpy(normalise(images, loaded.preprocess)))
        embedding = loaded.model.forward_head(features, pre_logits=True)
        return loaded.model.forward_head(features).numpy(), embedding.numpy()


@pytest.mark.parametrize("form", ["full", "tensor"])
def test_both_forms_give_the_logits_and_embeddings_of_torch(
    form: str, small: Loaded, request: pytest.FixtureRequest
) -> None:
    backend = opened(request.getfixturevalue(form))
    for count in (1, 2, 7):
        images = crops(count, small)
        logits, embedding = of_torch(images, small)
        found = backend.run(images if form == "full" else normalise(images, small.preprocess), embed=True)
        assert np.abs(found.logits - logits).max() <= 1e-4 * np.ptp(logits)
        assert found.embedding is not None
        assert np.abs(found.embedding - embedding).max() <= 1e-3 * np.ptp(embedding)
    assert backend.run(images if form == "full" else normalise(images, small.preprocess)).embedding is None


def test_calls_from_several_threads_do_not_share_a_result(full: Path, small: Loaded) -> None:
    backend = opened(full)
    batches = [crops(1 + number % 5, small, number) for number in range(40)]
    with backend.threads(1):
        alone = [backend.run(batch).logits for batch in batches]
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(lambda batch: backend.run(batch).logits, batches))
    assert all(np.array_equal(one, other) for one, other in zip(alone, together, strict=True))
    assert not np.array_equal(alone[0], alone[5])


def test_threads_and_precision_are_what_was_asked_for(full: Path) -> None:
    backend = opened(full)
    for threads, callers in ((1, None), (available_cpus(), None), (1, 1), (1, 10_000)):
        with backend.threads(threads, callers):
            compiled = backend._pool().compiled
            assert backend._pool().compiled is compiled
        streams = 1 if callers == 1 else available_cpus() // threads
        assert int(compiled.get_property("NUM_STREAMS")) == streams
        assert int(compiled.get_property("INFERENCE_NUM_THREADS")) == streams * threads
        assert str(compiled.get_property("INFERENCE_PRECISION_HINT")) == "<Type: 'float32'>"
    assert backend._threads == available_cpus()


@pytest.mark.skipif(available_cpus() < 2 or not hasattr(os, "sched_getaffinity"), reason="needs Linux and two CPUs")
def test_no_call_is_bound_to_a_core_that_other_processes_use_too(full: Path, small: Loaded) -> None:
    backend = opened(full)
    images = crops(8, small)
    seen = set()
    with backend.threads(1), ThreadPoolExecutor(2) as pool:
        backend.run(images)
        calls = [pool.submit(backend.run, images) for _ in range(100)]
        while not all(call.done() for call in calls):
            for task in Path("/proc/self/task").iterdir():
                with contextlib.suppress(ProcessLookupError):  # a thread that has ended
                    seen.add(frozenset(os.sched_getaffinity(int(task.name))))
    assert seen == {frozenset(os.sched_getaffinity(0))}


def test_another_device_or_precision_is_refused(full: Path) -> None:
    with pytest.raises(UsageError, match="No device 'cuda' for OpenVINO"):
        opened(full, device="cuda")
    with pytest.raises(UsageError, match="computes in fp32; fp16 is for torch models"):
        opened(full, dtype="fp16")
    with pytest.raises(UsageError, match="computes in int8; bf16 is for torch models"):
        opened(full, dtype="bf16", precision="int8")


needs_bfloat16 = pytest.mark.skipif(
    "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"), reason="no bfloat16 instructions"
)


@needs_bfloat16
@pytest.mark.parametrize("form", ["full", "tensor"])
def test_bfloat16_rounds_where_it_is_asked_for(form: str, small: Loaded, request: pytest.FixtureRequest) -> None:
    backend = opened(request.getfixturevalue(form), dtype="bf16")
    images = crops(7, small)
    exact, _ = of_torch(images, small)
    found = backend.run(images if form == "full" else normalise(images, small.preprocess))
    assert (backend.dtype, found.logits.dtype) == ("bf16", np.float32)
    assert 1e-4 * np.ptp(exact) < np.abs(found.logits - exact).max() < 0.05 * np.ptp(exact)


def test_bfloat16_is_refused_where_the_processor_has_none(full: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino.Core, "get_property", lambda *_: ["FP32", "INT8"])
    with pytest.raises(UsageError, match=r"no bfloat16 instructions, .* use --dtype fp32"):
        opened(full, dtype="bf16")
    assert opened(full).dtype == "fp32"


def test_a_file_that_openvino_cannot_read_is_named(tmp_path: Path) -> None:
    node = helper.make_node("NoSuchOperator", ["x"], ["y"], domain="nowhere")
    ends = [helper.make_tensor_value_info(name, 1, [1]) for name in "xy"]
    path = tmp_path / "strange.onnx"
    model = helper.make_model(helper.make_graph([node], "strange", ends[:1], ends[1:]), ir_version=IR_VERSION)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ExportError, match=r"OpenVINO .* cannot open '.*strange\.onnx'"):
        OpenvinoBackend(path, CLASSES, normalises=False, input_size=(3, 1, 1)).run(np.zeros((1,), np.float32))


def test_without_the_package_the_extra_is_named(full: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtra, match=r"miil21k\[openvino\]"):
        opened(full)


def test_an_export_is_opened_by_the_backend_that_was_named(full: Path) -> None:
    for asked, name in (("auto", "onnx"), ("onnx", "onnx"), ("openvino", "openvino")):
        loaded = load_model(str(full), LoadOptions(backend=asked, device="cpu"))
        backend = loaded.start()
        assert isinstance(backend, OpenvinoBackend if name == "openvino" else OnnxBackend)
        assert backend.name == loaded.runtime == name
        assert loaded.start() is backend, "it is opened once"
    with pytest.raises(UsageError, match="torch does not run: choose --backend auto, onnx or openvino"):
        open_export(full, read_export_card(full), backend="torch", device="cpu", dtype="fp32")


def test_first_calls_at_once_do_not_wait_for_each_other_for_ever(tensor: Path) -> None:
    for _ in range(2):  # without the call in `__init__`, most of these processes hang
        subprocess.run([sys.executable, "-c", FIRST_CALLS, str(tensor)], check=True, timeout=600)
