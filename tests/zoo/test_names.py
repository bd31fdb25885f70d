"""identify: one meaning per name, at every door; weights of timm that no row of the manifest describes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import timm
import torch
from hub_server import HubServer
from safetensors.torch import save

from miil21k.cli.main import main
from miil21k.errors import CheckpointError, DownloadError, UnknownModel
from miil21k.zoo.manifest import load_manifest
from miil21k.zoo.names import Architecture, identify
from miil21k.zoo.registry import create_model

if TYPE_CHECKING:
    from collections.abc import Iterator

TAG = "test_resnet.r160_in1k"
CAT = Path(__file__).parents[2] / "examples" / "images" / "cat.jpg"
IMAGES = torch.linspace(-1, 1, 2 * 3 * 96 * 96).view(2, 3, 96, 96)


def _network(seed: int = 0, **options: Any) -> torch.nn.Module:
    torch.manual_seed(seed)
    model = timm.create_model("test_resnet", **options).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # timm starts the last norm of a block at 0
            module.weight.data.uniform_(0.5, 1.5)
    return model


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    """Return a Hub that has nothing yet, and a cache that has nothing yet."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("MIIL21K_CACHE", str(tmp_path / "cache"))
    with HubServer() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


def test_every_name_of_the_manifest_is_its_row_and_never_an_architecture() -> None:
    for weights in load_manifest().models:
        for name in weights.names:
            assert identify(name) is weights or identify(name) == weights, name
            for prefix in ("timm/", "hf-hub:timm/"):
                assert identify(prefix + name) == weights


@pytest.mark.parametrize("name", ["tresnet_l_v2", "tresnet_v2_l"])
def test_both_spellings_of_tresnet_l_v2_are_one(name: str) -> None:
    architecture = identify(name)
    assert isinstance(architecture, Architecture)
    assert architecture.name == "tresnet_v2_l"
    assert "tresnet_v2_l.miil_in21k" in architecture.trained
    for tag in ("miil_in21k", "miil_in21k_ft_in1k", "usi_in21k_single_label"):
        assert identify(f"{name}.{tag}").name == f"tresnet_v2_l.{tag}"
        assert identify(f"{name}_{tag}").name == f"tresnet_v2_l.{tag}"


def test_a_tag_of_timm_is_a_row_with_timms_facts_and_no_label_space() -> None:
    weights = identify("resnet50.a1_in1k")
    assert not isinstance(weights, Architecture)
    assert (weights.family, weights.arch, weights.num_classes, weights.label_space) == ("timm", "resnet50", 1000, None)
    assert weights.preprocess.crop_pct == 0.95
    assert [s.where for s in weights.sources][:2] == [
        "hub:timm/resnet50.a1_in1k/model.safetensors",
        "hub:timm/resnet50.a1_in1k/pytorch_model.bin",
    ]
    assert weights.sources[2].sha256_prefix == "14fe96d1"
    assert identify("hf-hub:timm/resnet50.a1_in1k") == weights
    assert identify("tv_resnet50").name == "resnet50.tv_in1k"  # a former name


def test_an_architecture_lists_its_trainings_the_default_first() -> None:
    found = identify("resnet50")
    assert isinstance(found, Architecture)
    assert found.trained[0] == "resnet50.miil_in21k"
    assert "resnet50.a1_in1k" in found.trained
    assert len(set(found.trained)) == len(found.trained)
    with pytest.raises(
        UnknownModel, match=r"'resnet50' is an architecture, not a trained weight\. Name one of: resnet50"
    ):
        create_model("resnet50", pretrained=True)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet50.a1_in1", r"No weight 'resnet50\.a1_in1'\. Near: 'resnet50\.a1_in1k'"),
        ("owner/net", r"A model of the Hub is written hf-hub:owner/net"),
        ("hf-hub:net", r"names no repository of the Hub"),
        ("resnet51", r"No weight 'resnet51'\."),
        ("", r"No weight ''\."),
    ],
)
def test_an_unknown_name_is_refused_with_the_way_on(name: str, message: str) -> None:
    with pytest.raises(UnknownModel, match=message):
        identify(name)


