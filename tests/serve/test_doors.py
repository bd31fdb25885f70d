"""What a server answers beside predictions, to whom, how often, and what it logs: over real connections."""

from __future__ import annotations

import base64
import http.client
import json
import logging
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest

pytest.importorskip("starlette", reason="the extra 'serve' is not installed")
pytest.importorskip("onnx", reason="the extra 'export' is not installed")

from colour_export import coloured, write_colour_export
from served import running

from miil21k.predict.options import PredictOptions
from miil21k.predict.predictor import Predictor
from miil21k.serve.app import create_app
from miil21k.serve.bodies import Limits
from miil21k.serve.clients import Keys, Limiter
from miil21k.serve.endpoints import endpoints
from miil21k.serve.logs import JsonLog
from miil21k.serve.query import Asked
from miil21k.serve.service import serving

if TYPE_CHECKING:
    from collections.abc import Iterator

RED, GREEN = coloured("red"), coloured("green")
KEY = "correct-horse-battery"


class Reply(NamedTuple):
    status: int
    headers: Any
    json: Any


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    path = tmp_path_factory.mktemp("model") / "colours.onnx"
    write_colour_export(path)
    return Predictor(str(path), batch_size=8)


@contextmanager
def server(predictor: Predictor, **options: Any) -> Iterator[int]:
    with serving(predictor, workers=2, max_wait=0.0, queue=8) as service:
        service.warm_up()
        app = create_app(service, Asked(predictor.options, None), Limits(1 << 20, 4, 60), **options)
        with running(app) as port:
            yield port


@pytest.fixture(scope="module")
def port(predictor: Predictor) -> Iterator[int]:
    with server(predictor) as port:
        yield port


def ask(port: int, path: str, body: bytes | None = None, kind: str = "image/png", **headers: str) -> Reply:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("GET" if body is None else "POST", path, body, {"Content-Type": kind, **named})
        response = connection.getresponse()
        content = response.read()
        is_json = response.headers["Content-Type"] == "application/json"
        return Reply(response.status, response.headers, json.loads(content) if is_json else content.decode())
    finally:
        connection.close()


def form(*images: bytes) -> tuple[bytes, str]:
    start = b'--XX\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\n'
    return b"".join([*(start + image + b"\r\n" for image in images), b"--XX--\r\n"]), "multipart/form-data; boundary=XX"


# ---- what is asked, and features ----


def test_asked_alone_is_what_predict_says_of_it(port: int) -> None:
    query = "ask=warm,cold&under=warm"
    (row,) = ask(port, f"/v1/ask?{query}", RED).json["predictions"]
    (whole,) = ask(port, f"/v1/predict?{query}", RED).json["predictions"]
    assert row == {name: value for name, value in whole.items() if name not in ("path", "stop", "topk")}
    assert [one["question"] for one in row["asked"]] == ["warm", "cold"]
    assert row["given"]["condition"] == "under warm"


def test_an_image_that_cannot_be_read_is_a_row_of_every_endpoint(port: int) -> None:
    for path, field in (("/v1/ask?ask=warm", "asked"), ("/v1/embed", "embedding")):
        good, bad = ask(port, path, *form(RED, b"no image")).json["predictions"]
        assert (good["status"], bad["status"]) == ("ok", "error")
        assert field in good
        assert field not in bad
        assert "not an image" in bad["error"]


def test_an_embedding_is_that_of_python_as_numbers_and_as_bytes(port: int, predictor: Predictor) -> None:
    embeds = Predictor(predictor._model, options=PredictOptions(embeddings=True))
    expected = embeds.predict(GREEN).embedding
    (row,) = ask(port, "/v1/embed", GREEN).json["predictions"]
    assert row["embedding"] == pytest.approx(expected.tolist(), abs=1e-6)
    assert "topk" not in row
    (row,) = ask(port, "/v1/embed?encoding_format=base64", GREEN).json["predictions"]
    np.testing.assert_allclose(np.frombuffer(base64.b64decode(row["embedding"]), "<f4"), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/v1/ask", 400, "Nothing is asked"),
        ("/v1/ask?ask=warm&topk=3", 400, "No parameter 'topk'"),
        ("/v1/embed?topk=3", 400, "No parameter 'topk'"),
        ("/v1/embed?encoding_format=hex", 400, "must be float or base64, not 'hex'"),
        ("/v1/embed?encoding_format=float&encoding_format=float", 400, "given twice"),
        ("/v2/models/colours/infer", 400, "no text in UTF-8"),
        ("/v2/models/colour/infer", 404, "this server has 'colours'"),
        ("/v2/models/colours/versions/2/infer", 404, "it has version 1"),
    ],
)
def test_what_makes_no_sense_is_one_sentence(port: int, path: str, status: int, words: str) -> None:
    reply = ask(port, path, RED)
    assert (reply.status, sorted(reply.json)) == (status, ["error", "schema"])
    assert words in reply.json["error"]


def test_an_empty_body_is_no_image(port: int) -> None:
    reply = ask(port, "/v1/predict", b"")
    assert (reply.status, reply.json["error"]) == (400, "The body is empty: send an image.")


