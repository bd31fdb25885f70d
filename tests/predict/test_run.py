"""A run that is killed, fails or is gone on with, whoever computes: the network here is a table."""

from __future__ import annotations

import json
import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from child_processes import kill_at_random

from miil21k.errors import ImageError, UsageError
from miil21k.hierarchy.load import load_label_space
from miil21k.predict.options import PredictOptions, RunOptions
from miil21k.predict.prediction import Node, Origin, Prediction, Stop
from miil21k.predict.run import Outcome, run
from miil21k.writers.embeddings import EmbeddingFile
from miil21k.writers.output import note_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from miil21k.data.images import ImageInput

CAT = Node("n02121808", "domestic cat", 0.95)


class Table:
    """Answers every image by its name; `stop_after` predictions it fails as a network does."""

    takes_shards = False
    batch_size = 2
    origin = Origin("table", "in1k", "0" * 64, "none", "torch", "cpu", "fp32")

    def __init__(self, stop_after: int = 10**6, error: type[BaseException] = RuntimeError) -> None:
        self.space = load_label_space("in1k")
        self._left, self._error = stop_after, error

    def stream(self, images: Iterable[ImageInput]) -> Iterator[Prediction]:
        for image in images:
            if not self._left:
                raise self._error("the network fell over")
            self._left -= 1
            if "bad" in image.name:
                yield Prediction(image.name, self.origin, error="bad")
                continue
            vector = np.full(3, len(image.name), np.float32)
            yield Prediction(
                image.name,
                self.origin,
                path=(CAT,),
                stop=Stop("leaf", 0.9, False, None, None),
                topk=(CAT,),
                embedding=vector,
            )


@pytest.fixture
def inputs(tmp_path: Path) -> list[str]:
    """Names of seven images; the table does not open them."""
    return [str(tmp_path / f"{'bad' if number == 3 else 'x' * number}.jpg") for number in range(1, 8)]


def answer(inputs: list[str], answers: Table | None = None, **options: Any) -> Outcome:
    found = answers or Table()
    return run(inputs, "table", PredictOptions(), RunOptions(**options), lambda _: nullcontext(found))


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "parquet"])
def test_a_run_that_fails_says_what_is_kept_and_is_gone_on_with(
    suffix: str, inputs: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    cut, whole, vectors = tmp_path / f"cut.{suffix}", tmp_path / f"whole.{suffix}", tmp_path / "e.npy"
    with pytest.raises(RuntimeError, match="fell over"):
        answer(inputs, Table(stop_after=5), output=cut, embeddings=vectors)
    assert f"failed: '{cut}' has 5 rows, all whole; the same command with --resume goes on." in caplog.text
    ended = answer(inputs, output=cut, embeddings=vectors, resume=True)
    assert ended[:3] == ("complete", 7, 1)
    assert answer(inputs, output=whole, embeddings=tmp_path / "w.npy")[:3] == ("complete", 7, 1)
    assert cut.read_bytes() == whole.read_bytes()
    np.testing.assert_array_equal(np.load(vectors), np.load(tmp_path / "w.npy"))
    assert answer(inputs, output=cut, embeddings=vectors, resume=True)[:3] == ("already", 7, 1)


SCRIPT = """
import os, signal, sys
sys.path[:0] = {path!r}
from predict.test_run import answer
from miil21k.writers.embeddings import EmbeddingFile
EmbeddingFile.finish = lambda self: os.kill(os.getpid(), signal.SIGKILL)
answer({inputs!r}, output={output!r}, embeddings={vectors!r})
"""


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_kill_between_the_end_of_the_rows_and_of_the_embeddings_loses_none(
    suffix: str, inputs: list[str], tmp_path: Path
) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    output, vectors = tmp_path / f"rows.{suffix}", tmp_path / "e.npy"
    script = SCRIPT.format(path=sys.path, inputs=inputs, output=str(output), vectors=str(vectors))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False, timeout=600)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert np.load(vectors).shape == (0, 3)
    assert answer(inputs, output=output, embeddings=vectors, resume=True)[:3] == ("complete", 7, 1)
    found = np.load(vectors)
    np.testing.assert_array_equal(found[:, 0], [np.nan if "bad" in name else len(name) for name in inputs])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e.npy", output.name]


