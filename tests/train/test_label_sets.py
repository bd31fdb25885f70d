from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from child_processes import started
from shapes import write_folders

from miil21k.cli.main import main
from miil21k.data.datasets import label_images, open_source
from miil21k.data.loader import EpochSampler, training_loader
from miil21k.hierarchy.custom import from_labels
from miil21k.metrics.average_precision import AveragePrecision
from miil21k.train import losses
from miil21k.train.job import augmentation_of
from miil21k.train.level_order import ancestor_table
from miil21k.train.objectives import create_objective
from miil21k.train.recipes import get_recipe
from miil21k.zoo.checkpoint_card import read_card
from miil21k.zoo.schema import Preprocess

if TYPE_CHECKING:
    from pathlib import Path

    from miil21k.hierarchy.tree import Tree

HAS = {"red_circle": "red|round", "blue_circle": "blue|round", "red_square": "red", "blue_square": ""}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """several.csv: 4 images of each of 4 forms, with labels, weights 1 and 3, and the splits train and val."""
    root = write_folders(tmp_path_factory.mktemp("sets"), 4, names=tuple(HAS))
    rows = [
        f"{name}/{name}_{at}.jpg,{labels},{1 + 2 * (at % 2)},{'val' if at == 3 else 'train'}"
        for name, labels in HAS.items()
        for at in range(4)
    ]
    (root / "several.csv").write_text("path,labels,weight,split\n" + "\n".join(rows) + "\n")
    return root


def _words(data: Path, folder: Path, *more: str) -> list[str]:
    return [
        "train", str(data / "several.csv"), "-m", "test_resnet", "-o", str(folder), "--device", "cpu", "-j", "0",
        "--epochs", "1", "--batch-size", "4", "--image-size", "32", "--from-scratch", *more,
    ]  # fmt: skip


