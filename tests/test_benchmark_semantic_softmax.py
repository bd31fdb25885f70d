"""The comparison of the pretraining schemes, on small images made here."""

from __future__ import annotations

import gzip
import io
import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

ROOT = Path(__file__).parent.parent
SCHEMES = ("single", "multi_bce", "semantic", "semantic_kd")


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch):
    """The scripts' folder on the path, as when one of them is run; matplotlib is needed for the pictures."""
    pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def sets(modules):
    import blurred_sets

    return blurred_sets


def write_cifar(path: Path, sets, train: int, test: int) -> None:
    """Each class is one colour and some noise, so that a network learns it in a few steps."""
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (10, 3))
    with zipfile.ZipFile(path, "w") as archive:
        for part, count in (("train", train), ("test", test)):
            for label, name in enumerate(sets.CIFAR10):
                for number in range(count):
                    noise = rng.integers(-20, 21, (32, 32, 3))
                    stream = io.BytesIO()
                    pixels = np.clip(colours[label] + noise, 0, 255).astype(np.uint8)
                    Image.fromarray(pixels).save(stream, "JPEG", quality=95)
                    archive.writestr(f"{part}/{name}/{number:04d}.jpg", stream.getvalue())


def write_fashion(folder: Path, train: int, test: int) -> None:
    """Each class lights one row of the image."""
    folder.mkdir()
    for part, count in (("train", train), ("t10k", test)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        images = np.zeros((count, 28, 28), np.uint8)
        images[np.arange(count), 3 + 2 * labels] = 255
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(bytes(16) + images.tobytes()))
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(bytes(8) + labels.tobytes()))


def test_every_class_is_a_leaf_of_a_space_in_which_all_ancestors_are_classes(sets):
    for wnids in (sets.CIFAR10, sets.FASHION):
        tree = sets.space_of("any", wnids).tree
        assert tree.num_nodes == tree.num_classes
        assert tree.wnids[:10] == tuple(wnids.values())
        np.testing.assert_array_equal(tree.leaves, np.arange(10))
    cifar = sets.space_of("cifar10", sets.CIFAR10).tree
    above = [cifar.names[node] for node in cifar.path(cifar.index("n04490091"))]
    assert above == [
        "artifact", "container", "wheeled vehicle", "self-propelled vehicle", "motor vehicle", "truck",
    ]  # fmt: skip


def test_two_of_the_ten_classes_can_be_inner_nodes_above_two_others(sets):
    for wnids in (sets.INNER_CIFAR10, sets.INNER_FASHION):
        tree = sets.space_of("any", wnids).tree
        assert tree.wnids[:10] == tuple(wnids.values())
        inner = [node for node in range(10) if tree.num_children[node]]
        assert [sum(1 for node in tree.descendants(above) if node < 10) for above in inner] == [2, 2]


def test_an_answer_below_an_inner_label_is_wrong_in_the_curves(sets):
    import blurred_measures

    space = sets.space_of("fashion-mnist-inner", sets.INNER_FASHION)
    tree = space.tree
    shirt, jersey = tree.index("n04197391"), tree.index("n03595614")
    logits = np.full((200, tree.num_classes), -9, np.float32)
    logits[:, list(tree.path(jersey))] = 9  # says jersey, whatever the image
    right = blurred_measures.curves(tree, logits, np.full(200, jersey), "level_softmax")
    wrong = blurred_measures.curves(tree, logits, np.full(200, shirt), "level_softmax")
    for rule in blurred_measures.RULES:
        assert right["raw"][rule]["ac_exact"] > 0.99
        assert wrong["raw"][rule]["ac_exact"] == 0
        assert wrong["raw"][rule]["ac_depth"] < right["raw"][rule]["ac_depth"]


def test_blur_puts_the_wanted_share_of_labels_on_proper_ancestors(sets):
    tree = sets.space_of("cifar10", sets.CIFAR10).tree
    labels = np.repeat(np.arange(10), 2000)
    blurred = sets.blur(tree, labels, 0.3, seed=1)
    moved = blurred != labels
    assert abs(moved.mean() - 0.3) < 0.015
    assert (tree.lca(blurred.astype(np.int32), labels.astype(np.int32)) == blurred).all()
    horse = tree.index("n02374451")
    counts = np.bincount(blurred[(labels == horse) & moved], minlength=tree.num_nodes)
    assert (counts > 0).sum() == tree.depth[horse]
    np.testing.assert_array_equal(blurred, sets.blur(tree, labels, 0.3, seed=1))


@pytest.mark.slow
def test_the_comparison_runs_once_reports_and_goes_on_where_it_stopped(
    sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    import semantic_softmax

    write_cifar(tmp_path / "cifar.zip", sets, train=20, test=10)
    write_fashion(tmp_path / "fashion", train=200, test=100)
    out, pictures = tmp_path / "found.json", tmp_path / "pictures"

    def call(*more: str) -> int:
        words = ["--cifar", tmp_path / "cifar.zip", "--fashion", tmp_path / "fashion", "--out", out]
        words += ["--pictures", pictures, "--images", 200, 200, "--test-images", 100, "--epochs", 10, "--width", 4]
        words += ["--splits", 2, "--blur", 0.2, *more]
        monkeypatch.setattr(sys, "argv", ["semantic_softmax.py", *map(str, words)])
        return semantic_softmax.main()

    assert call("--seeds", "1", "--schemes", *SCHEMES[:2]) == 0
    first = json.loads(out.read_text())["runs"]
    capsys.readouterr()
    assert call("--seeds", "1", "--schemes", *SCHEMES) == 0
    report = capsys.readouterr().out
    runs = json.loads(out.read_text())["runs"]
    assert runs[: len(first)] == first
    names = ("CIFAR-10", "Fashion-MNIST")
    whole = [(name, scheme) for name in names for scheme in (*SCHEMES, "teacher", "untrained")]
    inner = [(f"{name}, two inner classes", "semantic") for name in names]
    assert sorted((run["set"], run["scheme"]) for run in runs) == sorted(whole + inner)
    coloured = {run["scheme"]: run for run in runs if run["set"] == "CIFAR-10"}
    assert coloured["teacher"]["leaf"] > 0.5  # ten colours; chance is 0.1
    assert coloured["teacher"]["semantic_top1"] > coloured["teacher"]["leaf"]
    assert {len(run["curves"]["raw"]) for run in runs if run["head"] == "level_softmax"} == {4}
    for title in ("single-label", "multi-label, BCE", "semantic softmax", "semantic softmax + KD, weight 1"):
        assert report.count(f"| {title} | 1 |") == 2  # one table per data set
    assert (pictures / "benchmarks_semantic_softmax.png").read_bytes().startswith(b"\x89PNG")
    assert call("--epochs", "3") == 1
    assert "other settings" in capsys.readouterr().err
