"""BiT-HyperRule against the numbers of the published code and of the paper."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from miil21k.errors import UsageError
from miil21k.train.hyperrule import bit_hyperrule
from miil21k.train.optimization import Schedule, create_optimizer

SMALL, MEDIUM, LARGE = 1_000, 50_000, 1_281_167


def rates(recipe: Any, *steps: int) -> list[float]:
    optimizer = create_optimizer(torch.nn.Linear(2, 2), recipe)
    schedule = Schedule(optimizer, recipe, 2)
    return [schedule.set(step) for step in steps]


def test_the_rates_of_a_small_set_are_those_of_the_published_code() -> None:
    recipe = bit_hyperrule(SMALL, 32, 32)
    found = rates(recipe, 0, 50, 100, 200, 201, 301, 401, 499)
    assert found == pytest.approx([0, 0.0015, 0.003, 0.003, 0.0003, 3e-5, 3e-6, 3e-6], rel=1e-6, abs=1e-12)
    assert recipe.updates(2) == 500


@pytest.mark.parametrize(("images", "steps", "drops"), [(MEDIUM, 10_000, 3_000), (LARGE, 20_000, 6_000)])
def test_larger_sets_run_longer_and_mix(images: int, steps: int, drops: int) -> None:
    recipe = bit_hyperrule(images, 375, 500)
    assert (recipe.steps, recipe.warmup_steps, recipe.mixup) == (steps, 500, 0.1)
    assert recipe.milestones == (drops + 1, 2 * drops + 1, 3 * drops + 1)
    assert rates(recipe, 250, drops, drops + 1) == pytest.approx([0.0015, 0.003, 0.0003])


def test_the_bounds_between_sets_and_sizes() -> None:
    assert [bit_hyperrule(n, 32, 32).steps for n in (19_999, 20_000, 499_999, 500_000)] == [500, 10_000, 10_000, 20_000]
    assert [bit_hyperrule(n, 32, 32).mixup for n in (19_999, 20_000)] == [0, 0.1]
    assert bit_hyperrule(20_000, 32, 32).mixup_draw == "update"
    sizes = [(r.resize, r.image_size) for r in (bit_hyperrule(9, 96, 95), bit_hyperrule(9, 96, 96))]
    assert sizes == [(160, 128), (512, 480)]
    assert [bit_hyperrule(n, 32, 32).sampling for n in (511, 512)] == ["replacement", "shuffle"]


def test_the_paper_prints_other_numbers() -> None:
    small, large = bit_hyperrule(SMALL, 300, 300, variant="paper"), bit_hyperrule(LARGE, 300, 300, variant="paper")
    assert (small.milestones, small.warmup_steps) == ((151, 301, 451), 0)
    assert large.milestones == (6_001, 12_001, 18_001)
    assert (small.resize, small.image_size) == (448, 384)
    assert rates(small, 0, 150, 151) == pytest.approx([0.003, 0.003, 0.0003])


def test_what_would_change_the_label_is_left_out() -> None:
    kept = bit_hyperrule(SMALL, 64, 64, flip=False, crop=False)
    assert (kept.hflip, kept.crop, kept.resize, kept.image_size) == (0, "squash", 0, 128)
    usual = bit_hyperrule(SMALL, 64, 64)
    assert (usual.hflip, usual.crop, usual.resize) == (0.5, "resized", 160)


def test_the_optimizer_is_plain_momentum() -> None:
    optimizer = create_optimizer(torch.nn.Linear(2, 2), bit_hyperrule(SMALL, 32, 32))
    (group, *_) = optimizer.param_groups
    assert (group["momentum"], group["nesterov"], group["weight_decay"]) == (0.9, False, 0)


@pytest.mark.parametrize(("words", "message"), [((0, 32, 32), "not 0 of 32 x 32"), ((5, 0, 32), "not 5 of 32 x 0")])
def test_nonsense_is_refused(words: tuple[int, int, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        bit_hyperrule(*words)
    with pytest.raises(UsageError, match="No variant 'ours'"):
        bit_hyperrule(5, 32, 32, variant="ours")  # type: ignore[arg-type]