def test_a_tag_of_timm_loads_its_file_checked_and_pinned(hub: HubServer) -> None:
    own = _network(num_classes=1000)
    hub.publish(f"timm/{TAG}", "model.safetensors", save(own.state_dict()))
    model = create_model(TAG, pretrained=True).eval()
    assert torch.equal(model(IMAGES), own(IMAGES))
    assert model.loaded_from.name == TAG
    assert len(model.loaded_from.sha256) == 64
    asked = len(hub.requests)
    seventeen = create_model(TAG, pretrained=True, num_classes=17, offline=True).eval()
    assert torch.equal(seventeen.forward_features(IMAGES), own.forward_features(IMAGES))
    maps = create_model(TAG, pretrained=True, features_only=True, in_chans=1, offline=True).eval()(IMAGES[:, :1])
    assert torch.isfinite(maps[-1]).all()
    assert len(hub.requests) == asked
    assert "state_dict" not in model.pretrained_cfg


def test_a_tag_of_timm_that_cannot_be_loaded_is_an_error(hub: HubServer) -> None:
    with pytest.raises(DownloadError, match="could not be downloaded"):
        create_model(TAG, pretrained=True)
    hub.publish(f"timm/{TAG}", "model.safetensors", save(timm.create_model("test_resnet", num_classes=9).state_dict()))
    with pytest.raises(Exception, match="does not fit"):
        create_model(TAG, pretrained=True)


CONFIG = {
    "architecture": "test_resnet",
    "num_classes": 5,
    "model_args": {"drop_rate": 0.25},
    "pretrained_cfg": {"input_size": [3, 96, 96], "crop_pct": 0.9, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
}


def test_a_repository_of_the_hub_is_a_model(hub: HubServer) -> None:
    own = _network(num_classes=5)
    hub.publish("owner/net", "config.json", json.dumps(CONFIG).encode())
    hub.publish("owner/net", "model.safetensors", save(own.state_dict()))
    model = create_model("hf-hub:owner/net", pretrained=True).eval()
    assert torch.equal(model(IMAGES), own(IMAGES))
    assert model.drop_rate == 0.25
    assert model.weights.preprocess.crop_pct == 0.9
    assert model.weights.preprocess.input_size == (3, 96, 96)
    again = create_model("hf-hub:owner/net", pretrained=True, offline=True).eval()
    assert torch.equal(again(IMAGES), own(IMAGES))


@pytest.mark.parametrize(
    "config",
    [
        {**CONFIG, "architecture": "no_such_net"},
        {**CONFIG, "model_args": {"checkpoint_path": "/etc/passwd"}},
        {"architecture": "test_resnet", "pretrained_cfg": {"input_size": [[[]]], "mean": "x"}},
        {"hidden_size": 768},
    ],
)
def test_a_repository_that_is_not_timms_is_refused(hub: HubServer, config: dict[str, Any]) -> None:
    hub.publish("owner/net", "config.json", json.dumps(config).encode())
    with pytest.raises(CheckpointError, match="hf-hub:owner/net"):
        identify("hf-hub:owner/net")


def test_predict_validate_and_info_take_weights_of_timm(
    hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.publish(f"timm/{TAG}", "model.safetensors", save(_network(num_classes=1000).state_dict()))
    assert main(["predict", str(CAT), "-m", TAG]) == 2
    assert "label space" in capsys.readouterr().err
    assert main(["predict", str(CAT), "-m", TAG, "--label-space", "in1k", "-f", "jsonl"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert (row["model"], row["status"]) == (TAG, "ok")
    assert main(["predict", str(CAT), "-m", "test_resnet"]) == 2
    assert "is an architecture, not a trained weight. Name one of: test_resnet.r160_in1k" in capsys.readouterr().err
    for wnid in ("n02123045", "n02124075"):
        (tmp_path / "images" / wnid).mkdir(parents=True)
        shutil.copy(CAT, tmp_path / "images" / wnid / "cat.jpg")
    words = ["validate", str(tmp_path / "images"), "-m", TAG, "--label-space", "in1k", "-f", "json", "-j", "0"]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["model"]["name"] == TAG
    assert main(["info", TAG, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_classes"] == 1000


@pytest.mark.slow  # torch's exporter takes most of its 15 s
def test_weights_of_timm_are_exported(hub: HubServer, tmp_path: Path) -> None:
    hub.publish(f"timm/{TAG}", "model.safetensors", save(_network(num_classes=1000).state_dict()))
    assert main(["export", "onnx", TAG, "--label-space", "in1k", "-o", str(tmp_path / "net.onnx")]) == 0
    assert (tmp_path / "net.onnx").exists()
