"""Cards of trained checkpoints: which label space they find again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from safetensors.numpy import save_file

from miil21k.errors import CheckpointError, LabelSpaceMismatch
from miil21k.hierarchy.load import load_label_space
from miil21k.hierarchy.spaces import LabelSpace
from miil21k.hierarchy.tree import Tree
from miil21k.zoo.checkpoint_card import TrainedCard, read_card
from miil21k.zoo.schema import Preprocess

if TYPE_CHECKING:
    from pathlib import Path


def metadata(space: LabelSpace) -> dict[str, str]:
    preprocess = Preprocess((3, 224, 224), "bilinear", 0.875, "center", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "none")
    return TrainedCard("resnet18", {}, "leaf_softmax", space, preprocess, "none", {}).to_metadata()


def saved(path: Path, **changes: str) -> Path:
    save_file({"x": np.zeros(1, np.float32)}, path, {**metadata(load_label_space("goog21k")), **changes})
    return path


def test_a_checkpoint_of_an_older_goog21k_finds_the_tree_that_trained_it(tmp_path: Path) -> None:
    today, before = load_label_space("goog21k"), load_label_space("goog21k@1")
    card = read_card(saved(tmp_path / "today.safetensors"))
    assert card is not None
    assert card.space is today
    card = read_card(saved(tmp_path / "old.safetensors", label_space_sha256=before.sha256))
    assert card is not None
    assert card.space is before


def test_a_shipped_space_goes_by_name_and_another_tree_of_that_name_whole(tmp_path: Path) -> None:
    shipped = load_label_space("in1k")
    assert (metadata(shipped)["label_space"], metadata(shipped)["label_space_text"]) == ("in1k", "")
    parent = shipped.tree.parent.copy()
    parent[0] = -1
    tree = Tree(shipped.tree.wnids, shipped.tree.names, parent, 1000)
    own = LabelSpace("in1k", tree, shipped.lemma_text, shipped.gloss_text)
    assert metadata(own)["label_space_text"] == own.to_text()
    card = read_card(saved(tmp_path / "own.safetensors", **metadata(own)))
    assert card is not None
    assert card.space.sha256 == own.sha256 != shipped.sha256


def test_a_tree_that_no_version_had_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LabelSpaceMismatch, match="use the version that wrote it"):
        read_card(saved(tmp_path / "odd.safetensors", label_space_sha256="0" * 64))


def test_a_tree_that_is_not_the_one_of_its_digest_is_refused(tmp_path: Path) -> None:
    space = load_label_space("in1k")
    own = {"label_space": "mine", "label_space_text": space.to_text(), "label_space_sha256": space.sha256}
    card = read_card(saved(tmp_path / "own.safetensors", **own))
    assert card is not None
    assert card.space.sha256 == space.sha256
    changed = {**own, "label_space_text": space.to_text().replace("n01440764", "n00000001")}
    with pytest.raises(LabelSpaceMismatch, match=f"{space.sha256[:12]}.*, which is "):
        read_card(saved(tmp_path / "changed.safetensors", **changed))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"arch_kwargs": '{"checkpoint_path": "/etc/passwd"}'}, "'checkpoint_path' is no argument of an architecture"),
        ({"arch_kwargs": '{"drop_rate": 0.1, "pretrained": true}'}, "'pretrained' is no argument"),
        ({"arch_kwargs": '{"pretrained_cfg": {"url": "http://x"}}'}, "'pretrained_cfg' is no argument"),
        ({"arch_kwargs": '{"cache_dir": "/tmp"}'}, "'cache_dir' is no argument"),
        ({"arch": "hf-hub:somebody/net"}, "'hf-hub:somebody/net' is no architecture"),
        ({"arch": "local-dir:/tmp/net"}, "'local-dir:/tmp/net' is no architecture"),
    ],
)
def test_a_card_describes_a_network_and_names_no_file_to_load(
    tmp_path: Path, changes: dict[str, str], problem: str
) -> None:
    with pytest.raises(CheckpointError, match=problem):
        read_card(saved(tmp_path / "odd.safetensors", **changes))