SLOWLY = """
import sys, time
sys.path[:0] = {path!r}
from predict.test_run import Table, answer
class Slow(Table):
    def stream(self, images):
        for prediction in super().stream(images):
            time.sleep(0.002)
            yield prediction
answer({inputs!r}, Slow(), output={output!r}, embeddings={vectors!r}, resume=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_fifty_kills_lose_neither_rows_nor_embeddings(suffix: str, tmp_path: Path) -> None:
    inputs = [f"{'bad' if number % 7 == 3 else number}.jpg" for number in range(1, 400)]
    output, vectors = tmp_path / f"rows.{suffix}", tmp_path / "e.npy"
    script = SLOWLY.format(path=sys.path, inputs=inputs, output=str(output), vectors=str(vectors))
    answer(inputs, output=tmp_path / f"whole.{suffix}", embeddings=tmp_path / "w.npy")

    def finished() -> None:
        assert output.read_bytes() == (tmp_path / f"whole.{suffix}").read_bytes()
        assert vectors.read_bytes() == (tmp_path / "w.npy").read_bytes()
        output.unlink()
        vectors.unlink()

    kill_at_random([sys.executable, "-c", script], finished)


def test_complete_rows_without_their_embeddings_are_not_called_complete(inputs: list[str], tmp_path: Path) -> None:
    answer(inputs, output=tmp_path / "rows.csv")
    with pytest.raises(UsageError, match="holds 0 embeddings of 7: start again with --overwrite"):
        answer(inputs, output=tmp_path / "rows.csv", embeddings=tmp_path / "e.npy", resume=True)


def test_the_mark_of_an_unfinished_run_goes_last(
    inputs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, log = tmp_path / "rows.csv", tmp_path / "log.json"
    finish = EmbeddingFile.finish

    def watched(self: EmbeddingFile) -> None:
        assert note_path(output).exists()
        assert output.read_bytes().count(b"\n") == 8
        finish(self)

    monkeypatch.setattr(EmbeddingFile, "finish", watched)
    answer(inputs, output=output, embeddings=tmp_path / "e.npy", log=log)
    assert not note_path(output).exists()
    assert json.loads(log.read_text())["outcome"] == "complete"


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files")
def test_a_full_disk_names_the_file_the_rows_and_resume(
    inputs: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / "rows.jsonl"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
        with pytest.raises(OSError, match="File too large") as caught:
            answer(inputs, output=output)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert caught.value.filename == str(output)
    kept = output.read_bytes().splitlines()
    assert 1 <= len(kept) < 7
    assert [json.loads(line)["input"] for line in kept] == inputs[: len(kept)]
    assert f"failed: '{output}' has {len(kept)} rows, all whole; the same command with --resume goes on." in caplog.text
    assert answer(inputs, output=output, resume=True)[:2] == ("complete", 7)


def test_ctrl_c_and_on_error_fail_are_told_apart(
    inputs: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(KeyboardInterrupt):
        answer(inputs, Table(2, KeyboardInterrupt), output=tmp_path / "a.csv", log=tmp_path / "a.json")
    assert "interrupted: " in caplog.text
    assert json.loads((tmp_path / "a.json").read_text())["outcome"] == "interrupted"
    ended = answer(inputs, output=tmp_path / "b.csv", on_error="fail", log=tmp_path / "b.json")
    assert ended[:3] == ("stopped", 2, 1)
    assert "stopped: bad" in caplog.text
    assert json.loads((tmp_path / "b.json").read_text())["outcome"] == "stopped"


def test_a_finished_run_says_in_one_line_what_it_did(
    inputs: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "miil21k"):
        answer(inputs, output=tmp_path / "rows.csv")
    assert f"'{tmp_path / 'rows.csv'}': 7 rows, 1 of the inputs failed in 0." in caplog.text


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "parquet"])
def test_rows_of_an_object_store_are_put_there_whole(
    suffix: str, inputs: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fsspec = pytest.importorskip("fsspec", reason="the extra 'cloud' is not installed")
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    store = fsspec.filesystem("memory")
    address = f"memory://{tmp_path.name}/rows.{suffix}"
    with pytest.raises(RuntimeError, match="fell over"):
        answer(inputs, Table(stop_after=5), output=address)
    assert f"failed: nothing was put at '{address}': start again." in caplog.text
    assert not store.exists(address)

    assert answer(inputs, output=address)[:3] == ("complete", 7, 1)
    answer(inputs, output=tmp_path / f"here.{suffix}")
    assert store.cat_file(address) == (tmp_path / f"here.{suffix}").read_bytes()

    with pytest.raises(UsageError, match=f"'{address}' exists: --overwrite replaces it"):
        answer(inputs, output=address)
    with pytest.raises(UsageError, match="put there whole, at the end: --resume needs a file of this machine"):
        answer(inputs, output=address, resume=True)
    assert answer(inputs[:2], output=address, overwrite=True)[:3] == ("complete", 2, 0)
    assert store.cat_file(address) != (tmp_path / f"here.{suffix}").read_bytes()


def test_embeddings_and_the_log_go_to_an_object_store_too(inputs: list[str], tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec", reason="the extra 'cloud' is not installed")
    store, folder = fsspec.filesystem("memory"), f"memory://{tmp_path.name}"
    there: dict[str, Any] = {"embeddings": f"{folder}/e.npy", "log": f"{folder}/log.json"}
    with pytest.raises(RuntimeError, match="fell over"):
        answer(inputs, Table(stop_after=5), output=f"{folder}/rows.csv", **there)
    assert not store.exists(there["embeddings"])
    assert json.loads(store.cat_file(there["log"]))["outcome"] == "failed"

    for output in (f"{folder}/rows.csv", tmp_path / "rows.csv"):
        assert answer(inputs, output=output, overwrite=True, **there)[:3] == ("complete", 7, 1)
        answer(inputs, output=tmp_path / "here.csv", embeddings=tmp_path / "e.npy", overwrite=True)
        assert store.cat_file(there["embeddings"]) == (tmp_path / "e.npy").read_bytes()
        assert json.loads(store.cat_file(there["log"]))["rows"] == 7

    with pytest.raises(UsageError, match=r"e\.npy' exists: --overwrite replaces it"):
        answer(inputs, output=tmp_path / "more.csv", **there)
    with pytest.raises(UsageError, match=r"'memory://a/e\.npz' must end in \.npy"):
        answer(inputs, output=tmp_path / "more.csv", embeddings="memory://a/e.npz")
    with pytest.raises(UsageError, match=r"e\.npy' is put there whole, at the end: --resume needs a file of this"):
        answer(inputs, output=tmp_path / "rows.csv", resume=True, **there)
    with pytest.raises(UsageError, match="--save-plots writes a folder of this machine, not 'memory://a/plots'"):
        RunOptions(output=tmp_path / "more.csv", save_plots="memory://a/plots")


def test_a_store_that_cannot_be_written_is_named(inputs: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec = pytest.importorskip("fsspec", reason="the extra 'cloud' is not installed")

    def refused(*_: object) -> None:
        raise PermissionError(13, "Access Denied")

    monkeypatch.setattr(fsspec.get_filesystem_class("memory"), "put_file", refused)
    with pytest.raises(ImageError, match=r"'memory://a/rows.jsonl' cannot be written: Access Denied") as failed:
        answer(inputs, output="memory://a/rows.jsonl")
    kept = Path(str(failed.value).split("kept in '")[1].removesuffix("'."))
    assert len(kept.read_text().splitlines()) == len(inputs)
    shutil.rmtree(kept.parent)


def test_rows_whose_upload_is_interrupted_are_kept(
    inputs: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fsspec = pytest.importorskip("fsspec", reason="the extra 'cloud' is not installed")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fsspec.get_filesystem_class("memory"), "put_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        answer(inputs, output="memory://a/rows.jsonl")
    (line,) = [record.getMessage() for record in caplog.records if "kept in" in record.getMessage()]
    kept = Path(line.split("kept in '")[1].removesuffix("'."))
    assert len(kept.read_text().splitlines()) == len(inputs)
    shutil.rmtree(kept.parent)
