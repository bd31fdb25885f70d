from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from shapes import shape_space, write_folders

from miil21k.data.augment import Augmentation
from miil21k.data.datasets import LabelledImages, label_images, open_source
from miil21k.data.loader import EpochSampler, evaluation_loader, training_loader
from miil21k.errors import UsageError
from miil21k.zoo.schema import Preprocess

PREPROCESS = Preprocess((3, 32, 32), "bilinear", 1.0, "squash", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "test")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> LabelledImages:
    root = write_folders(tmp_path_factory.mktemp("folders"), per_class=2)
    (root / "red" / "red_1.jpg").write_bytes(b"damaged")
    return label_images(open_source(str(root)), shape_space())


@given(
    size=st.integers(1, 200),
    batch=st.integers(1, 8),
    world=st.integers(1, 4),
    epoch=st.integers(0, 5),
)
def test_processes_together_see_what_one_process_with_their_batches_sees(
    size: int, batch: int, world: int, epoch: int
) -> None:
    if size < batch * world:
        with pytest.raises(UsageError, match="do not fill one batch"):
            EpochSampler(size, batch, seed=0, world=world)
        return
    single = EpochSampler(size, batch * world, seed=3)
    shares = [EpochSampler(size, batch, seed=3, rank=rank, world=world) for rank in range(world)]
    for sampler in (single, *shares):
        sampler.epoch = epoch
    for whole, *parts in zip(single, *shares, strict=True):
        assert sorted(whole) == sorted(draw for part in parts for draw in part)
    seen = [draw.image for part in single for draw in part]
    assert len(seen) == len(set(seen)) == size // (batch * world) * batch * world


def test_an_epoch_goes_on_from_any_batch_as_if_it_had_never_stopped() -> None:
    sampler = EpochSampler(50, 4, seed=1)
    sampler.epoch = 2
    whole = list(sampler)
    sampler.start = 5
    assert list(sampler) == whole[5:]
    assert len(sampler) == 12 - 5


def test_epochs_and_seeds_shuffle_differently() -> None:
    orders = [tuple(EpochSampler(30, 1, seed=seed).order(epoch)) for seed in range(3) for epoch in range(3)]
    assert len(set(orders)) == 9
    assert all(sorted(order) == list(range(30)) for order in orders)


def test_copies_of_one_image_go_to_different_processes_with_different_augmentation() -> None:
    shares = [EpochSampler(30, 5, seed=0, rank=rank, world=3, repeats=3) for rank in range(3)]
    for parts in zip(*shares, strict=True):
        for copies in zip(*parts, strict=True):
            assert len({draw.image for draw in copies}) == 1
            assert len({draw.position for draw in copies}) == 3


def test_copies_of_one_image_are_side_by_side_in_one_process_and_augmented_apart() -> None:
    batches = list(EpochSampler(30, 6, seed=0, repeats=3))
    drawn = [draw for batch in batches for draw in batch]
    assert len(batches) == 5  # the epoch keeps its length
    assert all(len({draw.image for draw in drawn[start : start + 3]}) == 1 for start in range(0, 30, 3))
    assert len({draw.image for draw in drawn}) == 10
    assert [draw.position for draw in drawn] == list(range(30))


@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_workers_does_not_change_a_batch(images: LabelledImages, workers: int) -> None:
    def epoch(count: int) -> list[torch.Tensor]:
        loader = training_loader(images, Augmentation(32), EpochSampler(len(images), 4, seed=5), count)
        return [batch.images for batch in loader]

    for alone, shared in zip(epoch(0), epoch(workers), strict=True):
        assert torch.equal(alone, shared)


def test_an_unreadable_image_is_left_out_named_and_not_replaced(images: LabelledImages) -> None:
    loader = training_loader(images, Augmentation(32), EpochSampler(len(images), 7, seed=0), workers=0)
    batches = list(loader)
    assert sum(len(batch.labels) for batch in batches) == 27
    (bad,) = [item for batch in batches for item in batch.unreadable]
    assert bad.name == "red/red_1.jpg"
    for batch in batches:
        assert (images.labels[batch.indices.numpy()] == batch.labels.numpy()).all()


@pytest.mark.parametrize("world", [1, 3])
def test_evaluation_sees_every_readable_image_once(images: LabelledImages, world: int) -> None:
    indices: list[int] = []
    bad: list[str] = []
    for rank in range(world):
        for batch in evaluation_loader(images, PREPROCESS, 4, shard=(rank, world)):
            indices += batch.indices.tolist()
            bad += [item.name for item in batch.unreadable]
            assert batch.images.dtype == torch.uint8
    assert bad == ["red/red_1.jpg"]
    assert len(indices) == 27
    assert np.unique(indices).size == 27


def test_images_drawn_alone_may_be_fewer_than_a_batch_and_come_as_often_as_chance_has_it() -> None:
    sampler = EpochSampler(5, 8, seed=3, alone=100)
    draws = [draw.image for batch in sampler for draw in batch]
    assert len(draws) == 800
    assert min(draws.count(image) for image in range(5)) > 120  # 160 on average
    assert draws == [draw.image for batch in EpochSampler(5, 8, seed=3, alone=100) for draw in batch]
    halves = [EpochSampler(5, 4, seed=3, rank=rank, world=2, alone=100) for rank in range(2)]
    shared = [draw.image for pair in zip(*halves, strict=True) for two in zip(*pair, strict=True) for draw in two]
    assert shared == draws
    assert EpochSampler(900, 8, seed=3, alone=100).num_batches == 112
