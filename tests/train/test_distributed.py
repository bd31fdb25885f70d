"""Two processes of torchrun (gloo, CPU) against one process with twice the batch.

The network has no batch norm: batch norm sees the images of its own process, so equality is neither expected nor
wanted there (on GPUs, the recipe's sync_bn makes it see all of them).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
from safetensors.torch import load_file
from shapes import shape_space, write_folders

if TYPE_CHECKING:
    from pathlib import Path

COMMON = ["-m", "test_vit", "--epochs", "2", "--lr", "1e-3", "--precision", "fp32", "--device", "cpu"]
COMMON += ["-j", "0", "--log-every", "1", "--set", "pretrained=false", "--set", "clip_grad=1.0", "--image-size", "32"]


def _train(data: Path, folder: Path, processes: int, *options: str) -> subprocess.CompletedProcess[str]:
    start = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    command = [sys.executable, *start, "-m", "miil21k", "train", str(data / "train"), "-o", str(folder), *COMMON]
    command += ["--label-space", str(data / "shapes.tsv"), "--val", str(data / "val"), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def _rows(folder: Path, kind: str) -> list[dict[str, float]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] == kind]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_folders(root / "train", 3, seed=0)
    write_folders(root / "val", 2, seed=1)
    (root / "val" / "red" / "red_0.jpg").write_bytes(b"damaged")  # 27 images: no even share
    for name in ("blue", "green_circle"):
        (root / "train" / name / f"{name}_1.jpg").write_bytes(b"damaged")
    (root / "shapes.tsv").write_text(shape_space().to_text())
    return root


@pytest.fixture(scope="module")
def two_runs(data: Path) -> tuple[Path, Path]:
    one = _train(data, data / "one", 1, "--batch-size", "8", "--set", "accumulate=2")
    two = _train(data, data / "two", 2, "--batch-size", "4", "--set", "accumulate=2")
    assert one.returncode == 0, one.stderr
    assert two.returncode == 0, two.stderr
    assert two.stdout.splitlines() == [str(data / "two" / "best.safetensors")]  # the main process alone reports
    return data / "one", data / "two"


def test_two_processes_give_the_losses_of_one_with_twice_the_batch(two_runs: tuple[Path, Path]) -> None:
    one, two = (_rows(folder, "step") for folder in two_runs)
    assert len(one) == len(two) == 2 * 2
    assert [row["loss"] for row in two] == pytest.approx([row["loss"] for row in one], rel=1e-5)


def test_unreadable_images_are_counted_once_over_all_processes(two_runs: tuple[Path, Path]) -> None:
    one, two = (_rows(folder, "epoch") for folder in two_runs)
    assert [row["unreadable"] for row in one] == [row["unreadable"] for row in two]
    assert [row["images"] + row["unreadable"] for row in two] == [32, 32]
    assert sum(row["unreadable"] for row in two) > 0
    listed = [(folder / "unreadable.csv").read_text() for folder in two_runs]
    assert listed[0] == listed[1]
    assert "blue/blue_1.jpg" in listed[0] or "green_circle/green_circle_1.jpg" in listed[0]


def test_validation_counts_every_image_once(two_runs: tuple[Path, Path]) -> None:
    one, two = (_rows(folder, "epoch") for folder in two_runs)
    for a, b in zip(one, two, strict=True):
        assert b["val_own_level_top1"] == a["val_own_level_top1"]
        assert b["val_semantic_top1"] == a["val_semantic_top1"]
        assert (b["val_own_level_top1"] * 27) % 1 == pytest.approx(0, abs=1e-9)


def test_the_weights_agree(two_runs: tuple[Path, Path]) -> None:
    one, two = (load_file(folder / "last.safetensors") for folder in two_runs)
    for name, tensor in one.items():
        np.testing.assert_allclose(two[name].numpy(), tensor.numpy(), atol=2e-5, err_msg=name)


TALK = """
import glob, json
from pathlib import Path
import torch
from miil21k.train.processes import join_processes, leave_processes
processes = join_processes(torch.device("cpu"))
norm = torch.nn.BatchNorm1d(2)
norm.running_mean.fill_(processes.rank + 7)  # the statistics of the last batch differ between processes
processes.share_buffers(norm)
means = processes.gather(norm.running_mean.tolist())
sums = processes.sum([processes.rank, 2.5])
order = []
processes.first(lambda: order.append(processes.rank))
leave_processes()
# A thread of gloo that outlives this may free a tensor while Python shuts down, which aborts the process.
left = [name for name in (Path(path).read_text() for path in glob.glob("/proc/self/task/*/comm")) if "gloo" in name]
if processes.is_main:
    print(json.dumps([means, sums, order, left]))
"""


def test_processes_share_buffers_sums_and_values_and_leave_no_thread(tmp_path: Path) -> None:
    (tmp_path / "talk.py").write_text(TALK)
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*start, str(tmp_path / "talk.py")], env=environment, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == [[[7.0, 7.0], [7.0, 7.0]], [1.0, 5.0], [0], []]


@pytest.mark.slow
def test_synchronised_batch_norm_is_refused_on_a_cpu(data: Path) -> None:
    failed = _train(data, data / "sync", 2, "--batch-size", "4", "--set", "sync_bn=true")
    assert failed.returncode != 0
    assert "Synchronised batch norm needs GPUs" in failed.stderr
    assert not (data / "sync").exists()