def test_a_network_without_features_says_so(port: int, predictor: Predictor) -> None:
    with serving(predictor, workers=1, max_wait=0.0, queue=8) as service:
        service.no_embedding = "Net has no timm forward_head, so it gives no embeddings."
        with running(create_app(service, Asked(predictor.options, None), Limits(1 << 20, 4, 60))) as port:
            reply = ask(port, "/v1/embed", RED)
            assert (reply.status, reply.json["error"]) == (501, service.no_embedding)
            outputs = ask(port, "/v2/models/colours").json["outputs"]
    assert "embedding" not in {output["name"] for output in outputs}


def test_every_described_path_is_a_route_and_the_table_says_which_are_open(port: int, predictor: Predictor) -> None:
    table = endpoints(Limits(1 << 20, 4, 60), Asked(predictor.options, None))
    described = ask(port, "/openapi.json").json["paths"]
    assert set(described) == {end.path for end in table if end.operation is not None}
    unguarded = {end.path for end in table if end.open}
    assert unguarded == {
        "/",
        "/v2",
        "/v2/health/live",
        "/v2/health/ready",
        "/health",
        "/ready",
        "/openapi.json",
        "/docs",
    }


# ---- keys and limits ----


def test_a_server_with_keys_answers_those_who_have_one(predictor: Predictor) -> None:
    with server(predictor, keys=Keys([KEY])) as port:
        for headers in ({}, {"Authorization": f"Bearer {KEY}x"}, {"Authorization": f"Basic {KEY}"}, {"X_API_Key": "x"}):
            reply = ask(port, "/v1/predict", RED, **headers)
            assert (reply.status, reply.headers["WWW-Authenticate"]) == (401, 'Bearer realm="miil21k"')
            assert KEY not in reply.json["error"]
        for headers in ({"Authorization": f"bearer {KEY}"}, {"X_API_Key": KEY}):
            assert ask(port, "/v1/predict", RED, **headers).status == 200
        for path in ("/v1/model", "/v1/concepts?like=w", "/metrics", "/v2/models/colours"):
            assert ask(port, path).status == 401, path
        for path in ("/health", "/ready", "/v2/health/live", "/v2/health/ready", "/", "/docs", "/v2"):
            assert ask(port, path).status == 200, path
        described = ask(port, "/openapi.json").json
        assert described["paths"]["/v1/predict"]["post"]["security"] == [{"key": []}]
        assert "security" not in described["paths"]["/health"]["get"]
        counted = ask(port, "/metrics", Authorization=f"Bearer {KEY}").json
        assert 'miil21k_requests_total{code="401",endpoint="/v1/predict"} 4.0' in counted


def test_a_client_that_asks_too_often_is_told_when_to_come_back(predictor: Predictor) -> None:
    limiter = Limiter(0.5, lambda: 0.0)
    with server(predictor, keys=Keys([KEY]), limiter=limiter) as port:
        mine = {"Authorization": f"Bearer {KEY}"}
        assert [ask(port, "/v1/model", **mine).status for _ in range(2)] == [200, 429]
        reply = ask(port, "/v1/predict", RED, **mine)
        assert (reply.status, reply.headers["Retry-After"]) == (429, "2")
        assert reply.json["error"] == "Too many requests: try again in 2 seconds."
        assert [ask(port, "/v1/model").status for _ in range(2)] == [401, 429]  # guesses cost the address its own
        assert [ask(port, "/health").status for _ in range(5)] == [200] * 5


# ---- logs ----


def test_every_request_is_a_line_of_json_with_an_id_and_no_secret(
    predictor: Predictor, caplog: pytest.LogCaptureFixture
) -> None:
    lines: list[str] = []

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(self.format(record))

    handler = Lines()
    handler.setFormatter(JsonLog())
    logger = logging.getLogger("miil21k.serve.logs")
    caplog.set_level(logging.INFO, logger.name)
    logger.addHandler(handler)
    try:
        with server(predictor, keys=Keys([KEY]), log_level=logging.INFO) as port:
            mine = {"Authorization": f"Bearer {KEY}"}
            given = ask(port, "/v1/ask?ask=warm", RED, X_Request_ID="abc-1", **mine)
            made = ask(port, "/v1/ask?ask=warm", RED, X_Request_ID='bad"id', Authorization="Bearer wrong")
            ask(port, "/health")
    finally:
        logger.removeHandler(handler)
    assert given.headers["X-Request-ID"] == "abc-1"
    assert re.fullmatch(r"[0-9a-f]{32}", made.headers["X-Request-ID"])
    first, second = map(json.loads, lines)
    assert (first["request_id"], first["status"], first["path"], first["method"]) == ("abc-1", 200, "/v1/ask", "POST")
    assert (second["request_id"], second["status"]) == (made.headers["X-Request-ID"], 401)
    assert first["level"] == "info"
    assert first["seconds"] > 0
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first["time"])
    assert not any(secret in line for line in lines for secret in (KEY, "wrong", "warm", "Bearer"))


def test_a_traceback_is_a_field_of_its_line() -> None:
    try:
        raise ValueError("a\nb")
    except ValueError:
        import sys

        record = logging.LogRecord("x", logging.ERROR, "f", 1, "no %s", ("luck",), sys.exc_info())
    line = JsonLog().format(record)
    assert "\n" not in line
    found = json.loads(line)
    assert (found["message"], found["level"]) == ("no luck", "error")
    assert "ValueError: a" in found["exception"]
