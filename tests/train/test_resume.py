from __future__ import annotations

import csv
import math
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import runs
import torch
from child_processes import kill_at_random, started, wait_until
from safetensors import safe_open
from safetensors.torch import load, load_file

from miil21k.errors import CheckpointError, CheckpointMismatch, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from miil21k.train.loop import Report

FULL = replace(runs.TINY, epochs=3, ema_decay=0.9, dropout=0.2, random_erase=0.5, hflip=0.5)


class Killed(Exception):
    pass


def _run_until(update: int, data: Path, folder: Path, **changes: object) -> None:
    """Train and stop without any farewell after `update` updates."""

    def stop(report: Report) -> None:
        if report.update >= update:
            raise Killed

    with pytest.raises(Killed):
        runs.train_model(runs.request(data, folder, FULL, **changes), stop, lambda _line: None)


def _stop_at(update: int) -> Callable[[Report], None]:
    def stop(report: Report) -> None:
        if report.update >= update:
            raise Killed

    return stop


def _stop(_report: Report) -> None:
    raise Killed


def _files(folder: Path) -> dict[str, object]:
    """Return the bits of every tensor, and the metadata, whose order in the file is arbitrary."""
    found: dict[str, object] = {}
    for name in ("last.safetensors", "best.safetensors", "last_ema.safetensors"):
        for key, tensor in load_file(folder / name).items():
            found[f"{name} {key}"] = tensor.numpy().tobytes()
        with safe_open(folder / name, framework="np") as file:
            found[name] = file.metadata()
    return found


