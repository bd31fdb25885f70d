"""create_model: names, heads, checkpoints, and what it adds to timm."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.data import resolve_model_data_config

import miil21k
import miil21k.zoo.timm_names
from miil21k.errors import CheckpointMismatch, UnknownModel, UsageError
from miil21k.store.cache import CachedFile
from miil21k.zoo.manifest import find_weights, load_manifest, select_weights
from miil21k.zoo.registry import create_model

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from miil21k.zoo.schema import Weights


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    """Return a file of random weights for `resnet18_ssl`, and the model whose weights they are."""
    torch.manual_seed(0)
    model = create_model("resnet18_ssl").eval()
    file = tmp_path_factory.mktemp("published") / "resnet18.safetensors"
    save_file(model.state_dict(), file)
    return file, model


IMAGES = torch.linspace(-1, 1, 2 * 3 * 64 * 64).view(2, 3, 64, 64)


def test_a_checkpoint_fills_the_model_and_the_model_carries_its_row(published: tuple[Path, nn.Module]) -> None:
    file, original = published
    model = create_model("resnet18_ssl", checkpoint=file).eval()
    assert torch.equal(model(IMAGES), original(IMAGES))
    assert model.weights is find_weights("resnet18_ssl")
    assert model.label_space == "in1k"
    assert all(p.requires_grad for p in model.parameters())


def test_a_model_with_its_row_can_be_copied_and_pickled(published: tuple[Path, nn.Module]) -> None:
    model = create_model("resnet18_ssl", checkpoint=published[0])
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert twin.weights == model.weights
        assert hash(twin.weights) == hash(model.weights)
        assert torch.equal(twin.fc.weight, model.fc.weight)


def test_pretrained_reads_the_file_that_the_download_gives(
    published: tuple[Path, nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    from miil21k.store import safetensors_cache

    asked = {}

    def fetch(weights: Weights, **options: object) -> CachedFile:
        asked.update(options, weights=weights)
        return CachedFile(published[0], "a" * 64, weights.sources[0])

    monkeypatch.setattr(safetensors_cache, "fetch_safetensors", fetch)
    model = create_model("resnet18_ssl", True, revision="v2", cache_dir="/cache", offline=True).eval()
    assert torch.equal(model(IMAGES), published[1](IMAGES))
    assert model.loaded_from == (
        "resnet18.fb_ssl_yfcc100m_ft_in1k",
        "hub:timm/resnet18.fb_ssl_yfcc100m_ft_in1k/model.safetensors@v2",
        "a" * 64,
    )
    assert (asked["weights"], asked["revision"], str(asked["cache_dir"]), asked["offline"]) == (
        find_weights("resnet18_ssl"), "v2", "/cache", True,
    )  # fmt: skip


def test_another_class_count_replaces_the_head_only(published: tuple[Path, nn.Module]) -> None:
    file, original = published
    model = create_model("resnet18_ssl", checkpoint=file, num_classes=17).eval()
    assert model(IMAGES).shape == (2, 17)
    assert torch.equal(model.forward_features(IMAGES), original.forward_features(IMAGES))
    assert model.label_space is None
    assert 0 < model.fc.weight.std() < 1  # initialised, not left over
    pooled = create_model("resnet18_ssl", checkpoint=file, num_classes=0).eval()
    assert torch.equal(pooled(IMAGES), original.forward_head(original.forward_features(IMAGES), pre_logits=True))


def test_a_checkpoint_of_another_head_is_refused_unless_its_size_is_asked_for(tmp_path: Path) -> None:
    own = create_model("resnet18_ssl", num_classes=5).eval()
    save_file(own.state_dict(), tmp_path / "own.safetensors")
    with pytest.raises(CheckpointMismatch, match="head of 5 classes, resnet18_ssl one of 1000: pass num_classes=5"):
        create_model("resnet18_ssl", checkpoint=tmp_path / "own.safetensors")
    model = create_model("resnet18_ssl", checkpoint=tmp_path / "own.safetensors", num_classes=5).eval()
    assert torch.equal(model(IMAGES), own(IMAGES))
    assert model.label_space is None


def test_a_checkpoint_of_another_model_is_refused(published: tuple[Path, nn.Module]) -> None:
    with pytest.raises(CheckpointMismatch, match=r"does not fit tresnet_m_21k_ft_in1k: \d+ missing .*; \d+ unexpected"):
        create_model("tresnet_m_21k_ft_in1k", checkpoint=published[0], num_classes=1000)


def test_grey_pictures_get_the_summed_first_kernel(published: tuple[Path, nn.Module]) -> None:
    file, original = published
    model = create_model("resnet18_ssl", checkpoint=file, in_chans=1).eval()
    grey = IMAGES[:, :1]
    assert torch.allclose(model(grey), original(grey.expand(-1, 3, -1, -1)), atol=1e-4)


def test_dtype_and_device_are_applied(published: tuple[Path, nn.Module]) -> None:
    model = create_model("resnet18_ssl", checkpoint=published[0], dtype="bfloat16", device="cpu")
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert create_model("resnet18_ssl", checkpoint=published[0], dtype="torch.float16").fc.weight.dtype == torch.float16
    for wrong in ("float17", "int8", torch.int64):
        with pytest.raises(UsageError, match=f"'{wrong}' is no floating-point dtype of torch"):
            create_model("resnet18_ssl", dtype=wrong)
    for device in ("cudda", "cuda:99"):
        with pytest.raises(UsageError, match=f"The device '{device}' cannot be used: "):
            create_model("resnet18_ssl", device=device)


def test_features_come_from_the_loaded_weights(published: tuple[Path, nn.Module]) -> None:
    file, original = published
    maps = create_model("resnet18_ssl", checkpoint=file, features_only=True, out_indices=(4,)).eval()(IMAGES)
    assert torch.equal(maps[0], original.forward_features(IMAGES))


def test_arguments_of_the_architecture_reach_it() -> None:
    model = create_model("resnet18_ssl", drop_rate=0.25, num_classes=3)
    assert model.drop_rate == 0.25


def test_the_default_preprocessing_stands_in_the_models_configuration() -> None:
    with torch.device("meta"):
        config = resolve_model_data_config(create_model("tresnet_m_21k"))
    assert (config["crop_mode"], config["crop_pct"], config["interpolation"]) == ("squash", 1.0, "bilinear")
    assert (config["mean"], config["std"]) == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@pytest.mark.parametrize(
    "wrong", [{"num_classes": -3}, {"in_chans": 0}, {"num_classes": "17"}, {"num_classes": True}, {"in_chans": 3.0}]
)
def test_a_count_that_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="num_classes must be a whole number from 0 and in_chans one from 1"):
        create_model("resnet18_ssl", **wrong)


def test_a_name_that_is_no_text_is_refused() -> None:
    with pytest.raises(UsageError, match=r"The name of a model must be text, not None"):
        create_model(None)


def test_a_timm_architecture_without_weights_of_the_zoo_says_so() -> None:
    with pytest.raises(UnknownModel, match=r"'convnext_tiny' is an architecture.*Name one of: convnext_tiny\.\w+"):
        create_model("convnext_tiny", pretrained=True)


def test_a_row_whose_class_count_is_unknown_asks_for_it() -> None:
    with pytest.raises(UsageError, match=r"pass num_classes=11221 \(fall11\) or 10450 \(winter21\)"):
        create_model("tresnet_m_21k_single_label")
    assert create_model("mobilenetv3_large_100_21k_single_label", num_classes=10450).label_space is None


def test_a_bare_architecture_is_built_but_has_no_weights() -> None:
    model = create_model("mobilenetv3_small_050", num_classes=3)
    assert (model.weights, model.label_space, model.num_classes) == (None, None, 3)
    with pytest.raises(UnknownModel, match="is an architecture, not a trained weight"):
        create_model("tresnet_m", pretrained=True)
    with pytest.raises(UnknownModel, match="Near: 'tresnet_m"):
        create_model("tresnet_m.in21k")


def test_a_bare_architecture_takes_a_checkpoint_too(published: tuple[Path, nn.Module]) -> None:
    file, original = published
    assert torch.equal(create_model("resnet18", checkpoint=file).eval()(IMAGES), original(IMAGES))


def test_tresnet_l_is_another_network_than_its_second_version() -> None:
    with torch.device("meta"):
        counts = {a: sum(p.numel() for p in create_model(a).parameters()) for a in ("tresnet_l", "tresnet_v2_l")}
    assert counts == {"tresnet_l": 55_989_256, "tresnet_v2_l": 46_174_824}


@pytest.mark.parametrize("weights", select_weights(family="miil21k", head="level_softmax"), ids=lambda w: w.name)
@pytest.mark.filterwarnings("ignore:Mapping deprecated model name")
def test_timm_answers_for_all_seven_21k_backbones(weights: object) -> None:
    names = [f"{weights.arch.removesuffix('_miil')}_miil_in21k", weights.name]
    for name in names:
        with torch.device("meta"):
            model = timm.create_model(name)
        assert model.num_classes == weights.num_classes
        assert sum(p.numel() for p in model.parameters()) == weights.params
        assert model.pretrained_cfg["mean"] == weights.preprocess.mean


def test_timms_own_registrations_are_left_alone() -> None:
    code = (
        "import timm; before = {n: timm.get_pretrained_cfg(n) for n in timm.list_models(pretrained=True)};"
        "import miil21k.zoo.timm_names; after = timm.list_models(pretrained=True);"
        "assert set(after) - set(before) == {'tresnet_l_v2_miil_in21k', 'tresnet_v2_l_miil_in21k'};"
        "assert set(before) < set(after); assert all(timm.get_pretrained_cfg(n) == c for n, c in before.items());"
        "print(sorted(timm.list_models('*ofa*')))"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['ofa_flops_595m_s', 'ofa_flops_595m_s_miil_in21k']"


def test_a_timm_name_of_ours_loads_through_the_zoo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from miil21k.store import safetensors_cache

    torch.manual_seed(0)
    original = create_model("resnet50_21k")
    torch.save({"state_dict": original.state_dict()}, tmp_path / "resnet50_miil_21k.pth")
    file = CachedFile(tmp_path / "resnet50_miil_21k.pth", "a" * 64, find_weights("resnet50_21k").sources[0])
    monkeypatch.setattr(safetensors_cache, "fetch_safetensors", lambda *a, **k: file)
    model = timm.create_model("resnet50_miil_in21k", pretrained=True)
    assert torch.equal(model.fc.weight, original.fc.weight)


def test_the_package_offers_both_functions_and_lists_every_row() -> None:
    assert miil21k.create_model is create_model
    assert miil21k.list_models() == [w.name for w in load_manifest().models]
    assert miil21k.list_models("*_miil_in21k") == [
        w.name for w in select_weights(family="miil21k", head="level_softmax")
    ]
