"""What the application answers when the network fails, which no process can be made to do from outside."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest

pytest.importorskip("starlette", reason="the extra 'serve' is not installed")
pytest.importorskip("onnx", reason="the extra 'export' is not installed")

from colour_export import coloured, write_colour_export

from miil21k.calibrate.record import Calibration
from miil21k.errors import ExportError
from miil21k.predict.predictor import Predictor
from miil21k.runtime.base import Outputs
from miil21k.serve.app import create_app
from miil21k.serve.bodies import Limits
from miil21k.serve.query import Asked
from miil21k.serve.service import serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from starlette.applications import Starlette

RED, GREEN, BLUE = map(coloured, ("red", "green", "blue"))


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: dict[str, Any]


async def post(
    app: Starlette,
    image: bytes | None,
    kind: str = "image/png",
    query: str = "",
    chunks: list[bytes] | None = None,
    leaves: asyncio.Event | None = None,
) -> Reply:
    """None for the image: the client goes away instead of sending it. chunks: sent before it, and taken from there.

    leaves: the client goes away at this event, after the image.
    """
    chunks = [] if chunks is None else chunks
    whole = False
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/predict",
        "query_string": query.encode(),
        "headers": [(b"content-type", kind.encode())],
    }
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        nonlocal whole
        if image is None:
            return {"type": "http.disconnect"}
        if whole:
            await (leaves or asyncio.Event()).wait()
            return {"type": "http.disconnect"}
        more = bool(chunks)
        whole = not more
        return {"type": "http.request", "body": chunks.pop() if more else image, "more_body": more}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return Reply(sent[0]["status"], headers, json.loads(b"".join(part["body"] for part in sent[1:] if "body" in part)))


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    path = tmp_path_factory.mktemp("model") / "colours.onnx"
    write_colour_export(path)
    return Predictor(str(path), batch_size=8)


@pytest.fixture
def app(predictor: Predictor) -> Iterator[Starlette]:
    """It waits as long as it takes for the images of the requests that have begun, so that they share a batch."""
    with serving(predictor, workers=2, max_wait=3600, queue=4) as service:
        service.warm_up()
        limits = Limits(1 << 20, 4, 60)
        yield create_app(service, Asked(predictor.options, None), limits)
        assert service.batcher.waiting == 0, "every place was given back"


async def together(app: Starlette, *images: bytes | None) -> list[Reply]:
    return await asyncio.gather(*(post(app, image) for image in images))


class Broken:
    """The backend of a predictor with other outputs."""

    def __init__(self, backend: Any, change: Any) -> None:
        self._backend, self._change = backend, change
        self.sizes: list[int] = []

    def run(self, images: Any, *, embed: bool = False) -> Outputs:
        self.sizes.append(len(images))
        return Outputs(self._change(self._backend.run(images).logits), None)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)


def test_a_picture_that_the_network_cannot_answer_costs_nobody_else_theirs(
    app: Starlette, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_a_number_for_blue(logits: Any) -> Any:
        logits = logits.copy()
        blue = predictor.space.tree.names.index("blue_circle")
        logits[logits.argmax(axis=1) == blue] = np.nan
        return logits

    backend = Broken(predictor.backend, not_a_number_for_blue)
    monkeypatch.setattr(predictor, "backend", backend)
    red, blue, green = asyncio.run(together(app, RED, BLUE, GREEN))
    assert backend.sizes == [3]
    assert (red.status, blue.status, green.status) == (200, 500, 200)
    assert "holds nan" in blue.body["error"]
    for reply, names in ((red, ["warm", "red"]), (green, ["cold", "green"])):
        (row,) = reply.body["predictions"]
        assert [node["name"] for node in row["path"]] == names
        assert row["stop"]["reason"] == "hedge"


def test_a_network_that_fails_is_told_to_its_batch_and_the_next_one_is_answered(
    app: Starlette, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Any) -> Any:
        raise ExportError("The file is gone.")

    with monkeypatch.context() as patch:
        patch.setattr(predictor, "backend", Broken(predictor.backend, fail))
        replies = asyncio.run(together(app, RED, GREEN))
    assert [(reply.status, reply.body["error"]) for reply in replies] == [(500, "The file is gone.")] * 2
    assert [reply.status for reply in asyncio.run(together(app, RED, GREEN))] == [200, 200]


def test_what_nobody_foresaw_is_for_the_log_and_not_for_the_client(
    app: Starlette, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Any) -> Any:
        raise ZeroDivisionError("/secret/path")

    monkeypatch.setattr(predictor, "backend", Broken(predictor.backend, fail))
    with pytest.raises(ZeroDivisionError):  # which the server writes into its log
        asyncio.run(post(app, RED))


def test_a_client_that_goes_away_leaves_no_trace(app: Starlette) -> None:
    gone, red = asyncio.run(together(app, None, RED))
    assert (gone.status, red.status) == (499, 200)


def test_who_leaves_while_the_picture_waits_is_not_computed_and_counts_as_gone(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = Broken(predictor.backend, lambda logits: logits)
    monkeypatch.setattr(predictor, "backend", backend)

    async def leave(app: Starlette, service: Any) -> Reply:
        left = asyncio.Event()
        with service.batcher.expecting():  # another one on its way, for which the picture waits
            asking = asyncio.ensure_future(post(app, RED, leaves=left))
            while not service.batcher._ready:
                await asyncio.sleep(0.001)
            left.set()
            return await asking

    with serving(predictor, workers=1, max_wait=3600, queue=4) as service:
        app = create_app(service, Asked(predictor.options, None), Limits(1 << 20, 4, 60))
        reply = asyncio.run(leave(app, service))
        text = service.metrics.text().decode()
    assert reply.status == 499
    assert backend.sizes == []
    assert 'miil21k_requests_total{code="499",endpoint="/v1/predict"} 1.0' in text
    assert 'miil21k_request_seconds_count{code="499",endpoint="/v1/predict"} 1.0' in text
    assert service.buffer.held == 0


def test_an_answer_that_takes_too_long_is_given_up_and_frees_its_place(predictor: Predictor) -> None:
    async def ask(app: Starlette, service: Any) -> Reply:
        with service.batcher.expecting():
            return await post(app, RED)

    with serving(predictor, workers=1, max_wait=3600, queue=1) as service:
        limits = Limits(1 << 20, 1, 60, answer=0.05)
        app = create_app(service, Asked(predictor.options, None), limits)
        reply = asyncio.run(ask(app, service))
        assert (reply.status, reply.headers["retry-after"]) == (503, "1")
        assert "within 0.05 seconds" in reply.body["error"]


def test_a_server_that_ends_says_so_to_balancers_and_clients(app: Starlette, predictor: Predictor) -> None:
    with serving(predictor, workers=1, max_wait=0, queue=4) as service:
        ending = create_app(service, Asked(predictor.options, None), Limits(1 << 20, 4, 60))
        before = asyncio.run(post(ending, RED))
        service.end()
        after = asyncio.run(post(ending, RED))
    assert (before.status, before.headers.get("connection")) == (200, None)
    assert (after.status, after.headers["connection"]) == (200, "close")


def test_more_images_than_may_wait_are_refused(app: Starlette) -> None:
    replies = asyncio.run(together(app, *[RED] * 6))
    assert sorted(reply.status for reply in replies) == [200] * 4 + [503] * 2
    refused = [reply for reply in replies if reply.status == 503]
    assert [reply.headers["retry-after"] for reply in refused] == ["1", "1"]
    assert "4 of at most 4 images are waiting" in refused[0].body["error"]


def test_nobody_waits_for_a_picture_that_cannot_be_read(app: Starlette) -> None:
    """The readable ones of a request would otherwise wait for it as for one that is on its way."""
    part = b'--XX\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\n'
    body = b"".join([part + image + b"\r\n" for image in (RED, b"no image", GREEN)] + [b"--XX--\r\n"])
    reply = asyncio.run(asyncio.wait_for(post(app, body, "multipart/form-data; boundary=XX"), 120))
    assert [row["status"] for row in reply.body["predictions"]] == ["ok", "error", "ok"]


def test_a_request_that_is_refused_is_read_to_its_end_first(app: Starlette) -> None:
    """A client that still sends would see a closed connection instead of the reason."""
    chunks = [b"x" * 1000] * 50
    reply = asyncio.run(post(app, b"x", query="topk=0", chunks=chunks))
    assert (reply.status, chunks) == (400, [])


def test_a_calibration_is_applied_described_and_bounds_what_may_be_asked(predictor: Predictor, tmp_path: Path) -> None:
    space, file = predictor.space, tmp_path / "calibration.json"
    fitted = Calibration(
        space.name, space.sha256, "colours", "", "leaf_softmax", "", "", (2.0,), ((0.9, 0.4), (0.95, 0.6)), (9, 9)
    )
    fitted.save(file)
    own = tmp_path / "colours.onnx"
    write_colour_export(own)
    calibrated = Predictor(str(own), calibration=file)
    with serving(calibrated, workers=1, max_wait=0, queue=4) as service:
        app = create_app(service, Asked(calibrated.options, None), Limits(1 << 20, 4, 60))
        assert service.description()["calibration"]["temperature"] == [2.0]
        usual, surer, unknown, elsewhere = (
            asyncio.run(post(app, RED, query=query)) for query in ("", "hedge=0.95", "hedge=0.5", "under=cold")
        )
    (row,), (surer_row,) = usual.body["predictions"], surer.body["predictions"]
    assert (row["stop"]["hedge"], row["stop"]["calibrated"]) == (0.9, True)
    assert [node["name"] for node in row["path"]] == ["warm", "red", "red_circle"]  # 0.5 is above 0.4
    assert [node["name"] for node in surer_row["path"]] == ["warm", "red"]
    assert (unknown.status, elsewhere.status) == (400, 400)
    assert "no threshold for accuracy 0.5" in unknown.body["error"]
    assert "another set of allowed classes" in elsewhere.body["error"]
