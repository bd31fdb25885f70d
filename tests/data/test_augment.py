from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from shapes import draw_shape

from miil21k.data import augment
from miil21k.data.augment import Augmentation, cutout, miil_rand_augment, mix_seed, seeded
from miil21k.errors import UsageError
from miil21k.train.recipes import RECIPES


def _picture() -> Image.Image:
    return draw_shape("red_square", np.random.default_rng(0), size=64)


@pytest.mark.parametrize(
    "augmentation",
    [
        Augmentation(32),
        Augmentation(32, crop="random", policy="rand-m7-mstd0.5-inc1", cutout=0, hflip=0.5, interpolation="bicubic"),
        Augmentation(32, policy="v0", cutout=0, hflip=0.5),
        Augmentation(32, policy="", cutout=0, color_jitter=0.4),
    ],
    ids=["miil", "usi", "finetune", "jitter"],
)
def test_the_seed_alone_decides_and_global_generators_are_left_alone(augmentation: Augmentation) -> None:
    first = augmentation(_picture(), 7)
    random.seed(1)
    torch.manual_seed(1)
    before = random.getstate(), torch.get_rng_state()
    again = augmentation(_picture(), 7)
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    assert first.shape == (3, 32, 32)
    assert np.array_equal(first, again)
    others = [augmentation(_picture(), seed) for seed in range(20)]
    assert sum(not np.array_equal(first, other) for other in others) > 10


def test_seeds_differ_by_every_part_and_by_their_order() -> None:
    seeds = {mix_seed(a, b, c) for a in range(10) for b in range(10) for c in range(10)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_cutout_fills_a_quarter_of_the_image_at_most_and_with_one_colour() -> None:
    image = Image.new("RGB", (100, 100), (1, 2, 3))
    shares = []
    for seed in range(200):
        changed = np.asarray(cutout(image, 0.5, random.Random(seed)))
        outside = (changed == (1, 2, 3)).all(-1)
        shares.append(1 - outside.mean())
        assert len(np.unique(changed[~outside], axis=0)) == 1
    # Pillow's rectangle includes its right and bottom edge: at most 51 x 51 of 100 x 100 pixels.
    assert max(shares) == pytest.approx(0.51**2)
    # Mean share of a box of side s whose centre is uniform: (s - s^2 / 4)^2 = 0.1914, a little more with the edge.
    assert np.mean(shares) == pytest.approx(0.197, abs=0.015)


def test_the_published_rand_augment_applies_one_operation_on_average(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: Counter[int] = Counter()
    magnitudes: set[float] = set()

    def record(number: int):
        def operation(image: Image.Image, magnitude: float, rng: random.Random) -> Image.Image:
            calls[number] += 1
            magnitudes.add(round(magnitude * 9))
            return image

        return operation

    assert len(augment._OPERATIONS) == 15
    monkeypatch.setattr(augment, "_OPERATIONS", tuple(record(number) for number in range(15)))
    for seed in range(3000):
        miil_rand_augment(_picture(), random.Random(seed))
    assert sum(calls.values()) / 3000 == pytest.approx(1, abs=0.05)
    assert set(calls) == set(range(15))
    assert max(calls.values()) / min(calls.values()) < 1.5
    assert magnitudes == set(range(1, 10))


def test_every_operation_of_the_published_rand_augment_works_at_both_ends() -> None:
    image = _picture()
    for operation in augment._OPERATIONS:
        for magnitude in (1 / 9, 1.0):
            changed = operation(image, magnitude, random.Random(3))
            assert changed.size == image.size
            assert changed.mode == "RGB"
    assert (np.asarray(augment._solarize(image, 1.0, random.Random(0))) == 255 - np.asarray(image)).all()
    posterized = np.asarray(augment._posterize(image, 1.0, random.Random(0)))
    assert (posterized == np.asarray(image) & 0xF0).all()


def test_squash_keeps_the_whole_image_whatever_its_shape() -> None:
    image = Image.new("RGB", (200, 50), (10, 20, 30))
    array = Augmentation(16, policy="", cutout=0)(image, 0)
    assert array.shape == (3, 16, 16)
    assert (array == np.array([10, 20, 30], np.uint8)[:, None, None]).all()


def test_a_resized_crop_is_a_window_of_the_squashed_image_at_every_place() -> None:
    columns = np.broadcast_to(np.arange(24, dtype=np.uint8)[None, :, None] * 10, (24, 24, 3))
    augmentation = Augmentation(16, crop="resized", resize=24, policy="", cutout=0.0)
    starts = set()
    for seed in range(200):
        array = augmentation(Image.fromarray(np.ascontiguousarray(columns)), seed)
        first = int(array[0, 0, 0])
        assert (array == first + np.arange(16, dtype=np.uint8) * 10).all()
        starts.add(first // 10)
    assert starts == set(range(9))


def test_an_unknown_policy_is_refused_before_any_image_is_read() -> None:
    with pytest.raises(UsageError, match="'ranb-m7' is no augmentation policy"):
        Augmentation(32, policy="ranb-m7").check()
    Augmentation(32, policy="rand-m7-mstd0.5-inc1").check()


POLICIES = ("miil", "v0", "original", "3a", "rand-m7-mstd0.5-inc1", "rand-m10-mstd1-inc1", "augmix-m5")


@pytest.mark.parametrize("policy", [*sorted({recipe.policy for recipe in RECIPES.values()} - set(POLICIES)), *POLICIES])
def test_no_policy_raises_or_paints_a_picture_black_in_2000_seeds(policy: str) -> None:
    noise = np.random.default_rng(0).integers(64, 256, (6, 8, 3), dtype=np.uint8)
    noise[0, 0] = 255  # the brightest bit is set, so that no number of kept bits above 0 can leave black alone
    augmentation = Augmentation(8, policy=policy, cutout=0.0)
    brightest = [int(augmentation(Image.fromarray(noise), seed).max()) for seed in range(2000)]
    assert min(brightest) > 0


def test_a_policy_that_would_keep_no_bit_keeps_the_highest_one() -> None:
    augmentation = Augmentation(8, policy="v0", cutout=0.0)
    operations = {op.name: op for op in augment._operations(augmentation._stages[1]) if op.name == "Posterize"}
    assert [operations["Posterize"].level_fn(level, {}) for level in (0, 2, 6)] == [(1,), (1,), (2,)]


def test_seeded_gives_the_same_draws_of_all_three_generators() -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002 (as timm does)

    with seeded(5):
        first = draw()
    draw()
    with seeded(5):
        assert draw() == first