@pytest.fixture(scope="module")
def uninterrupted(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("runs") / "whole"
    runs.run(shapes / "train", folder, FULL, val=str(shapes / "val"), workers=0)
    torch.set_num_threads(threads)
    return folder


@pytest.mark.parametrize(("stop", "every", "workers"), [(11, 3, 2), (7, 0, 0), (3, 0, 0)])
def test_a_stopped_run_ends_with_the_weights_of_an_uninterrupted_one(
    shapes: Path, tmp_path: Path, uninterrupted: Path, stop: int, every: int, workers: int
) -> None:
    options = {"val": str(shapes / "val"), "checkpoint_every": every, "workers": workers}
    _run_until(stop, shapes / "train", tmp_path / "run", **options)
    runs.run(shapes / "train", tmp_path / "run", FULL, resume=True, **options)
    assert _files(tmp_path / "run") == _files(uninterrupted)


def test_a_run_of_steps_on_a_few_images_is_resumed_too(shapes: Path, tmp_path: Path) -> None:
    fields = {"steps": 12, "warmup_steps": 2, "schedule": "multistep", "milestones": (5, 10), "zero_head": True}
    recipe = replace(runs.TINY, objective="cross_entropy", batch_size=3, sampling="replacement", policy="", **fields)
    small = replace(recipe, image_size=16, resize=20, crop="resized", label_smoothing=0.0, accumulate=2)
    outcome, reports = runs.run(shapes / "train", tmp_path / "whole", small, log_every=50)
    assert (outcome.progress.updates, outcome.progress.epoch) == (12, 1)  # 100 updates would be an epoch here
    assert reports[0].loss == pytest.approx(math.log(14), rel=1e-6)  # all classes alike: the head begins with zeros
    assert reports[-1].eta == 0
    request = runs.request(shapes / "train", tmp_path / "run", small, checkpoint_every=5)
    with pytest.raises(Killed):
        runs.train_model(request, _stop_at(11))
    runs.run(shapes / "train", tmp_path / "run", small, resume=True)
    ends = [(tmp_path / name / "last.safetensors").read_bytes() for name in ("whole", "run")]
    assert load(ends[0]).keys() == load(ends[1]).keys()
    assert all(torch.equal(tensor, load(ends[1])[name]) for name, tensor in load(ends[0]).items())


def test_a_run_whose_epochs_are_one_update_validates_ten_times_at_most_and_is_resumed(
    shapes: Path, tmp_path: Path
) -> None:
    recipe = replace(runs.TINY, steps=12, batch_size=40, image_size=16, policy="")  # 56 images, so one batch an epoch
    options = {"val": str(shapes / "val"), "checkpoint_every": 3}
    runs.run(shapes / "train", tmp_path / "whole", recipe, **options)
    with (tmp_path / "whole" / "metrics.csv").open() as file:
        assert [int(row["update"]) for row in csv.DictReader(file)] == [2, 4, 6, 8, 10, 12]
    with pytest.raises(Killed):
        runs.train_model(runs.request(shapes / "train", tmp_path / "run", recipe, **options), _stop_at(4))
    _, reports = runs.run(shapes / "train", tmp_path / "run", recipe, resume=True, **options)
    assert reports[0].update == 4, "the state file was written after update 3, between two validations"
    ends = [load_file(tmp_path / name / "last.safetensors") for name in ("whole", "run")]
    assert all(torch.equal(tensor, ends[1][name]) for name, tensor in ends[0].items())
    with (tmp_path / "run" / "metrics.csv").open() as file:
        assert [int(row["images"]) for row in csv.DictReader(file)] == [80] * 6


def test_the_journal_of_a_resumed_run_has_every_update_once_with_the_same_losses(
    shapes: Path, tmp_path: Path, uninterrupted: Path
) -> None:
    import json

    def rows(folder: Path) -> list[tuple[str, int, float]]:
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        return [(r["kind"], r["update"], pytest.approx(r["loss"], rel=1e-6)) for r in map(json.loads, lines)]

    options = {"val": str(shapes / "val"), "checkpoint_every": 4}
    _run_until(10, shapes / "train", tmp_path / "run", **options)
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "step", "upd')  # a line that a kill cut short
    runs.run(shapes / "train", tmp_path / "run", FULL, resume=True, **options)
    assert rows(tmp_path / "run") == rows(uninterrupted)
    table = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    assert [line.split(",")[1] for line in table] == ["epoch", "1", "2", "3"]


def _command(shapes: Path, folder: Path) -> list[str]:
    command = [sys.executable, "-m", "miil21k", "train", str(shapes / "train"), "-m", "test_resnet", "-o", str(folder)]
    command += ["--label-space", str(shapes / "shapes.tsv"), "--val", str(shapes / "val"), "--device", "cpu", "-j", "2"]
    command += ["--checkpoint-every", "2", "--log-every", "1", "--epochs", "3", "--batch-size", "8", "--lr", "3e-3"]
    command += ["--precision", "fp32", "--image-size", "32"]
    for pair in ("pretrained=false", "ema_decay=0.9", "dropout=0.2", "random_erase=0.5", "hflip=0.5"):
        command += ["--set", pair]
    return command


def test_kill_nine_loses_nothing(shapes: Path, tmp_path: Path, uninterrupted: Path) -> None:
    folder = tmp_path / "run"
    command, environment = _command(shapes, folder), {**os.environ, "OMP_NUM_THREADS": "1"}
    with started(command, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        wait_until((folder / "state.pt").exists, process)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL  # between two checkpoints, most likely in the first epoch
    done = subprocess.run([*command, "--resume"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(folder / "best.safetensors")
    assert _files(folder) == _files(uninterrupted)


@pytest.mark.slow
def test_fifty_kills_end_with_the_weights_of_an_uninterrupted_run(
    shapes: Path, tmp_path: Path, uninterrupted: Path
) -> None:
    folder = tmp_path / "run"

    def finished() -> None:
        assert _files(folder) == _files(uninterrupted)
        shutil.rmtree(folder)

    kill_at_random([*_command(shapes, folder), "--resume"], finished, env={**os.environ, "OMP_NUM_THREADS": "1"})


def test_resuming_a_finished_run_changes_nothing(shapes: Path, tmp_path: Path) -> None:
    recipe = replace(runs.TINY, epochs=1)
    runs.run(shapes / "train", tmp_path / "run", recipe)
    before = (tmp_path / "run" / "last.safetensors").read_bytes()
    outcome, reports = runs.run(shapes / "train", tmp_path / "run", recipe, resume=True)
    assert reports == []
    assert outcome.progress.epoch == 1
    assert (tmp_path / "run" / "last.safetensors").read_bytes() == before


def test_resume_with_nothing_to_resume_starts(shapes: Path, tmp_path: Path) -> None:
    outcome, _ = runs.run(shapes / "train", tmp_path / "run", replace(runs.TINY, epochs=1), resume=True)
    assert outcome.progress.updates == 7


def test_another_configuration_is_not_resumed_and_a_run_is_not_overwritten(shapes: Path, tmp_path: Path) -> None:
    recipe = replace(runs.TINY, epochs=1)
    runs.run(shapes / "train", tmp_path / "run", recipe)
    with pytest.raises(UsageError, match="holds a run already: go on with --resume, start it anew with --overwrite"):
        runs.run(shapes / "train", tmp_path / "run", recipe)
    with pytest.raises(UsageError, match=r"is another one: lr was 0\.003, is 0\.001"):
        runs.run(shapes / "train", tmp_path / "run", replace(recipe, lr=1e-3), resume=True)


def test_a_run_is_started_anew_when_that_is_asked_for(shapes: Path, tmp_path: Path) -> None:
    recipe = replace(runs.TINY, epochs=1, ema_decay=0.5)
    runs.run(shapes / "train", tmp_path / "run", recipe)
    other = replace(runs.TINY, epochs=1, lr=1e-3)
    with pytest.raises(UsageError, match="either gone on with"):
        runs.train_model(runs.request(shapes / "train", tmp_path / "run", other), resume=True, overwrite=True)
    outcome, _ = runs.run(shapes / "train", tmp_path / "run", other, overwrite=True)
    assert outcome.progress.updates == 7
    assert not (tmp_path / "run" / "last_ema.safetensors").exists()
    assert (tmp_path / "run" / "metrics.csv").read_text().count("\n") == 2


def test_other_images_with_the_same_labels_are_not_resumed_with(shapes: Path, tmp_path: Path) -> None:
    recipe = replace(runs.TINY, epochs=1)
    data = tmp_path / "data" / "train"
    shutil.copytree(shapes / "train", data)
    space = str(shapes / "shapes.tsv")
    runs.run(data, tmp_path / "run", recipe, label_space=space)
    assert runs.run(data, tmp_path / "run", recipe, label_space=space, resume=True)[1] == []
    image = data / "red" / "red_0.jpg"
    content = image.read_bytes()
    for change in (lambda: image.rename(data / "red" / "red_00.jpg"), lambda: image.write_bytes(content + b"\0")):
        changed = change()
        with pytest.raises(UsageError, match="its images are other ones"):
            runs.run(data, tmp_path / "run", recipe, label_space=space, resume=True)
        if isinstance(changed, Path):
            changed.rename(image)


def test_two_runs_do_not_share_a_folder(shapes: Path, tmp_path: Path) -> None:
    recipe = replace(runs.TINY, epochs=1)
    second: list[str] = []

    def start_another(_report: Report) -> None:
        with pytest.raises(UsageError, match="Another process trains in") as refused:
            runs.run(shapes / "train", tmp_path / "run", recipe, resume=True)
        second.append(str(refused.value))

    runs.train_model(
        runs.request(shapes / "train", tmp_path / "run", recipe, log_every=50), start_another, lambda _l: None
    )
    assert len(second) == 2
    assert runs.run(shapes / "train", tmp_path / "run", recipe, resume=True)[1] == []
    assert not list((tmp_path / "run").glob(".*"))


def test_unreadable_images_are_listed_when_the_run_fails_before_the_next_log_row(shapes: Path, tmp_path: Path) -> None:
    data = tmp_path / "data" / "train"
    shutil.copytree(shapes / "train", data)
    for image in data.glob("*/*_[01].jpg"):
        image.write_bytes(b"damaged")
    with pytest.raises(Killed):
        runs.train_model(
            runs.request(data, tmp_path / "run", runs.TINY, label_space=str(shapes / "shapes.tsv"), log_every=50),
            _stop,
            lambda _line: None,
        )
    assert "/" in (tmp_path / "run" / "unreadable.csv").read_text().splitlines()[1]


def test_a_damaged_or_foreign_state_file_is_refused(shapes: Path, tmp_path: Path) -> None:
    recipe = replace(runs.TINY, epochs=1)
    state = tmp_path / "run" / "state.pt"
    runs.run(shapes / "train", tmp_path / "run", recipe)
    content = torch.load(state, weights_only=True)
    torch.save({**content, "run_id": "another"}, state)
    with pytest.raises(CheckpointMismatch, match="another configuration"):
        runs.run(shapes / "train", tmp_path / "run", recipe, resume=True)
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="cannot be read"):
        runs.run(shapes / "train", tmp_path / "run", recipe, resume=True)


def test_the_state_file_holds_tensors_and_numbers_only(shapes: Path, tmp_path: Path) -> None:
    runs.run(shapes / "train", tmp_path / "run", replace(FULL, epochs=1))
    content = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    assert content["progress"]["updates"] == 7
    weights = load_file(tmp_path / "run" / "last.safetensors")
    assert len(weights) == len(content["model"]) - 1  # the head's order, which the checkpoint has undone
