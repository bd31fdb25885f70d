"""Which weights a run starts from: those that were named, or random ones that were asked for, and it says which."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import runs
import timm
import torch
from hub_server import HubServer
from safetensors.torch import load_file, save, save_file

from miil21k.errors import DownloadError, LabelSpaceMismatch, Miil21kError, UnknownModel, UsageError
from miil21k.hierarchy.load import load_label_space
from miil21k.store.integrity import sha256_of
from miil21k.train.job import create_network
from miil21k.train.launch import train_model
from miil21k.train.teachers import open_teacher
from miil21k.zoo.checkpoint_card import load_trained
from miil21k.zoo.manifest import load_manifest
from miil21k.zoo.names import trained_weights

if TYPE_CHECKING:
    from miil21k.train.options import TrainRequest

TAG = "test_resnet.r160_in1k"
TRAINED = replace(runs.TINY, pretrained=True, epochs=1, lr=1e-9)


def _request(shapes: Path, folder: Path, model: str, **changes: object) -> TrainRequest:
    return replace(runs.request(shapes / "train", folder, TRAINED), model=model, **changes)


def _opening(request: TrainRequest) -> str:
    lines: list[str] = []
    train_model(request, lambda _report: None, lines.append)
    return next(line for line in lines if "images of" in line)


def test_no_name_of_the_manifest_trains_a_bare_architecture(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("MIIL21K_CACHE", str(tmp_path / "empty"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "empty"))
    space = runs.request(shapes / "train", tmp_path).label_space
    from miil21k.hierarchy.load import load_own

    for weights in load_manifest().models:
        if weights.availability == "package":
            continue
        for name in weights.names:
            with pytest.raises(DownloadError if weights.buildable else UsageError):
                create_network(_request(shapes, tmp_path, name), load_own(Path(str(space)), all_nodes=True))


def test_a_run_starts_from_the_weights_of_its_name_and_says_so(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("MIIL21K_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(1)
    own = timm.create_model("test_resnet", num_classes=1000).state_dict()
    with HubServer() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        hub.publish(f"timm/{TAG}", "model.safetensors", save(own))
        opening = _opening(_request(shapes, tmp_path / "run", TAG))
    said = json.loads((tmp_path / "run" / "config.json").read_text())["weights"]
    assert said["name"] == TAG
    assert said["source"] == f"hub:timm/{TAG}/model.safetensors@main"
    assert f"from the weights {TAG} (sha256 {said['sha256'][:16]}" in opening
    trained = load_file(tmp_path / "run" / "last.safetensors")
    assert torch.allclose(trained["conv1.0.weight"], own["conv1.0.weight"], atol=1e-6)
    assert trained["fc.weight"].shape[0] == 14


def test_random_weights_are_asked_for_and_named(shapes: Path, tmp_path: Path) -> None:
    request = _request(shapes, tmp_path / "run", "test_resnet")
    with pytest.raises(
        UsageError, match=r"starts from trained weights.*Name one of: test_resnet\.r160_in1k.*--from-scratch"
    ):
        _opening(request)
    assert not (tmp_path / "run").exists()
    assert "test_resnet from random weights" in _opening(replace(request, recipe=replace(TRAINED, pretrained=False)))
    assert json.loads((tmp_path / "run" / "config.json").read_text())["weights"] == "random"


def test_the_constructor_of_timm_takes_what_the_user_says_and_the_checkpoint_repeats_it(
    shapes: Path, tmp_path: Path
) -> None:
    said = ("embed_dim=24", "num_heads=2", "depth=1", "global_pool=avg")
    recipe = replace(TRAINED, pretrained=False)
    request = _request(shapes, tmp_path / "run", "test_vit", recipe=recipe, model_kwargs=said)
    _opening(request)
    model, card = load_trained(tmp_path / "run" / "last.safetensors")
    built = {"embed_dim": 24, "num_heads": 2, "depth": 1, "global_pool": "avg"}
    assert card.arch_kwargs == {**built, "img_size": 32}
    assert (len(model.blocks), model.embed_dim, model.global_pool) == (1, 24, "avg")
    for words, message in [
        (("depth",), "takes NAME=VALUE, not 'depth'"),
        (("pretrained=True",), "'pretrained' is no argument of an architecture"),
        (("dpth=1",), "does not take dpth"),
    ]:
        with pytest.raises(UsageError, match=message):
            _opening(replace(request, folder=tmp_path / "other", model_kwargs=words))
    with pytest.raises(UsageError, match="add --from-scratch"):
        _opening(replace(request, recipe=TRAINED))
    with pytest.raises(UsageError, match="says itself what network it is"):
        _opening(replace(request, model=str(tmp_path / "run" / "last.safetensors"), folder=tmp_path / "other"))


def test_a_file_to_start_from_is_named_with_its_digest(shapes: Path, tmp_path: Path) -> None:
    file = tmp_path / "own.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=14).state_dict(), file)
    opening = _opening(_request(shapes, tmp_path / "run", "test_resnet", checkpoint=str(file)))
    assert f"from the weights {file} (sha256 {sha256_of(file)[:16]})," in opening, "its name once"


def test_a_checkpoint_from_scratch_gives_its_network_and_none_of_its_weights(shapes: Path, tmp_path: Path) -> None:
    first = _request(shapes, tmp_path / "run", "test_resnet", recipe=replace(TRAINED, pretrained=False))
    _opening(first)
    own = tmp_path / "run" / "last.safetensors"
    before = load_file(own)["conv1.0.weight"]
    again = replace(first, model=str(own), folder=tmp_path / "again", recipe=replace(first.recipe, seed=7))
    assert "from random weights" in _opening(again)
    assert (load_file(tmp_path / "again" / "last.safetensors")["conv1.0.weight"] - before).abs().max() > 0.05
    taken = replace(again, folder=tmp_path / "taken", recipe=replace(TRAINED, seed=7))
    assert f"from the weights {own} (sha256" in _opening(taken)
    assert (load_file(tmp_path / "taken" / "last.safetensors")["conv1.0.weight"] - before).abs().max() < 1e-6


@pytest.mark.parametrize(("teacher", "error"), [("tresnet_m", UnknownModel), ("resnet50.a1_in1k", Miil21kError)])
def test_a_teacher_is_trained_and_its_classes_are_known(teacher: str, error: type[Miil21kError], shapes: Path) -> None:
    recipe = replace(runs.TINY, objective="semantic_kd", teacher=teacher)
    with pytest.raises(error, match=r"is an architecture|was never published"):
        open_teacher(recipe)


def test_a_teacher_of_timm_answers_in_the_space_that_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("MIIL21K_CACHE", str(tmp_path / "cache"))
    in1k, preprocess = load_label_space("in1k"), trained_weights(TAG).preprocess
    recipe = replace(runs.TINY, objective="usi", teacher=TAG, teacher_label_space="in1k")
    own = timm.create_model("test_resnet", num_classes=1000)
    with HubServer() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        hub.publish(f"timm/{TAG}", "model.safetensors", save(own.state_dict()))
        opened = open_teacher(recipe)
        with pytest.raises(LabelSpaceMismatch, match=r"has 1000 classes, the label space 'winter21' 10450"):
            open_teacher(replace(recipe, teacher_label_space="winter21"))
    images = torch.rand(2, 3, 32, 32)
    assert opened is not None
    teacher = opened.teach(recipe, in1k, preprocess, "leaf_softmax")
    assert torch.allclose(teacher(images), own.eval()(images), atol=1e-5)


def test_a_space_that_contradicts_the_teacher_is_refused(shapes: Path, tmp_path: Path) -> None:
    runs.run(shapes / "train", tmp_path, replace(runs.TINY, epochs=1, batch_size=56))
    recipe = replace(runs.TINY, objective="semantic_kd", teacher=str(tmp_path / "last.safetensors"))
    with pytest.raises(LabelSpaceMismatch, match=r"answers in .*, not in 'in1k': leave --teacher-label-space out"):
        open_teacher(replace(recipe, teacher_label_space="in1k"))
