"""`miil21k prepare` as it is typed."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from miil21k.cli.main import main


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    (tmp_path / "raw").mkdir()
    out = io.BytesIO()
    Image.fromarray(np.full((240, 320, 3), 90, np.uint8)).save(out, "JPEG")
    for wnid, count in (("n02084071", 5), ("n02121808", 3)):
        with tarfile.open(tmp_path / f"raw/{wnid}.tar", "w") as archive:
            (tmp_path / "raw/notes.txt").write_text("no class")
            for index in range(count):
                info = tarfile.TarInfo(f"{wnid}_{index}.JPEG")
                data = out.getvalue() if index else b""
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return tmp_path / "raw"


OPTIONS = ["--min-images", "3", "--val-per-class", "2", "--workers", "1", "--codec", "pillow"]


def test_prepare_verify_and_stats_in_turn(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = str(tmp_path / "out")
    assert main(["prepare", str(raw), target, *OPTIONS, "--dry-run"]) == 0
    found = capsys.readouterr()
    assert found.out.startswith("classes   total 2, kept 1, small 1\nimages    train 3, val 2, small class 3, sum 8\n")
    assert "warning: no class, and left out: notes.txt\n" in found.err
    assert not Path(target).exists()
    assert main(["prepare", str(raw), target, *OPTIONS]) == 0
    found = capsys.readouterr()
    assert "images    train 3, val 1, small class 2, failed 2, sum 8\n          empty 2\n" in found.out
    assert found.out.endswith(f"manifest  {Path(target) / 'manifest.csv'}\n")
    assert "warning: 10,449 classes of winter21 are missing" in found.err
    assert "left out: notes.txt\n" in found.err
    assert main(["prepare", str(raw), target, *OPTIONS, "--json"]) == 0
    found = capsys.readouterr()
    assert json.loads(found.out)["images"] == {"train": 3, "val": 1, "small_class": 2, "failed": 2}
    assert found.err.startswith("2 classes were finished before.")
    assert main(["prepare", str(raw), target, *OPTIONS, "--strict"]) == 1
    found = capsys.readouterr()
    assert found.out.startswith("classes   total 2")  # what there is, and then why it is not good
    assert "Not as asked with --strict: 10,449 classes" in found.err
    assert main(["prepare", "verify", target]) == 0
    assert "checked   6 files, faults 0" in capsys.readouterr().out
    assert main(["prepare", "verify", target, "--strict"]) == 1
    capsys.readouterr()
    assert main(["prepare", "stats", target, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["places"]["train"] == {"classes": 1, "images": 3}
    next(Path(target).glob("imagenet21k_train/*/*")).unlink()
    assert main(["prepare", "verify", target]) == 1
    assert "is missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["verify", "x", "--plot", "a.png"], "--plot is an option of 'stats', not of 'verify'"),
        (["stats", "x", "--min-images", "4"], "--min-images is an option of 'prepare', not of 'stats'"),
        (["a.tar", "x", "--decode"], "--decode is an option of 'verify', not of 'prepare'"),
        (["a.tar", "x", "--address", "auto"], "--address is of a Ray cluster: add --engine ray"),
        (["missing.tar", "x"], "There is no 'missing.tar'"),
        (["a.tar", "x", "--mode", "keep", "--size", "9"], "--size has no effect with --mode keep: leave it out"),
        (["a.tar", "x", "--seed", "1"], "--seed has no effect with --format folders: leave it out"),
    ],
)
def test_wrong_use_is_one_sentence_and_two(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["prepare", *words]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--workers", "0"], "--workers: must be at least 1, not 0"),
        (["--size", "0"], "--size: lies between 1 and 65500, not 0"),
        (["--mode", "sqish"], "--mode: must be squish or short-edge or keep, not 'sqish'. Did you mean 'squish'?"),
    ],
)
def test_a_value_out_of_bounds_is_named_with_its_flag(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["prepare", "a.tar", "x", *words])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="other permissions")
def test_a_dry_run_finds_that_the_target_cannot_be_written(raw: Path, tmp_path: Path) -> None:
    without_rights = [] if os.geteuid() else ["setpriv", "--bounding-set=-dac_override", "--inh-caps=-all"]
    if without_rights and not shutil.which("setpriv"):
        pytest.skip("root may write everywhere")
    (tmp_path / "locked").mkdir(mode=0o500)
    words = [sys.executable, "-m", "miil21k", "prepare", str(raw), str(tmp_path / "locked/new/out"), *OPTIONS]
    found = subprocess.run([*without_rights, *words, "--dry-run"], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (1, "")
    assert f"'{tmp_path / 'locked'}' does not permit it" in found.stderr


def test_a_source_without_images_is_failed_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "raw/n1").mkdir(parents=True)
    (tmp_path / "raw/n1/a.txt").write_text("x")
    for more in (["--dry-run"], []):
        assert main(["prepare", str(tmp_path / "raw"), str(tmp_path / "out"), *OPTIONS, *more]) == 1
        found = capsys.readouterr()
        assert "          not_an_image_name 1\n" in found.out
        assert "raw' gives no image, all 1 members failed" in found.err