def test_a_list_of_several_labels_trains_by_asl_and_is_watched_by_map(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(_words(data, tmp_path / "run", "--recipe", "asl")) == 0
    out, err = capsys.readouterr()
    assert "12 images of 3 classes (label space 'several'), 4 to validate" in err
    assert "best mAP" in err
    card = read_card(tmp_path / "run" / "best.safetensors")
    assert card is not None
    assert (card.head, card.space.wnids) == ("sigmoid", ("blue", "red", "round"))
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    watched = max(rows[-1]["val_mAP"], rows[-1]["val_ema_mAP"])
    assert main(["validate", str(data / "several.csv"), "--split", "val", "-m", out.strip(), "--device", "cpu"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["metrics"]["labels"]["mAP"] == pytest.approx(watched, abs=1e-9)
    assert main(_words(data, tmp_path / "flat", "--recipe", "finetune")) == 2
    assert "the objective 'cross_entropy' takes one: choose a recipe for several, such as --recipe asl" in (
        capsys.readouterr().err
    )


def test_batches_hold_multi_hot_labels_and_weights_of_mean_one(data: Path) -> None:
    source = open_source(str(data / "several.csv"), split="train")
    space = from_labels(data / "x.csv", {key: key for key in source.keys})
    images = label_images(source, space, several=True)
    recipe = replace(get_recipe("asl"), image_size=32, policy="", cutout=0.0)
    preprocess = Preprocess((3, 32, 32), "bilinear", 1.0, "squash", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "test")
    loader = training_loader(images, augmentation_of(recipe, preprocess), EpochSampler(12, 12, 0), 0)
    (batch,) = list(loader)
    order = batch.indices.tolist()
    assert batch.labels.dtype == torch.float32
    expected = [[word in labels.split("|") for word in ("blue", "red", "round")] for labels in HAS.values()]
    assert batch.labels.tolist() == [expected[index // 3] for index in order]
    assert batch.weights is not None
    assert batch.weights.tolist() == pytest.approx([(0.6, 1.8, 0.6)[index % 3] for index in order])


def test_multi_hot_losses_equal_the_definition_and_the_index_form(zoo_tree: Tree) -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(3, 7, dtype=torch.float64, generator=generator)
    table, labels = ancestor_table(zoo_tree), torch.tensor([0, 5, 3])
    hot = torch.zeros(3, 7, dtype=torch.float64)
    hot.scatter_(1, torch.cat([table[labels], labels[:, None]], dim=1), 1.0)
    bce = F.binary_cross_entropy_with_logits(z, hot, reduction="sum") / 3
    assert losses.multi_label_bce(z, hot, table).item() == pytest.approx(bce.item(), abs=1e-12)
    p = torch.sigmoid(z)
    q = (p - 0.05).clamp(min=0)
    terms = -(hot * (1 - p) * p.log() + (1 - hot) * q**4 * (1 - q).log())
    assert losses.asymmetric(z, hot, table, 4.0, 1.0).item() == pytest.approx(terms.sum().item() / 3, abs=1e-12)
    for loss in losses.MULTI_LABEL.values():
        assert loss(z, hot, table).item() == pytest.approx(loss(z, labels, table).item(), abs=1e-12)


@pytest.mark.parametrize("name", ["miil_semantic", "miil_single_label", "miil_multi_label", "asl"])
def test_a_weight_counts_an_image_as_often_as_it_says(zoo_tree: Tree, name: str) -> None:
    tree = zoo_tree
    if name == "miil_semantic":
        tree = type(tree)(tree.wnids, tree.names, tree.parent, tree.num_nodes)
    width = tree.num_classes
    images = torch.randn(4, 3, 1, 1, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 5, 3, 0])
    if name == "asl":
        labels = F.one_hot(labels, width).float()
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3, width))
    objective = create_objective(get_recipe(name), tree)
    again = torch.tensor([0, 1, 1, 1, 3, 3])
    weighted = replace(objective, weights=torch.tensor([1.0, 3.0, 0.0, 2.0]))
    loss = weighted(model, images, labels)["loss"]
    repeated = objective(model, images[again], labels[again])["loss"] * 6 / 4
    assert loss.item() == pytest.approx(repeated.item(), rel=1e-5)
    (found,) = torch.autograd.grad(loss, model[1].weight)
    (expected,) = torch.autograd.grad(repeated, model[1].weight)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_an_objective_that_cannot_weigh_images_says_so(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = data / "weighed.csv"
    listed.write_text("path,label,weight\nred_circle/red_circle_0.jpg,red,2\nblue_circle/blue_circle_0.jpg,blue,1\n")
    words = _words(data, tmp_path / "run", "--set", "objective=semantic_kd", "--teacher", "embedded")
    words[1] = str(listed)
    assert main(words) == 2
    assert "the objective 'semantic_kd' cannot: leave the column out" in capsys.readouterr().err


SHARE = """
import sys
import numpy as np, torch
import torch.distributed as dist
from miil21k.train.evaluation import _Ranks
from miil21k.train.processes import Processes

def fraction(store, rank):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    rng = np.random.default_rng(0)
    logits = torch.tensor(rng.normal(size=(9, 3)), dtype=torch.float32)
    labels = torch.tensor(rng.random((9, 3)) < 0.4).float()
    weights = rng.random(9).astype(np.float32)
    share = _Ranks(np.array([0, 2], np.int32))
    share.add(logits[rank::2], labels[rank::2], weights[rank::2])
    found = share.fractions("sigmoid", Processes(rank, 2))["mAP"]
    dist.destroy_process_group()
    return found
"""


def test_two_processes_give_the_average_precision_of_one(tmp_path: Path) -> None:
    code = f"{SHARE}\nprint(repr(fraction({str(tmp_path / 'store')!r}, 1)))"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    here: dict[str, Any] = {}
    exec(SHARE, here)
    with started([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True) as other:
        first = here["fraction"](str(tmp_path / "store"), 0)
        assert float(other.communicate(timeout=600)[0]) == first
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(9, 3)).astype(np.float32), rng.random((9, 3)) < 0.4
    whole = AveragePrecision(2)
    whole.update(logits[:, [0, 2]], labels[:, [0, 2]], rng.random(9).astype(np.float32))
    assert first == pytest.approx(whole.compute()["mAP"], abs=1e-12)
