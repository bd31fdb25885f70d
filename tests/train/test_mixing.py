"""Mixup and cutmix: which of the two, how often, and how much of each image."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from miil21k.train.mixing import Mixing

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
