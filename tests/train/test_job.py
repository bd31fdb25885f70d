"""What decides the weights of a run: its identity follows the tree, not only the names of the classes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from runs import TINY, request
from shapes import shape_space

from miil21k.data.datasets import label_images, open_source
from miil21k.data.folders import FolderSource
from miil21k.hierarchy.spaces import LabelSpace
from miil21k.hierarchy.tree import Tree
from miil21k.train.job import choose_space, digest_of, run_id_of
from miil21k.zoo.checkpoint_card import TrainedCard
from miil21k.zoo.schema import Preprocess

if TYPE_CHECKING:
    from pathlib import Path


def test_another_tree_of_the_same_name_and_classes_is_another_run(shapes: Path) -> None:
    space = shape_space()
    images = digest_of(label_images(FolderSource(shapes / "train"), space))
    preprocess = Preprocess((3, 32, 32), "bilinear", 0.875, "center", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "none")
    card = TrainedCard("test_resnet", {}, "level_softmax", space, preprocess, "miil_semantic", {})
    identity = run_id_of(TINY, card, images, 1, {})
    assert run_id_of(TINY, card, images, 1, {}) == identity
    flat = Tree.from_parents(space.tree.wnids, [None] * 14, space.tree.names)
    other = LabelSpace(space.name, flat, space.lemma_text, space.gloss_text)
    changed = [
        run_id_of(TINY, replace(card, space=other), images, 1, {}),
        run_id_of(TINY, replace(card, arch="test_vit"), images, 1, {}),
        run_id_of(TINY, replace(card, arch_kwargs={"drop_rate": 0.1}), images, 1, {}),
        run_id_of(TINY, replace(card, preprocess=preprocess._replace(crop_pct=1.0)), images, 1, {}),
        run_id_of(replace(TINY, lr=1e-3), card, images, 1, {}),
        run_id_of(TINY, card, images, 2, {}),
        run_id_of(TINY, card, images, 1, {"teacher": "another"}),
    ]
    assert len({identity, *changed}) == 8


def test_the_classes_of_a_saved_data_set_are_the_label_space_in_its_order(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["wolf", "bird", "cat"])}
    )
    rows = {"image": [{"bytes": b"", "path": None}] * 3, "label": [2, 0, 2]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "pets")
    data = f"hfds/{tmp_path}/pets"
    wanted = replace(request(tmp_path, tmp_path / "run", label_space=None), data=data)
    space = choose_space(wanted, open_source(data))
    assert (space.name, space.wnids) == ("pets", ("wolf", "cat"))
