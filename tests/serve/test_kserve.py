"""KServe's second protocol, as its own client speaks it, against a server with a model that knows colours."""

from __future__ import annotations

import base64
import json
import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

pytest.importorskip("starlette", reason="the extra 'serve' is not installed")
pytest.importorskip("onnx", reason="the extra 'export' is not installed")
pytest.importorskip("tritonclient.http", reason="tritonclient is not installed")

import tritonclient.http as triton
from colour_export import coloured, write_colour_export
from served import running
from shapes import COLOURS
from tritonclient.utils import InferenceServerException

from miil21k.predict.predictor import Predictor
from miil21k.serve.app import create_app
from miil21k.serve.bodies import Limits, Refused
from miil21k.serve.kserve import inference_of
from miil21k.serve.query import Asked
from miil21k.serve.service import serving

if TYPE_CHECKING:
    from collections.abc import Iterator

RED = coloured("red")
PIXELS = np.stack([np.full((9, 12, 3), COLOURS[name], np.uint8) for name in ("red", "green", "blue")])


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    path = tmp_path_factory.mktemp("model") / "colours.onnx"
    write_colour_export(path)
    return Predictor(str(path), batch_size=8)


@pytest.fixture(scope="module")
def client(predictor: Predictor) -> Iterator[Any]:
    with serving(predictor, workers=2, max_wait=0.0, queue=8) as service:
        service.warm_up()
        app = create_app(service, Asked(predictor.options, None), Limits(1 << 20, 4, 60))
        with running(app) as port, triton.InferenceServerClient(f"127.0.0.1:{port}") as client:
            yield client


def sent(values: Any, *, binary: bool, name: str = "images", datatype: str = "UINT8") -> Any:
    tensor = triton.InferInput(name, values.shape, datatype)
    tensor.set_data_from_numpy(values, binary_data=binary)
    return tensor


