"""`heat`: a map of where the evidence for a node is, per image, in the answers of the server."""

from __future__ import annotations

import base64
import io
import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("starlette", reason="the extra 'serve' is not installed")

from served import running

from miil21k.predict.predictor import Predictor
from miil21k.serve.app import create_app
from miil21k.serve.bodies import Limits
from miil21k.serve.query import Asked
from miil21k.serve.service import serving

if TYPE_CHECKING:
    from collections.abc import Iterator

CAT = Path(__file__).parents[2] / "examples" / "images" / "cat.jpg"


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor("embedded", backend="torch", device="cpu", threads=1)


@pytest.fixture(scope="module")
def port(predictor: Predictor) -> Iterator[int]:
    with serving(predictor, workers=2, max_wait=0.0, queue=8) as service:
        service.warm_up()
        with running(create_app(service, Asked(predictor.options, None), Limits(1 << 20, 4, 60))) as port:
            yield port


def asked(port: int, path: str, image: bytes | None = None) -> tuple[int, dict[str, Any]]:
    headers = {"Content-Type": "image/jpeg"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", image, headers)
    try:
        with urllib.request.urlopen(request, timeout=600) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_the_answer_holds_the_map_of_the_predictor_and_the_part_of_the_image_that_it_covers(
    port: int, predictor: Predictor
) -> None:
    status, answer = asked(port, "/v1/predict?heat=mammal", CAT.read_bytes())
    assert status == 200
    (row,) = answer["predictions"]
    found = row["heat"]
    assert np.array(found["values"]) == pytest.approx(predictor.heat(CAT, "mammal"), abs=1e-4)
    assert (found["name"], found["wnid"]) == ("mammal", "n01861778")
    assert found["probability"] == pytest.approx(predictor.ask(CAT, ["mammal"]).probability("mammal"), abs=1e-5)
    with Image.open(CAT) as image:
        width, height = image.size
    side = round(0.875 * min(width, height))  # the middle 224 of 256 pixels of the shorter side
    box = found["box"]
    assert (box["right"] - box["left"], box["bottom"] - box["top"]) == pytest.approx((side, side), abs=1)
    assert (box["left"] + box["right"], box["top"] + box["bottom"]) == pytest.approx((width, height), abs=2)
    kind, _, data = found["image"].partition(",")
    assert kind == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as painted:
        pixels = np.asarray(painted).astype(int)
    assert pixels.shape == (56, 56, 4)
    row_of, column = np.unravel_index(np.abs(np.array(found["values"])).argmax(), (7, 7))
    strongest = pixels[8 * row_of : 8 * row_of + 8, 8 * column : 8 * column + 8]
    assert strongest[..., 3].max() == pixels[..., 3].max() > 150
    red_above_blue = bool(strongest[4, 4, 0] > strongest[4, 4, 2])
    assert red_above_blue == (found["values"][row_of][column] > 0)


def test_what_is_asked_beside_it_stays_as_it_was(port: int) -> None:
    _, plain = asked(port, "/v1/predict?topk=2", CAT.read_bytes())
    _, mapped = asked(port, "/v1/predict?topk=2&heat=n02121808", CAT.read_bytes())
    assert "heat" not in plain["predictions"][0]
    assert mapped["predictions"][0].pop("heat")["wnid"] == "n02121808"
    assert mapped == plain


def test_parts_are_those_of_the_predictor_and_count_as_waiting_images(predictor: Predictor) -> None:
    several = Predictor("embedded", backend="torch", device="cpu", threads=1, multi=True).predict(CAT)
    assert several.parts
    for queue, status in ((64, 200), (16, 400)):
        with serving(predictor, workers=2, max_wait=0.0, queue=queue) as service:
            service.warm_up()
            with running(create_app(service, Asked(predictor.options, None), Limits(1 << 20, 4, 60))) as port:
                answered, answer = asked(port, "/v1/predict?multi=true", CAT.read_bytes())
            assert service.batcher.waiting == 0
        assert answered == status
        if status == 200:
            parts = answer["predictions"][0]["parts"]
            assert [part["box"] for part in parts] == [part.box._asdict() for part in several.parts]
            assert [part["name"] for part in parts] == [part.name for part in several.parts]
        else:
            assert "tiles, more than this server lets wait" in answer["error"]


def test_an_unreadable_image_has_no_map_and_costs_the_others_none(port: int) -> None:
    status, answer = asked(port, "/v1/predict?heat=cat", b"no image")
    assert status == 200
    assert answer["predictions"][0]["status"] == "error"
    assert "heat" not in answer["predictions"][0]


def test_a_node_that_nobody_knows_and_an_endpoint_without_maps_are_refused(port: int) -> None:
    status, answer = asked(port, "/v1/predict?heat=mamal", CAT.read_bytes())
    assert status == 400
    assert "mamal" in answer["error"]
    status, answer = asked(port, "/v1/ask?ask=cat&heat=cat", CAT.read_bytes())
    assert (status, answer["error"].partition(".")[0]) == (400, "No parameter 'heat'")
    assert asked(port, "/v1/model")[1]["heat"] is True


def test_a_network_without_maps_says_how_to_get_one(tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="the extra 'export' is not installed")
    from colour_export import write_colour_export

    write_colour_export(tmp_path / "colours.onnx")
    predictor = Predictor(str(tmp_path / "colours.onnx"))
    with serving(predictor, workers=1, max_wait=0.0, queue=4) as service:
        service.warm_up()
        with running(create_app(service, Asked(predictor.options, None), Limits(1 << 20, 4, 60))) as port:
            status, answer = asked(port, "/v1/predict?heat=red", CAT.read_bytes())
            assert status == 400
            assert answer["error"].startswith("An export keeps no feature map")
            assert "--backend torch" in answer["error"]
            assert asked(port, "/v1/model")[1]["heat"] is False
