"""A file that answers on concepts says so, carries their graph, and answers as the predictor does from its logits."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest

from miil21k.cli.main import main
from miil21k.data.images import ImageInput, load_image
from miil21k.errors import LabelSpaceMismatch, UnknownClass, UsageError
from miil21k.export.onnx.file import export_onnx, own_photographs
from miil21k.export.onnx.proof import open_session
from miil21k.export.onnx.report import report_path
from miil21k.export.options import ExportOptions
from miil21k.export.quantize.agreement import Agreeing
from miil21k.hierarchy.concepts import concepts_of
from miil21k.predict.predictor import Predictor
from miil21k.zoo.export_card import read_export_card, read_metadata

if TYPE_CHECKING:
    from pathlib import Path

    from miil21k.runtime.loading import Loaded

PHOTOS = own_photographs()


def test_the_file_carries_reading_floor_questions_and_graph(concepts_export: Path, embedded_export: Path) -> None:
    card, metadata = read_export_card(concepts_export), read_metadata(concepts_export)
    assert (card.decoding["reading"], card.decoding["min_bits"]) == ("concepts", 0.5)
    assert card.decoding["asked"] == [
        {"question": "bird", "wnid": "n01503061", "name": "bird"},
        {"question": "crane.n.04", "wnid": "n03126707", "name": "crane"},
        {"question": "musical instrument", "wnid": "n03800933", "name": "musical instrument"},
    ]
    graph = concepts_of(card.space)
    lines = [line.split("\t") for line in metadata["concepts_text"].splitlines()[2:]]
    assert [line[0] for line in lines] == list(graph.wnids)
    assert lines[graph.index_of["n01861778"]][2] == "mammal"
    text = "".join(" ".join([wnid, *(() if up == "-" else (up,))]) + "\n" for wnid, up, _ in lines)
    assert hashlib.sha256(f"1000\n{text}".encode()).hexdigest() == metadata["concepts_sha256"] == graph.sha256
    again = card.decoder()
    assert (again.reading, again.min_bits, again.record()["asked"]) == ("concepts", 0.5, card.decoding["asked"])
    report = json.loads(report_path(concepts_export).read_text())
    assert report["names"][graph.index_of["n01861778"]] == "mammal"
    assert report["wnids"] == list(graph.wnids)
    assert report["concepts_sha256"] == graph.sha256
    assert not {"concepts_text", "label_space_text"} & report.keys()
    assert report["proof"]["worst"]["decoded_differently"] == 0
    plain = read_export_card(embedded_export)
    assert (plain.decoding["reading"], plain.space.concepts_sha256) == ("published", "")
    assert "concepts_text" not in read_metadata(embedded_export)


def test_the_graph_answers_as_the_predictor_does_from_its_logits(concepts_export: Path) -> None:
    card, session = read_export_card(concepts_export), open_session(concepts_export)
    questions = tuple(one["question"] for one in card.decoding["asked"])
    predictor = Predictor(str(concepts_export), device="cpu", reading="concepts", hedge=0.3, min_bits=0.5, topk=3)
    answers = predictor.ask([*PHOTOS], questions)
    height, width = card.preprocess.input_size[1:]
    for photo, answer in zip(PHOTOS, answers, strict=True):
        crop = predictor.crop(ImageInput(photo.name, photo))
        assert not isinstance(crop, str)
        assert crop.shape == (height, width, 3)
        names = ["path", "hedge_prob", "asked"]
        path, prob, asked = session.run(names, {"images": crop[None], "crop": np.array(False)})
        assert answer.path
        wnids = [concepts_of(card.space).wnids[one] for one in path[0] if one >= 0]
        assert wnids == [node.wnid for node in answer.path]
        assert prob[0] == pytest.approx(answer.path[-1].probability, abs=1e-5)
        assert asked[0] == pytest.approx([answer.probability(question) for question in questions], abs=1e-5)


def test_another_graph_of_concepts_is_refused_with_the_way_out(concepts_export: Path, tmp_path: Path) -> None:
    model = onnx.load(concepts_export)
    facts = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, {**facts, "concepts_sha256": "0" * 64})
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(LabelSpaceMismatch, match=r"another graph of concepts \(000000000000\).*export the model again"):
        read_export_card(tmp_path / "other.onnx").decoder()
    predictor = Predictor(str(tmp_path / "other.onnx"), device="cpu")
    assert predictor(PHOTOS[0]).status == "ok"  # from logits, on the tree
    with pytest.raises(LabelSpaceMismatch, match="another graph of concepts"):
        predictor.ask(PHOTOS[0], "bird")


def test_agreement_is_of_the_reading_of_the_file(concepts_export: Path) -> None:
    decoder = read_export_card(concepts_export).decoder()
    logits = np.zeros((4, 1000), np.float32)
    logits[:, 14] = 20  # indigo bunting
    other = logits.copy()
    other[0, 14], other[0, 281] = 0, 20  # tabby: no bird
    other[1, 14], other[1, 10] = 19.6, 19.2  # brambling: a bird still, and the same concept of both
    counting = Agreeing(dataclasses.replace(decoder, hedge=0.9))
    counting.add(logits, other)
    found = counting.result()
    assert (found.top1, found.hedged) == (0.75, 0.5)
    assert found.asked == pytest.approx(1, abs=1e-3)
    assert found.to_json()["asked"] == pytest.approx(found.asked, rel=1e-3)
    silent = Agreeing(dataclasses.replace(decoder, asked=()))
    silent.add(logits, other)
    assert "asked" not in silent.result().to_json()


def test_questions_that_cannot_be_are_refused_before_anything_is_computed(small: Loaded, tmp_path: Path) -> None:
    with pytest.raises(UnknownClass, match="meanings with classes"):
        export_onnx(small, tmp_path / "m.onnx", ExportOptions(ask=("crane",)))
    for wrong in ({"ask": ("bird",)}, {"reading": "concepts"}):
        with pytest.raises(UsageError, match="A graph of the form tensor answers nothing"):
            ExportOptions(form="tensor", **wrong)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_command_asks_a_file_of_nouns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nouns, output = tmp_path / "nouns.txt", tmp_path / "m.onnx"
    nouns.write_text("bird\nvehicle\n")
    words = ["export", "onnx", "embedded", "-o", str(output), "--ask", str(nouns), "--read", "concepts"]
    assert main(words) == 0
    said = capsys.readouterr()
    assert "asked 0  bird: bird (n01503061)\n  asked 1  vehicle: vehicle (n04524313)" in said.out
    assert "path and hedge_node are concepts, at least 1 bits" in said.out
    session = open_session(output)
    image = np.asarray(load_image(PHOTOS[0]).convert("RGB"))[None]
    asked, node = session.run(["asked", "hedge_node"], {"images": image})
    assert asked.max() < 0.01
    assert concepts_of(read_export_card(output).space).name(int(node[0])) in ("cat", "domestic cat")
