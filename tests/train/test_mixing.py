"""Mixup and cutmix: which of the two, how often, and how much of each image."""

from __future__ import annotations

from itertools import islice, permutations

import numpy as np
import pytest
import torch
from torch import nn

from miil21k.data.loader import Batch
from miil21k.train.mixing import Mixing, Mixture
from miil21k.train.objectives import CrossEntropy
from miil21k.train.processes import Processes
from miil21k.train.recipe import Recipe
from miil21k.train.state import Trained
from miil21k.train.step import UpdateStep
from miil21k.zoo.schema import Preprocess

COLOURS = torch.arange(1.0, 5.0).view(4, 1, 1, 1).expand(4, 3, 20, 30)  # image i has the value i + 1 everywhere


@pytest.fixture(autouse=True)
def _seeded() -> None:
    np.random.seed(0)  # noqa: NPY002 - timm draws from the global generator


def test_mixup_adds_the_reversed_batch_by_the_share() -> None:
    mixing = Mixing(mixup=0.8, cutmix=0.0, prob=1.0, switch=0.5)
    shares = []
    for _ in range(200):
        mixed, share = mixing(COLOURS)
        torch.testing.assert_close(mixed, COLOURS * share + COLOURS.flip(0) * (1 - share))
        shares.append(share)
    assert 0 <= min(shares) < 0.2
    assert np.mean(shares) == pytest.approx(0.5, abs=0.05)
    assert np.var(shares) == pytest.approx(1 / (4 * (2 * 0.8 + 1)), abs=0.02)  # of Beta(0.8, 0.8)


def test_cutmix_pastes_a_box_of_the_reversed_batch_and_says_how_much_is_left() -> None:
    mixing = Mixing(mixup=0.0, cutmix=1.0, prob=1.0, switch=0.5)
    before, shares = COLOURS.clone(), []
    for _ in range(200):
        mixed, share = mixing(COLOURS)
        own = mixed == COLOURS
        assert torch.equal(mixed, torch.where(own, COLOURS, COLOURS.flip(0)))
        assert own.float().mean((1, 2, 3)).tolist() == pytest.approx([share] * 4, abs=1e-6)
        rows, columns = (~own[0, 0]).any(1), (~own[0, 0]).any(0)
        assert torch.equal(~own[0, 0], rows[:, None] & columns)  # one box
        shares.append(share)
    assert torch.equal(COLOURS, before)
    assert np.mean([share < 1 for share in shares]) > 0.9
    assert 0.5 < np.mean(shares) < 0.75  # the box is cut at the border, which leaves more than Beta(1, 1)


@pytest.mark.parametrize(("switch", "share"), [(0.0, 0.0), (0.25, 0.25), (1.0, 1.0)])
def test_the_switch_is_the_share_of_cutmix(switch: float, share: float) -> None:
    mixing = Mixing(mixup=0.8, cutmix=1.0, prob=1.0, switch=switch)
    cut = [set(mixing(COLOURS)[0][0].unique().tolist()) <= {1.0, 4.0} for _ in range(400)]
    assert np.mean(cut) == pytest.approx(share, abs=0.06)


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0.0), (0.0, 1.0), (0.0, 0.0)])
def test_a_batch_is_mixed_with_the_probability(mixup: float, cutmix: float) -> None:
    mixing = Mixing(mixup, cutmix, prob=0.3, switch=0.5)
    untouched = 0
    for _ in range(400):
        mixed, share = mixing(COLOURS)
        untouched += mixed is COLOURS
        assert (mixed is COLOURS) <= (share == 1.0)
    assert untouched / 400 == pytest.approx(0.7 if mixup or cutmix else 1.0, abs=0.06)


class _Listening(nn.Module):
    """A network that keeps the images it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.seen = nn.Linear(3, 4), []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen.append(images[:, 0, 0, 0].clone())
        return self.layer(images.mean((2, 3)))


def _update(recipe: Recipe, network: _Listening, rank: int = 0) -> list[torch.Tensor]:
    """Make an update of three batches of six images that are 0, 1, ... 5 everywhere; return what was seen."""
    plain = Preprocess((3, 8, 8), "bilinear", 1.0, "center", (0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255), "")
    trained = Trained(network, torch.optim.SGD(network.parameters(), 0.0))
    processes = Processes(rank, 1)
    step = UpdateStep(trained, CrossEntropy(0.0), recipe, plain, processes)
    images = torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1).expand(6, 3, 8, 8)
    batch = Batch(images, torch.arange(6) % 4, torch.arange(6), ())
    network.seen.clear()
    step([batch, batch, batch], epoch=0, update=5)
    return list(network.seen)


def _share_of(seen: torch.Tensor) -> float:
    """Return the share that mixed images keep of themselves, whoever their partners are; 1 where nothing is mixed."""
    own = torch.arange(6.0)
    candidates = []
    for order in islice(permutations(range(6)), 1, None):
        moved = torch.tensor(order) - own
        part = float((seen - own) @ moved / (moved @ moved))
        if torch.allclose(own + part * moved, seen, atol=1e-5) and 0 <= part <= 1:
            candidates.append(1 - part)
    return candidates[0] if candidates else 1.0


def test_a_share_per_update_is_the_same_in_all_its_batches_and_processes_and_pairs_by_a_permutation() -> None:
    recipe = Recipe("cross_entropy", mixup=1.0, mixup_draw="update", batch_size=6, accumulate=3, policy="", cutout=0.0)
    network = _Listening()
    seen = _update(recipe, network)
    shares = [_share_of(one) for one in seen]
    assert shares == pytest.approx([shares[0]] * 3, abs=1e-5)
    assert 0 < shares[0] < 1
    assert [_share_of(one) for one in _update(recipe, network, rank=1)] == pytest.approx(shares, abs=1e-5)
    assert len({tuple(one.tolist()) for one in seen}) > 1  # each batch has its own pairs

    by_batch = Recipe("cross_entropy", mixup=1.0, batch_size=6, accumulate=3, policy="", cutout=0.0)
    reversed_ = _update(by_batch, network)
    differing = [float(one[0]) / 5 for one in reversed_]  # image 0 has the rest of image 5
    assert max(differing) - min(differing) > 0.01
    assert all(torch.allclose(one + one.flip(0), torch.full((6,), 5.0), atol=1e-5) for one in reversed_)


def test_labels_follow_the_pairs() -> None:
    logits = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    labels, others = torch.tensor([0, 1, 2, 3]), torch.tensor([2, 1, 3, 0])

    class Fixed(nn.Module):
        def forward(self, _: torch.Tensor) -> torch.Tensor:
            return logits

    found = CrossEntropy(0.0)(Fixed(), logits, labels, 0.7, others)["loss"]
    cross = nn.functional.cross_entropy
    assert float(found) == pytest.approx(float(0.7 * cross(logits, labels) + 0.3 * cross(logits, others)), abs=1e-6)
    mixed, share = Mixing(1.0, 0.0, 1.0, 0.5).mix(COLOURS, COLOURS[others], Mixture(0.7))
    assert share == 0.7
    torch.testing.assert_close(mixed, 0.7 * COLOURS + 0.3 * COLOURS[others])
