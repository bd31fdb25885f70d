"""Recipes for embeddings, features and logits: docs/howto_embeddings.md."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from shown import script

from miil21k import Predictor

if TYPE_CHECKING:
    from shown import Kitchen

PAGE = "embeddings"


@pytest.fixture
def crops(kitchen: Kitchen) -> Kitchen:
    """Return a kitchen with the cut-outs in `crops/`, a folder for each photograph."""
    kitchen.prints_what_the_page_shows(PAGE, "python examples/crops.py")
    return kitchen


def test_embeddings_serve_estimators_of_scikit_learn(crops: Kitchen) -> None:
    pytest.importorskip("sklearn")
    lines = crops.prints_what_the_page_shows(PAGE, "python examples/features_in_sklearn.py")
    assert len(lines) == 3


@pytest.mark.slow
def test_estimators_learn_from_the_pictures_that_can_be_read(crops: Kitchen) -> None:
    pytest.importorskip("sklearn")
    lines = crops.run("python examples/features_in_sklearn.py crops").stdout.splitlines()
    (crops.folder / "crops" / "cat" / "broken.jpg").write_bytes(b"no picture")
    ran = crops.run("python examples/features_in_sklearn.py crops")
    assert (ran.code, ran.stdout.splitlines()) == (1, lines)


@pytest.mark.parametrize("library", ["usearch", "faiss"])
def test_the_pictures_found_are_the_nearest(crops: Kitchen, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(library, reason=f"{library} is not installed")
    start = "python examples/search_embeddings.py crops photos/cat.jpg"
    lines = crops.prints_what_the_page_shows(PAGE, start)
    ran = crops.run(f"{start} --library {library}")
    assert (ran.code, ran.stdout.splitlines()) == (0, lines)

    monkeypatch.chdir(crops.folder)
    monkeypatch.setenv("MIIL21K_CACHE", str(crops.cache))
    first, *others = Predictor("embedded", embeddings=True)(["photos/cat.jpg", "crops/**/*.jpg"])
    vectors = np.stack([answer.embedding for answer in others])
    cosines = vectors @ first.embedding / np.linalg.norm(vectors, axis=1) / np.linalg.norm(first.embedding)
    nearest = np.argsort(-cosines)[:5]
    assert [line.split()[1] for line in lines] == [others[place].input for place in nearest]
    assert [float(line.split()[0]) for line in lines] == pytest.approx(cosines[nearest], abs=0.02)


def test_a_query_that_is_no_picture_is_refused(crops: Kitchen) -> None:
    pytest.importorskip("usearch", reason="usearch is not installed")
    ran = crops.run("python examples/search_embeddings.py crops absent.jpg")
    assert (ran.code, ran.stderr.strip().splitlines()[-1]) == (
        2,
        "Cannot read 'absent.jpg': No such file or directory.",
    )


def test_a_pretrained_classifier_is_the_pyramid_of_a_detector() -> None:
    detector = script("detector.py")
    pyramid = detector.Pyramid("embedded", channels=16).train()
    assert not any(module.training for module in pyramid.body.modules())
    levels = pyramid(torch.rand(1, 3, 128, 128))
    assert [tuple(level.shape) for level in levels.values()] == [(1, 16, n, n) for n in (16, 8, 4, 2, 1)]
    sum(level.square().mean() for level in levels.values()).backward()
    first = next(pyramid.body.parameters())
    assert first.grad is not None
    assert first.grad.abs().sum() > 0
    pictures, targets = detector.paint(2, 64, torch.Generator().manual_seed(0))
    left, top, right, bottom = targets[0]["boxes"][0].int().tolist()
    assert pictures[0][0, top:bottom, left:right].min() > 0.8 > 0.5 >= pictures[0][0].min()


@pytest.mark.slow
def test_a_detector_learns_to_find_squares(kitchen: Kitchen) -> None:
    ran = kitchen.run("python examples/detector.py --steps 60")
    *steps, last = ran.stdout.splitlines()
    losses = [float(line.rpartition(" ")[2]) for line in steps]
    assert losses[-1] < losses[0]
    assert float(last.rpartition(" ")[2]) > 0.3


def test_logits_become_paths_that_shorten_as_the_hedge_rises(kitchen: Kitchen) -> None:
    lines = kitchen.prints_what_the_page_shows(PAGE, "python examples/paths_from_logits.py")
    assert lines[2] == "0.90  animal > domestic animal > domestic cat"
    answers = [line[6:] for line in lines]
    assert answers[3] == "(not sure)"
    assert all(deep.startswith(shallow) for deep, shallow in pairwise(answers[:3]))
