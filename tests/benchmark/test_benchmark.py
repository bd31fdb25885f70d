"""What `miil21k benchmark` measures, where it stops, and what it says of what is not to be had."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest
import timm
import torch

from miil21k.benchmark import run
from miil21k.benchmark.contestants import Contestant, NotHere, Roster, read_contestants
from miil21k.benchmark.measure import latency, refuses, try_batches
from miil21k.benchmark.options import BenchmarkOptions
from miil21k.benchmark.run import FIELDS, benchmark, measure_row
from miil21k.errors import UsageError
from miil21k.runtime.options import LoadOptions

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SMALL = "test_convnext"  # one of timm's networks for tests, of 270,000 parameters


@pytest.fixture
def own(tmp_path: Path) -> Contestant:
    """Return a small network with weights in a file, of which nobody says what its 7 classes are."""
    path = tmp_path / "own.pth"
    torch.save(timm.create_model(SMALL, num_classes=7).state_dict(), path)
    return read_contestants([f"{SMALL}={path}"])[0]


def _options(**changes: object) -> BenchmarkOptions:
    load = LoadOptions(device="cpu", img_size=64, threads=1)
    return BenchmarkOptions(("torch",), quick=True, max_batch=2, seconds=0.01, load=load, **changes)  # type: ignore[arg-type]


def test_batches_double_until_memory_refuses() -> None:
    tried: list[int] = []

    def prepare(batch: int) -> Callable[[], object]:
        def call() -> None:
            if batch > 8:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
            time.sleep(0.002 if batch == 4 else 0.02)

        tried.append(batch)
        return call

    last = list(try_batches(prepare, 64, 0.01))[-1]
    assert (last.largest, last.bound, last.batch) == (8, "memory", 4)
    assert 400 < last.rate < 2001
    assert tried == [1, 2, 4, 8, 16, 4]
    last = list(try_batches(prepare, 5, 0.01))[-1]
    assert (last.largest, last.bound) == (4, "option")


def test_a_first_batch_that_is_refused_is_told_and_another_failure_is_raised() -> None:
    def fails(error: Exception) -> Callable[[int], Callable[[], object]]:
        def prepare(_: int) -> Callable[[], object]:
            raise error

        return prepare

    assert [(b.largest, b.bound) for b in try_batches(fails(MemoryError()), 4, 0.01)] == [(0, "memory")]
    with pytest.raises(RuntimeError, match="shape"):
        list(try_batches(fails(RuntimeError("a wrong shape")), 4, 0.01))
    assert refuses(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))


def test_latency_is_the_median_of_warm_calls() -> None:
    pauses = iter([0.2] * 3 + [0.001] * 9 + [0.1] + [0.001] * 99)
    found = latency(lambda: time.sleep(next(pauses)), 0.02)
    assert 1 <= found.median < 20 < found.p95 < 100
    assert found.calls >= 10


def test_words_become_contestants(tmp_path: Path) -> None:
    weights = tmp_path / "a.pth"
    weights.touch()
    one, two, three = read_contestants(["embedded", f"resnet18={weights}", "random"], random=True)
    assert (one.name, one.checkpoint, two.model, two.checkpoint) == ("embedded", None, "resnet18", weights)
    assert (three.name, three.model, three.random) == ("embedded (random)", "embedded", True)
    with pytest.raises(UsageError, match=r"no file 'gone\.pth': weights of your own are named NAME=FILE"):
        read_contestants(["resnet18=gone.pth"])
    with pytest.raises(UsageError, match="'embedded' is named twice"):
        read_contestants(["embedded", "embedded"])
    other = tmp_path / "b.pth"
    other.touch()
    assert [one.name for one in read_contestants([f"x={weights}", f"x={other}"])] == ["x=a.pth", "x=b.pth"]


def test_a_file_of_ones_own_is_measured_in_another_process(own: Contestant) -> None:
    (row,) = benchmark([own], _options(training=False))
    assert list(row) == list(FIELDS)
    assert (row["status"], row["device"], row["input_size"], row["largest_batch"]) == ("ok", "cpu", 64, 2)
    assert row["parameters"] == sum(p.numel() for p in timm.create_model(SMALL, num_classes=7).parameters())
    assert 0 < row["latency_ms"] <= row["latency_p95_ms"]
    assert 50 < row["memory_mib"] <= row["batch_memory_mib"] < 4000
    assert row["training_images_per_second"] is None


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_training_is_measured_too(own: Contestant, dtype: str) -> None:
    row = measure_row(Roster(own, _options()), "torch", dtype, apart=False)  # type: ignore[arg-type]
    assert (row["status"], row["reason"], row["largest_training_batch"]) == ("ok", None, 2)
    assert row["training_images_per_second"] > 0
    assert row["largest_training_batch_bound"] == "option"


def test_what_is_not_to_be_had_is_a_row_that_says_why(own: Contestant) -> None:
    skipped = measure_row(Roster(own, _options()), "onnx", "fp16")
    assert (skipped["status"], skipped["reason"]) == ("skipped", "ONNX Runtime computes in fp32")
    absent = measure_row(Roster(Contestant("nobody", "nobody"), _options()), "torch", "fp32")
    assert absent["status"] == "failed"
    assert "nobody" in absent["reason"]
    cuda = BenchmarkOptions(load=LoadOptions(device="cuda"))
    with pytest.raises(NotHere, match="OpenVINO does not run on cuda"):
        Roster(own, cuda).entry("openvino", "fp32")
    with pytest.raises(NotHere, match="no export may be made"):
        Roster(own, _options()).entry("onnx", "fp32")
    with pytest.raises(UsageError, match="Did you mean 'bf16'"):
        BenchmarkOptions(dtypes=("bf15",))  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_process_that_the_system_ends_ends_no_run(own: Contestant, monkeypatch: pytest.MonkeyPatch) -> None:
    row: dict[str, object] = dict.fromkeys(FIELDS)
    entry = Roster(own, _options()).entry("torch", "fp32")
    row["largest_batch"] = 4
    monkeypatch.setattr(run, "_work", _leave)
    assert run._add(row, "answers", entry, _options(), apart=True) is None
    assert row["largest_batch_bound"] == "memory"
    row["largest_batch"] = None
    assert "exit code 9" in str(run._add(row, "answers", entry, _options(), apart=True))


def _leave(*_: object) -> None:
    os._exit(9)
