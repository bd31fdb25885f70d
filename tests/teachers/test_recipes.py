"""The recipes of Yalniz et al. 2019: as published, and fitted to one's own batch and length."""

from __future__ import annotations

import pytest
import torch

from miil21k.errors import UsageError
from miil21k.teachers.recipes import changes_of, finetuning, pretraining
from miil21k.train.optimization import Schedule
from miil21k.train.recipes import RECIPES, equal_drops


def rates(recipe: object, updates: int, per_epoch: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=recipe.lr)  # type: ignore[attr-defined]
    schedule = Schedule(optimizer, recipe, per_epoch)  # type: ignore[arg-type]
    return [schedule.set(update) for update in range(updates)]


def test_the_published_pretraining_sees_a_billion_images_and_halves_its_rate_13_times() -> None:
    recipe = RECIPES["ssl_pretrain"]
    assert recipe.batch_size * 64 == 1536
    assert recipe.steps * 1536 == pytest.approx(1e9, rel=1e-6)
    assert recipe.lr == pytest.approx(0.1 * 1536 / 256)
    assert len(recipe.milestones) == 13
    assert set(map(round, [b - a for a, b in zip((0, *recipe.milestones), recipe.milestones, strict=False)])) <= {
        46502,
        46503,
        46504,
    }
    assert "not verified" in recipe.source
    assert "Not known" in recipe.source


def test_the_published_fine_tuning_has_the_rate_that_timm_tells_of() -> None:
    recipe = RECIPES["ssl_finetune"]
    assert (recipe.lr, recipe.epochs, recipe.batch_size * 64) == (0.0015, 30, 1536)
    assert recipe.lr == pytest.approx(0.00025 * 1536 / 256)
    found = rates(recipe, 300, 10)
    assert sorted({round(rate, 9) for rate in found}) == pytest.approx([1.5e-6, 1.5e-5, 1.5e-4, 1.5e-3])


def test_pretraining_follows_the_batch_and_the_rows() -> None:
    recipe = pretraining("ssl_pretrain", {}, rows=5_000, passes=20, batch=100)
    assert recipe.steps == 1_000
    assert recipe.lr == pytest.approx(0.1 * 100 / 256)
    found = rates(recipe, recipe.steps, 50)
    assert found[0] < found[25] < found[49]
    assert found[60] == pytest.approx(recipe.lr)
    assert found[-1] == pytest.approx(recipe.lr / 2**13)
    assert len({round(rate, 12) for rate in found[50:]}) == 14


def test_what_is_set_wins_and_lengths_that_are_set_take_the_drops_along() -> None:
    recipe = pretraining("ssl_pretrain", {"steps": "28", "lr": "0.5"}, rows=10, passes=1, batch=64)
    assert (recipe.steps, recipe.lr, recipe.milestones) == (28, 0.5, tuple(range(2, 28, 2)))
    assert recipe.sampling == "replacement", "10 rows fill no batch of 64"
    tuned = finetuning("ssl_finetune", {"epochs": "8"}, images=40, batch=64)
    assert (tuned.epochs, tuned.milestones, tuned.batch_size) == (8, (2, 4, 6), 40)
    assert finetuning("ssl_finetune", {"epochs": 1}, images=40, batch=8).schedule == "cosine", "no room for a drop"
    other = finetuning("finetune", {}, images=400, batch=64)
    assert (other.lr, other.epochs, other.batch_size) == (2e-4, 50, 64)


@pytest.mark.parametrize(
    ("images", "batch", "changes", "rate"),
    [
        (1_281_167, 1536, {}, 1.5e-3),  # as published
        (1_281_167, 256, {}, 2.5e-4),  # the published rule, 0.00025 per 256 images: six times the updates
        (1_281_167, 3072, {}, 3e-3),  # half the updates
        (500, 32, {}, 1.5e-3),  # 450 updates: as many of the published run, which has 25,023, are made at its rate
        (150, 256, {}, 1.5e-3),
        (500, 32, {"steps": "50046"}, 7.5e-4),  # twice the published updates
        (500, 32, {"epochs": "20000"}, 1.5e-3 * 25_023 / 300_000),
        (500, 32, {"lr": "0.01"}, 0.01),
    ],
)
def test_fine_tuning_slows_down_no_more_than_its_updates_are_more(
    images: int, batch: int, changes: dict[str, str], rate: float
) -> None:
    recipe = finetuning("ssl_finetune", changes, images=images, batch=batch)
    assert recipe.lr == pytest.approx(rate, rel=1e-3)
    updates = recipe.steps or 30
    assert recipe.milestones == equal_drops(recipe.steps or recipe.epochs, 3)
    assert rates(recipe, updates, 1)[0] == pytest.approx(recipe.lr)


def test_changes_are_of_all_steps_or_of_one_which_wins() -> None:
    found = changes_of(["pretrain.lr=1", "lr=2", "image-size=64"])
    assert found == {
        "teacher": {"lr": "2", "image_size": "64"},
        "pretrain": {"lr": "1", "image_size": "64"},
        "finetune": {"lr": "2", "image_size": "64"},
    }
    with pytest.raises(UsageError, match=r"No step 'pretrian'.* 'pretrain'"):
        changes_of(["pretrian.lr=1"])
    with pytest.raises(UsageError, match=r"takes \[STEP.\]FIELD=VALUE, not 'lr'"):
        changes_of(["lr"])


def test_drops_are_equal_and_fit_into_short_runs() -> None:
    assert equal_drops(14, 13) == tuple(range(1, 14))
    assert equal_drops(3, 13) == (1, 2)
