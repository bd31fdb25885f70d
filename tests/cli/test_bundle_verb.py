"""`miil21k bundle` from the command line, there and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from miil21k.calibrate.record import Calibration
from miil21k.cli.main import main
from miil21k.hierarchy.load import load_label_space

if TYPE_CHECKING:
    from pathlib import Path


def test_a_bundle_goes_from_one_machine_to_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tar, fitted = tmp_path / "net.tar", tmp_path / "fitted.json"
    space = load_label_space("in1k")
    Calibration(space.name, space.sha256, "", "", "leaf_softmax", "", "", (2.0,), (), (9, 9)).save(fitted)
    words = ["bundle", "create", "embedded", "embedded", "-o", str(tar), "--calibration", f"embedded={fitted}"]
    assert main([*words, "--cache-dir", str(tmp_path / "here"), "--offline"]) == 0
    assert capsys.readouterr().out == f"{tar}: embedded, {19.0} MB\n"
    assert main(["bundle", "install", str(tar), "--cache-dir", str(tmp_path / "there")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("embedded: ")
    assert lines[1].startswith("calibration: ")
    assert main(["fetch", "embedded", "--no-export", "--offline", "--cache-dir", str(tmp_path / "there")]) == 0
    assert capsys.readouterr().out.strip() == lines[0].removeprefix("embedded: ")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("fitted.json", "--calibration fitted.json: write NAME=FILE with a NAME of this bundle."),
        ("tresnet_m_21k=fitted.json", "--calibration tresnet_m_21k=fitted.json: write NAME=FILE"),
        ("embedded=absent.json", "The calibration absent.json cannot be read: No such file"),
    ],
)
def test_a_calibration_needs_a_name_of_the_bundle_and_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    assert main(["bundle", "create", "embedded", "-o", str(tmp_path / "x.tar"), "--calibration", text]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "x.tar").exists()


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "absent" / "x.tar"
    assert main(["bundle", "create", "embedded", "-o", str(output), "--cache-dir", str(tmp_path)]) == 1
    assert f"Cannot write {output}: No such file or directory." in capsys.readouterr().err
    assert main(["bundle", "install", str(output), "--cache-dir", str(tmp_path)]) == 1
    assert f"Cannot install {output}: No such file or directory." in capsys.readouterr().err
