"""The pages that are written while the site is built: model cards, schema of the manifest, Python API."""

from __future__ import annotations

import copy
import json
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from site_pages import api, cards, manifest_schema

import miil21k
from miil21k.cli.main import predict_main
from miil21k.errors import ManifestError
from miil21k.zoo.manifest import find_weights, load_manifest, parse_manifest

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parent.parent
RAW = json.loads((ROOT / "weights_manifest.json").read_text(encoding="utf-8"))


def test_every_row_has_a_card_that_the_index_lists() -> None:
    written = cards.cards()
    listed = re.findall(r"^[a-z0-9-]+$", written["index.md"], re.MULTILINE)
    assert len(listed) == len(load_manifest().models) == len(written) - 1
    assert {f"{name}.md" for name in listed} == set(written) - {"index.md"}


def test_a_card_says_every_number_and_source_of_its_row() -> None:
    weights = find_weights("tresnet_m_21k")
    text = cards.card(weights)
    assert (
        "| `semantic_top1` | 76.4 % | ImageNet-21K-P (fall11) | 224 |  | Alibaba-MIIL/ImageNet21K MODEL_ZOO.md |"
        in text
    )
    assert all(f"`{source.where}`" in text for source in weights.sources)
    assert all(f"`{found.name}` | {found.value:g}" in text for found in weights.metrics)
    assert "excludes commercial use" not in text
    assert "excludes commercial use" in cards.card(find_weights("resnet50_ssl"))


def test_what_cannot_be_loaded_shows_no_way_to() -> None:
    unbuildable = next(row for row in load_manifest().models if not row.buildable)
    assert "```" not in cards.card(unbuildable)
    unlabelled = cards.card(find_weights("resnet50.usi_in21k_multi_label"))
    assert "Predictor" not in unlabelled
    assert "miil21k-predict" not in unlabelled
    assert "num_classes=17" in unlabelled


def test_the_three_ways_on_the_card_of_the_embedded_model_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    photo, clone = str(ROOT / "examples" / "images" / "cat.jpg"), str(ROOT)
    monkeypatch.chdir(tmp_path)
    text = cards.card(find_weights("embedded")).replace("photo.jpg", photo).replace("path/to/a/clone", clone)
    (command,) = re.findall(r"```bash\n(.*?)\n```", text)
    assert predict_main([*shlex.split(command)[1:], "-o", "rows.jsonl"]) == 0
    assert json.loads(Path("rows.jsonl").read_text(encoding="utf-8"))["path"][-1]["name"] == "domestic cat"
    ours, hub = (block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL))
    first: dict[str, Any] = {}
    second: dict[str, Any] = {}
    exec(compile(ours, "card", "exec"), first)
    exec(compile(hub, "card", "exec"), second)
    assert first["answer"].label.name == "domestic cat"
    weights = zip(first["network"].parameters(), second["network"].parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in weights)


def _without(row: dict[str, Any]) -> None:
    del row["licence"]


def _unknown(row: dict[str, Any]) -> None:
    row["colour"] = "blue"


def _other_type(row: dict[str, Any]) -> None:
    row["params"] = "many"


def _short(row: dict[str, Any]) -> None:
    next(iter(row["preprocessings"].values()))["mean"] = [0.5, 0.5]


def _other_choice(row: dict[str, Any]) -> None:
    row["sources"][0]["kind"] = "ftp"


def _deep(row: dict[str, Any]) -> None:
    row["metrics"][0]["place"] = 1


def test_the_schema_takes_the_manifest_and_knows_every_key_of_it() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = manifest_schema.json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(RAW, schema)
    page = manifest_schema.page()
    row = json.loads(page.split("```json\n")[1].split("```")[0])
    jsonschema.validate({"schema_version": 2, "models": [row], "unreleased": [], "resources": []}, schema)
    used = {key for row in RAW["models"] for key in row}
    assert [key for key in sorted(used) if f"| `{key}` |" not in page] == []


@pytest.mark.parametrize("spoil", [_without, _unknown, _other_type, _short, _other_choice, _deep])
def test_the_schema_refuses_what_the_reader_refuses(spoil: Callable[[dict[str, Any]], None]) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    spoilt = copy.deepcopy(RAW)
    spoil(spoilt["models"][0])
    with pytest.raises(ManifestError):
        parse_manifest(json.dumps(spoilt))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(spoilt, manifest_schema.json_schema())


def test_every_public_name_and_every_type_it_leads_to_is_on_one_page() -> None:
    pages = api.pages()
    entries = re.findall(r"auto(?:class|function):: (\S+)", "".join(pages.values()))
    assert len(entries) == len(set(entries))
    assert {f"miil21k.{name}" for name in miil21k.__all__} - set(entries) == {"miil21k.__version__"}
    led_to = {entry.rpartition(".")[2] for entry in entries if entry.count(".") > 1}
    assert {
        "Node",
        "Stop",
        "Outcome",
        "Decoded",
        "Paths",
        "TopK",
        "Weights",
        "Metric",
        "Loaded",
        "Validation",
    } <= led_to
    assert "auto" not in pages["index.md"]


def test_plain_docstrings_become_lists_of_arguments() -> None:
    said = "name, other: of a `*` thing_. size: in [N, 2]. Raises ValueError."
    plain = f"Return it.\n\n{said}\n\nfield: int = 1\n    said_here"
    assert [line for line in api.as_rest(plain.split("\n"), ("name", "other", "size")) if line] == [
        "Return it.",
        r"- **name, other**: of a ``*``\  thing\_.",
        "- **size**: in [N, 2].",
        "Raises ValueError.",
        "field: int = 1",
        r"    said\_here",
    ]
