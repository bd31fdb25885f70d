"""A graph that has a user's own labels: their probabilities are an output, and the card names them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from graphs import DecodingGraph

from miil21k.cli.main import main
from miil21k.decode.decoder import Decoder
from miil21k.errors import UsageError
from miil21k.export.onnx.file import export_onnx
from miil21k.export.onnx.proof import open_session
from miil21k.export.options import ExportOptions
from miil21k.export.quantize.agreement import Agreeing
from miil21k.export.triton.repository import export_triton
from miil21k.hierarchy.bin_lines import bin_lines
from miil21k.hierarchy.load import load_label_space
from miil21k.zoo.export_card import read_export_card

if TYPE_CHECKING:
    from pathlib import Path

    from miil21k.runtime.loading import Loaded

BINS = bin_lines(
    [("animal", "animal"), ("bird", "bird", "animal"), ("pet", "", "animal"), ("dog", "dog", "pet"), ("food", "food")]
)


@pytest.mark.parametrize(
    ("name", "head"),
    [("in1k", "leaf_softmax"), ("in1k", "sigmoid"), ("fall11", "level_softmax"), ("fall11", "sigmoid")],
)
def test_the_graph_finds_what_numpy_finds(name: str, head: str) -> None:
    space = load_label_space(name)
    logits = 3 * np.random.default_rng(3).standard_normal((2, space.num_classes)).astype(np.float32)
    decoder = Decoder(space, head, temperature=1.3).binned(BINS)  # type: ignore[arg-type]
    found = DecodingGraph(decoder)(logits)
    assert found["bins"].shape == (2, 6)
    assert found["bins"] == pytest.approx(decoder.read(logits).bins, abs=1e-5)
    again = Decoder.from_record(space, head, decoder.record())  # type: ignore[arg-type]
    assert again.bins is not None
    assert again.bins.sha256 == decoder.bins.sha256  # type: ignore[union-attr]
    assert again.read(logits).bins == pytest.approx(decoder.read(logits).bins, abs=1e-6)


def test_a_label_of_which_nothing_is_left_has_no_probability() -> None:
    space = load_label_space("in1k")
    logits = np.random.default_rng(3).standard_normal((1, 1000)).astype(np.float32)
    decoder = Decoder(space, "leaf_softmax").binned(bin_lines({"thing": "entity"}))
    assert DecodingGraph(decoder)(logits)["bins"] == pytest.approx(np.array([[1, 0]]), abs=1e-5)
    with pytest.raises(UsageError, match="cannot hold the restriction"):
        DecodingGraph(decoder.restricted(under="animal"))


def test_an_export_proves_its_bins_and_names_them_in_card_and_repository(small: Loaded, tmp_path: Path) -> None:
    path = tmp_path / "bins.onnx"
    export_onnx(small, path, ExportOptions(bins=BINS))
    card = read_export_card(path)
    assert [one["label"] for one in card.decoding["bins"]] == ["animal", "bird", "pet", "dog", "food", "other"]
    assert card.decoding["bins"][1] == {"label": "bird", "parent": "animal", "concepts": ["n01503061"]}
    shapes = {value.name: value.shape for value in open_session(path).get_outputs()}
    assert shapes["bins"] == ["batch", 6]
    agreeing = Agreeing(card.decoder())
    logits = np.random.default_rng(0).standard_normal((2, 1000)).astype(np.float32)
    agreeing.add(logits, logits[::-1])
    both = card.decoder().read(logits).bins
    assert agreeing.result().asked == pytest.approx(np.abs(both[0] - both[1]).max())
    served = export_triton(path, tmp_path / "repository")
    assert (served.folder / "bins.txt").read_text().splitlines() == ["animal", "bird", "pet", "dog", "food", "other"]
    assert 'label_filename: "bins.txt"' in (served.folder / "config.pbtxt").read_text()


def test_the_command_line_takes_the_same_file_as_predict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bins.csv").write_text("label;concept\na;b")
    with pytest.raises(SystemExit):
        main(["export", "onnx", "embedded", "-o", str(tmp_path / "a.onnx"), "--bins", str(tmp_path / "bins.csv")])
    assert "semicolons separate the columns: save the file with commas" in capsys.readouterr().err
    with pytest.raises(UsageError, match="form tensor answers nothing"):
        ExportOptions(form="tensor", bins=BINS)