def test_the_client_learns_what_is_there(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("colours")
    assert client.is_model_ready("colours", "1")
    assert not client.is_model_ready("colour")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    model = client.get_model_metadata("colours")
    assert (model["name"], model["versions"]) == ("colours", ["1"])
    assert model["inputs"][0] == {"name": "images", "datatype": "UINT8", "shape": [-1, -1, -1, 3]}
    assert {"name": "logits", "datatype": "FP32", "shape": [-1, 14]} in model["outputs"]


@pytest.mark.parametrize("binary", [True, False])
def test_every_output_of_a_batch_is_what_python_gives(client: Any, predictor: Predictor, binary: bool) -> None:
    names = ["row", "logits", "topk_index", "topk_prob", "path", "path_prob", "hedge_node", "hedge_prob", "embedding"]
    outputs = [triton.InferRequestedOutput(name, binary_data=binary) for name in names]
    answer = client.infer("colours", [sent(PIXELS, binary=binary)], outputs=outputs, request_id="7")
    assert answer.get_response()["id"] == "7"
    assert answer.get_response()["model_version"] == "1"
    found = {name: answer.as_numpy(name) for name in names}
    expected = predictor.predict(list(PIXELS))
    decoded = predictor.decoder.read(predictor.outputs(np.stack([predictor.crop(_input(p)) for p in PIXELS])).logits)
    np.testing.assert_allclose(found["logits"], decoded.logits, atol=1e-4)
    np.testing.assert_array_equal(found["path"], decoded.path.nodes)
    np.testing.assert_array_equal(found["hedge_node"], decoded.hedged.node)
    np.testing.assert_allclose(found["hedge_prob"], decoded.hedged.prob, atol=1e-5)
    assert found["embedding"].shape == (3, 3)
    tree = predictor.space.tree
    for row, index, prediction in zip(found["row"], found["topk_index"], expected, strict=True):
        told = json.loads(row)
        assert [node["name"] for node in told["path"]] == [node.name for node in prediction.path]
        assert [tree.names[node] for node in index] == [node.name for node in prediction.topk]


def _input(pixels: Any) -> Any:
    from miil21k.data.images import ImageInput

    return ImageInput("image", pixels)


def test_without_a_list_of_outputs_all_come_as_bytes(client: Any) -> None:
    answer = client.infer("colours", [sent(PIXELS[:1], binary=True)])
    named = [output["name"] for output in answer.get_response()["outputs"]]
    assert named[:2] == ["row", "logits"]
    assert "asked" not in named
    assert answer.as_numpy("logits").shape == (1, 14)


@pytest.mark.parametrize("binary", [True, False])
def test_files_may_be_sent_and_parameters_are_those_of_the_query(client: Any, binary: bool) -> None:
    files = np.array([RED if binary else base64.b64encode(RED)], dtype=np.object_)
    tensor = sent(files, binary=binary, name="encoded_images", datatype="BYTES")
    wanted = [triton.InferRequestedOutput(name) for name in ("asked", "topk_index")]
    answer = client.infer("colours", [tensor], outputs=wanted, parameters={"topk": 2, "ask": "warm, cold"})
    assert answer.as_numpy("topk_index").shape == (1, 2)
    warm, cold = answer.as_numpy("asked")[0]
    assert warm > 0.9 > 0.1 > cold


def refusal(client: Any, tensors: list[Any], model: str = "colours", **options: Any) -> tuple[str, str]:
    with pytest.raises(InferenceServerException) as refused:
        client.infer(model, tensors, **options)
    return refused.value.status(), refused.value.message()


def test_what_cannot_be_answered_is_one_sentence(client: Any) -> None:
    pixels = sent(PIXELS, binary=True)
    many = sent(np.zeros((5, 2, 2, 3), np.uint8), binary=True)
    no_image = sent(np.array([b"no image"], dtype=np.object_), binary=True, name="encoded_images", datatype="BYTES")
    wanted = [triton.InferRequestedOutput("logit")]
    asked = [triton.InferRequestedOutput("asked")]
    assert refusal(client, [pixels], "colour") == ("404", "There is no model 'colour': this server has 'colours'.")
    assert refusal(client, [pixels], model_version="2")[0] == "404"
    assert refusal(client, [many]) == ("413", "There are more than 4 images in one request.")
    assert refusal(client, [no_image])[0] == "400"
    assert "Did you mean 'logits'?" in refusal(client, [pixels], outputs=wanted)[1]
    assert "without the parameter 'ask'" in refusal(client, [pixels], outputs=asked)[1]
    assert refusal(client, [pixels], parameters={"topk": 0}) == ("400", "topk must be at least 1, not 0.")
    assert refusal(client, [pixels, pixels])[1].startswith("There must be one input")
    assert refusal(client, [sent(PIXELS[..., :2], binary=False)])[0] == "400"


ONE = {"name": "images", "shape": [1, 1, 1, 3], "datatype": "UINT8", "data": [1, 2, 3]}


@pytest.mark.parametrize(
    ("inputs", "tail", "words"),
    [
        ([], b"", "There must be one input"),
        ([{**ONE, "name": "pixels"}], b"", "No input 'pixels'"),
        ([{**ONE, "datatype": "FP32"}], b"", "is UINT8, not 'FP32'"),
        ([{**ONE, "data": [1, 2]}], b"", "holds 2 values"),
        ([{**ONE, "data": [1, 2, 256]}], b"", "whole numbers from 0 to 255"),
        ([{**ONE, "data": [1, 2, 0.5]}], b"", "whole numbers from 0 to 255"),
        ([{**ONE, "data": [1, [2, 3]]}], b"", "whole numbers from 0 to 255"),
        ([{**ONE, "data": {"a": 1}}], b"", "whole numbers from 0 to 255"),
        ([{**ONE, "data": "abc"}], b"", "whole numbers from 0 to 255"),
        ([{**ONE, "data": [10**30, 0, 0]}], b"", "whole numbers from 0 to 255"),
        ([{**ONE, "shape": [1, 1, 3]}], b"", "has the shape"),
        ([{**ONE, "shape": [1, -1, -1, 3]}], b"", "has the shape"),
        ([{**ONE, "shape": []}], b"", "at least one image"),
        ([{**ONE, "shape": [1.5]}], b"", "expected int"),
        ([{**ONE, "parameters": {"binary_data_size": 3}}], b"abc", "either data or"),
        ([{**ONE, "data": None, "parameters": {"binary_data_size": 4}}], b"abc", "says 4 bytes, and 3 come"),
        ([{**ONE, "data": None, "parameters": {"binary_data_size": [3]}}], b"abc", "expected text, a number"),
        ([ONE], b"abc", "no input has a binary_data_size"),
        (["images"], b"", "expected an object"),
        ("images", b"", "expected a list"),
    ],
)
def test_a_message_that_makes_no_sense_is_refused(inputs: Any, tail: bytes, words: str) -> None:
    head = json.dumps({"inputs": inputs}).encode()
    with pytest.raises(Refused) as refused:
        inference_of(head + tail, str(len(head)), ["logits"], 4)
    assert refused.value.status == 400
    assert words in str(refused.value)
    assert str(refused.value).endswith((".", "?"))


@pytest.mark.parametrize("header", ["", "-1", "1e3", "10000", "²", "9" * 30])
def test_a_length_that_is_none_is_refused(header: str) -> None:
    with pytest.raises(Refused, match="must be a number of bytes"):
        inference_of(b"{}", header, [], 4)


def test_a_file_that_ends_early_is_refused() -> None:
    tail = struct.pack("<I", 100) + b"short"
    one = {"name": "encoded_images", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": len(tail)}}
    head = json.dumps({"inputs": [one]}).encode()
    with pytest.raises(Refused, match="end within a file"):
        inference_of(head + tail, str(len(head)), [], 4)
