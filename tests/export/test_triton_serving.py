"""What a Triton repository serves: the rows of the export, through tritonclient, the example client and curl."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tritonclient.http as triton
from kserve_server import TritonStandIn
from PIL import Image

from miil21k.export.onnx.file import own_photographs
from miil21k.predict.predictor import Predictor

if TYPE_CHECKING:
    from collections.abc import Iterator

PHOTOS = own_photographs()


@pytest.fixture(scope="module")
def server(triton_repository: Path) -> Iterator[TritonStandIn]:
    with TritonStandIn(triton_repository) as running:
        yield running


def test_a_batch_over_http_gives_the_rows_of_the_export(server: TritonStandIn, embedded_export: Path) -> None:
    images = np.stack([np.asarray(Image.open(photo).convert("RGB").resize((320, 240))) for photo in PHOTOS])
    client = triton.InferenceServerClient(server.url)
    assert client.is_model_ready("embedded")
    sent = triton.InferInput("images", images.shape, "UINT8")
    sent.set_data_from_numpy(images)
    answer = client.infer("embedded", [sent])
    predictor = Predictor(str(embedded_export), device="cpu")
    for row, image in enumerate(images):
        theirs = predictor(Image.fromarray(image))
        path = [node for node in answer.as_numpy("path")[row] if node >= 0]
        names = [predictor.space.tree.wnids[node] for node in path]
        assert names[: len(theirs.path)] == [node.wnid for node in theirs.path]
    assert answer.as_numpy("hedge_node").shape == (3, 1)
    assert answer.as_numpy("logits").shape == (3, 1000)


def test_requests_that_triton_refuses_are_refused(server: TritonStandIn) -> None:
    client = triton.InferenceServerClient(server.url)
    for shape in ((33, 8, 8, 3), (1, 8, 8, 4), (8, 8, 3)):
        sent = triton.InferInput("images", shape, "UINT8")
        sent.set_data_from_numpy(np.zeros(shape, np.uint8))
        with pytest.raises(triton.InferenceServerException, match=r"batch of|unexpected shape"):
            client.infer("embedded", [sent])
    hedge = triton.InferInput("hedge", (1,), "FP32")
    hedge.set_data_from_numpy(np.array([0.5], np.float32))
    images = triton.InferInput("images", (1, 8, 8, 3), "UINT8")
    images.set_data_from_numpy(np.zeros((1, 8, 8, 3), np.uint8))
    with pytest.raises(triton.InferenceServerException, match="unexpected inference input 'hedge'"):
        client.infer("embedded", [images, hedge])


def test_without_batching_a_request_may_set_the_hedge(server: TritonStandIn) -> None:
    client = triton.InferenceServerClient(server.url)
    image = np.asarray(Image.open(PHOTOS[0]).convert("RGB"))[None]
    images = triton.InferInput("images", image.shape, "UINT8")
    images.set_data_from_numpy(image)
    stops = []
    for level in (None, 0.05, 0.9999):
        inputs = [images]
        if level is not None:
            inputs.append(triton.InferInput("hedge", (1,), "FP32"))
            inputs[1].set_data_from_numpy(np.array([level], np.float32))
        answer = client.infer("unbatched", inputs)
        path, probs = answer.as_numpy("path")[0], answer.as_numpy("path_prob")[0]
        sure = path[(path >= 0) & (probs >= (0.9 if level is None else level) - 1e-6)]
        stops.append(int(answer.as_numpy("hedge_node")[0]))
        assert stops[-1] == (sure[-1] if sure.size else -1)
    assert len(set(stops)) == 3


def run_client(repository: Path, name: str, url: str, *arguments: str) -> str:
    command = [sys.executable, str(repository / name / "client.py"), *map(str, PHOTOS), "--url", url, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_client_prints_the_path_of_predict(
    triton_repository: Path, server: TritonStandIn, embedded_export: Path
) -> None:
    text = run_client(triton_repository, "embedded", server.url)
    theirs = Predictor(str(embedded_export), device="cpu").predict([str(photo) for photo in PHOTOS])
    blocks = re.split(r"^(?=\S)", text, flags=re.MULTILINE)[1:]
    assert len(blocks) == len(PHOTOS)
    for block, row in zip(blocks, theirs, strict=True):
        path = re.findall(r"^  (\d\.\d+)  (n\d+) (.+?)(  <)?$", block, flags=re.MULTILINE)
        sure = [wnid for prob, wnid, *_ in path if float(prob) >= 0.9]
        assert sure == [node.wnid for node in row.path]
        assert [wnid for _, wnid, _, mark in path if mark] == sure[-1:]
        best = re.findall(r"^    \d\.\d+  (n\d+)", block, flags=re.MULTILINE)
        assert best[0] == row.topk[0].wnid
    surer = run_client(triton_repository, "embedded", server.url, "--hedge", "0.9999")
    assert text.count("<") > surer.count("<")


def test_the_client_prints_what_was_asked_and_the_path_on_concepts(
    triton_repository: Path, server: TritonStandIn, concepts_export: Path
) -> None:
    text = run_client(triton_repository, "concepts", server.url)
    predictor = Predictor(str(concepts_export), device="cpu", reading="concepts", hedge=0.3, min_bits=0.5)
    theirs = predictor.ask([str(photo) for photo in PHOTOS], ["bird", "crane.n.04", "musical instrument"])
    for block, row in zip(re.split(r"^(?=\S)", text, flags=re.MULTILINE)[1:], theirs, strict=True):
        assert re.findall(r"^  \d\.\d+  (n\d+) [^?\n]+$", block, flags=re.MULTILINE) == [node.wnid for node in row.path]
        asked = re.findall(r"^  (\d\.\d+)  (n\d+) .+\?$", block, flags=re.MULTILINE)
        assert row.asked is not None
        assert [wnid for _, wnid in asked] == [one.wnid for one in row.asked]
        assert [float(p) for p, _ in asked] == pytest.approx([one.probability for one in row.asked], abs=0.02)


def test_the_client_of_the_tensor_form_decodes_itself(
    triton_repository: Path, server: TritonStandIn, tensor_export: Path
) -> None:
    text = run_client(triton_repository, "small", server.url)
    theirs = Predictor(str(tensor_export), device="cpu", hedge=1e-6).predict([str(photo) for photo in PHOTOS])
    for block, row in zip(re.split(r"^(?=\S)", text, flags=re.MULTILINE)[1:], theirs, strict=True):
        path = re.findall(r"^  \d\.\d+  (n\d+)", block, flags=re.MULTILINE)
        assert path[: len(row.path)] == [node.wnid for node in row.path]
        best = re.findall(r"^    -?\d+\.\d+  (n\d+) ", block, flags=re.MULTILINE)
        assert len(best) == 5
        assert best[0] == row.topk[0].wnid


@pytest.mark.skipif(shutil.which("curl") is None or shutil.which("bash") is None, reason="needs curl and bash")
@pytest.mark.parametrize("name", ["embedded", "small"])
def test_the_lines_for_curl_work_as_printed(
    triton_repository: Path, server: TritonStandIn, name: str, tmp_path: Path
) -> None:
    shutil.copy(PHOTOS[0], tmp_path / "cat.jpg")
    blocks = re.findall(r"```bash\n(.*?)```", (triton_repository / name / "README.md").read_text(), flags=re.DOTALL)
    assert len(blocks) == 3
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    outputs = []
    for block in blocks:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block],
            cwd=tmp_path,
            env={**os.environ, "TRITON": server.url, "PATH": path, "no_proxy": "127.0.0.1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (block, done.stderr)
        outputs.append(done.stdout)
    assert '"max_batch_size": 32' in outputs[0]
    assert len(re.findall(r"-?\d+\.\d+:\d+:n\d{8} ", outputs[1])) == 5
    assert f'"name": "{"path" if name == "embedded" else "embedding"}"' in outputs[2]
