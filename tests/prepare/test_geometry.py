"""Sizes: the published rules."""

from __future__ import annotations

import pytest

from miil21k.prepare.geometry import decode_fraction, target_dimensions
from miil21k.prepare.options import PrepareOptions

SQUISH, SHORT = PrepareOptions(), PrepareOptions(mode="short-edge")


@pytest.mark.parametrize(
    ("options", "source", "target"),
    [
        (SQUISH, (223, 223), None),
        (SQUISH, (224, 10), (224, 224)),
        (SQUISH, (4000, 3000), (224, 224)),
        (PrepareOptions(size=128), (127, 128), (128, 128)),
        (SHORT, (255, 255), None),
        (SHORT, (500, 375), (341, 256)),
        (SHORT, (375, 500), (256, 341)),
        (SHORT, (256, 100), (655, 256)),  # enlarged, as published
        (PrepareOptions(mode="keep"), (4000, 3000), None),
    ],
)
def test_images_are_copied_below_the_size_and_resized_from_it_on(
    options: PrepareOptions, source: tuple[int, int], target: tuple[int, int] | None
) -> None:
    assert target_dimensions(*source, options) == target


@pytest.mark.parametrize(
    ("source", "k"), [((447, 900), 1), ((448, 448), 2), ((895, 2000), 2), ((896, 896), 4), ((9000, 1792), 8)]
)
def test_a_jpeg_is_never_decoded_below_the_size(source: tuple[int, int], k: int) -> None:
    assert decode_fraction(*source, (224, 224)) == k
