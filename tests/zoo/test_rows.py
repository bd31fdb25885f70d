"""A walk over every row of the manifest: it builds, counts, loads what was published, runs and decodes."""

from __future__ import annotations

import warnings
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from published_names import PUBLISHED
from safetensors.torch import save_file
from torch import Tensor, nn

from miil21k.decode.path import decode_path
from miil21k.decode.probabilities import node_probabilities
from miil21k.errors import UsageError
from miil21k.hierarchy.load import load_label_space
from miil21k.zoo.adapters import adapt
from miil21k.zoo.checkpoint import load_strictly
from miil21k.zoo.manifest import load_manifest
from miil21k.zoo.registry import create_model

if TYPE_CHECKING:
    from pathlib import Path

    from miil21k.zoo.manifest import Weights

ROWS = load_manifest().models
BUILDABLE = [w for w in ROWS if w.buildable]
# What fits a laptop in a second: the others run on the meta device, where shapes are real and numbers are not.
SMALL = [w for w in BUILDABLE if (w.params or w.candidates[0].params or 0) < 30e6]
SMALL.append(next(w for w in BUILDABLE if w.label_space == "goog21k"))
# Those with buffers that no checkpoint holds: blur filters, attention indices.
SMALL += [w for w in BUILDABLE if w.name in ("tresnet_m.miil_in21k_ft_in1k", "levit_384.usi_in21k_single_label")]
ONE_PER_ARCH = list({w.arch: w for w in BUILDABLE}.values())


def _spaces(weights: Weights) -> list[tuple[str, int, int | None]]:
    """Return (label space, classes, parameters): what is published, or every candidate."""
    if weights.label_space and weights.num_classes:
        return [(weights.label_space, weights.num_classes, weights.params)]
    return [(c.label_space, c.num_classes, c.params) for c in weights.candidates]


@cache
def _meta(arch_row: str, num_classes: int) -> nn.Module:
    with torch.device("meta"):
        return create_model(arch_row, num_classes=num_classes)


def _count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("weights", BUILDABLE, ids=lambda w: w.name)
def test_the_parameters_are_those_of_the_manifest_to_the_unit(weights: Weights) -> None:
    for space, num_classes, params in _spaces(weights):
        assert num_classes == load_label_space(space).num_classes
        assert _count(_meta(weights.name, num_classes)) == params


@pytest.mark.parametrize("weights", [w for w in ROWS if not w.buildable], ids=lambda w: w.name)
def test_an_architecture_without_published_configuration_says_so(weights: Weights) -> None:
    assert weights.params is None
    with pytest.raises(UsageError, match="configuration of levit_768 was never published"):
        create_model(weights.name, num_classes=1000)


@pytest.mark.parametrize("weights", BUILDABLE, ids=lambda w: w.name)
def test_every_published_layout_has_the_tensors_of_the_model(weights: Weights) -> None:
    model = _meta(weights.name, _spaces(weights)[0][1])
    state = model.state_dict()
    template = {key: tensor.shape for key, tensor in state.items()}
    assert adapt(state, weights.layouts, template).keys() == state.keys()
    for layout in weights.layouts:
        published = PUBLISHED[layout](state)
        if layout not in ("timm", "torchvision"):
            assert published.keys() != state.keys()
        adapted = adapt(published, weights.layouts, template)
        assert {k: v.shape for k, v in adapted.items()}.items() <= template.items()
        load_strictly(model, adapted, weights.name)  # on the meta device nothing but names and shapes can change hands


@pytest.mark.parametrize("weights", SMALL, ids=lambda w: w.name)
def test_a_small_row_loads_its_published_layout_predicts_and_decodes(weights: Weights, tmp_path: Path) -> None:
    space, num_classes, _ = _spaces(weights)[0]
    torch.manual_seed(0)
    original = create_model(weights.name, num_classes=num_classes).eval()
    stored = PUBLISHED[weights.layouts[-1]](original.state_dict())
    file = _write(stored, weights, tmp_path)
    model = create_model(weights.name, checkpoint=file).eval()
    _assert_buffers_are_computed(model, original)

    size = weights.preprocess.input_size if weights.arch.startswith("levit") else (3, 64, 64)
    images = torch.randn(2, *size)
    with torch.inference_mode():
        logits, expected = model(images).numpy(), original.forward_head(original.forward_features(images)).numpy()
    assert np.abs(logits - expected).max() <= 1e-4 * np.abs(expected).max() + 1e-6

    tree = load_label_space(space).tree
    probs = node_probabilities(tree, logits, weights.head)
    paths = decode_path(tree, probs)
    for nodes, length in zip(paths.nodes, paths.length, strict=True):
        assert tuple(nodes[:length]) == tree.path(int(nodes[length - 1]))
    assert (np.diff(paths.probs[:, : paths.length.min()], axis=1) <= 1e-6).all()


def _write(stored: dict[str, Tensor], weights: Weights, folder: Path) -> Path:
    """Write a checkpoint as it was published: archive, wrapped pickle or safetensors."""
    kind = weights.sources[-1].format
    file = folder / f"checkpoint.{kind}"
    if kind == "npz":
        np.savez(file, **{name: tensor.numpy() for name, tensor in stored.items()})
    elif kind == "pth":
        torch.save({"state_dict": stored}, file)
    else:
        save_file(stored, file)
    return file


def _assert_buffers_are_computed(model: nn.Module, original: nn.Module) -> None:
    """Buffers that no checkpoint holds (blur filters, attention indices) must be as in a plain construction."""
    theirs = dict(original.named_buffers())
    for name, buffer in model.named_buffers():
        assert buffer.device.type == "cpu"
        assert torch.equal(buffer, theirs[name]), name


@pytest.mark.parametrize("weights", ONE_PER_ARCH, ids=lambda w: w.arch)
def test_every_architecture_runs_forward_and_backward_with_timms_surface(weights: Weights) -> None:
    num_classes = _spaces(weights)[0][1]
    with torch.device("meta"):
        model = create_model(weights.name, num_classes=num_classes)
    images = torch.empty(2, *weights.preprocess.input_size, device="meta")
    features = model.forward_features(images)
    pooled = model.forward_head(features.detach(), pre_logits=True)
    assert pooled.shape == (2, getattr(model, "head_hidden_size", model.num_features))
    logits = model.forward_head(features)  # which is what `forward` does, as the walk over the small rows shows
    assert logits.shape == (2, num_classes)
    logits.sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    model.reset_classifier(17)
    assert model.forward_head(features.detach()).shape == (2, 17)


@pytest.mark.parametrize("weights", ONE_PER_ARCH, ids=lambda w: w.arch)
def test_every_architecture_can_return_its_feature_maps(weights: Weights) -> None:
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = create_model(weights.name, num_classes=10, features_only=True)
    maps = model(torch.empty(1, *weights.preprocess.input_size, device="meta"))
    assert len(maps) >= 3
    assert [m.shape[1] for m in maps] == model.feature_info.channels()


@pytest.mark.slow
@pytest.mark.parametrize("weights", [w for w in ONE_PER_ARCH if (w.gmacs or 0) < 3], ids=lambda w: w.arch)
def test_a_small_architecture_learns_from_one_step(weights: Weights) -> None:
    torch.manual_seed(0)
    model = create_model(weights.name, num_classes=4)
    size = weights.preprocess.input_size if weights.arch.startswith("levit") else (3, 64, 64)
    images, labels = torch.randn(4, *size), torch.arange(4)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(3):
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert min(losses[1:]) < losses[0]
