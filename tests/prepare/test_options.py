"""Options that make no sense are refused before any work."""

from __future__ import annotations

from typing import Any

import pytest

from miil21k.errors import UsageError
from miil21k.prepare.options import PrepareOptions
from miil21k.prepare.releases import RELEASES, compare_with_release, nearest_release


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "crop"}, "mode must be squish or short-edge or keep, not 'crop'"),
        ({"val_per_class": -1}, "val_per_class must be at least 0, not -1"),
        ({"size": 0}, "size lies between 1 and 65500, not 0"),
        ({"quality": 101}, "quality lies between 1 and 100, not 101"),
        ({"shard_size": 0}, "shard_size must be at least 1, not 0"),
        ({"min_images": 49}, "A class of 50 images would be kept, and 50 of them taken for validation"),
    ],
)
def test_senseless_values_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        PrepareOptions(**options)


def test_published_counts_fit_the_label_spaces() -> None:
    from miil21k.hierarchy.load import load_label_space

    for name, release in RELEASES.items():
        assert 0 <= release.val - 50 * load_label_space(name).num_classes <= 2
        full = compare_with_release(load_label_space(name).wnids, {"train": release.train, "val": release.val}, "auto")
        assert full == {"name": name, "missing": [], "extra": [], "deviations": []}
    assert RELEASES["winter21"].val == 50 * 10_450
    assert nearest_release(["mine"]) is None
    assert compare_with_release(["n02084071"], {}, "none")["deviations"] == []
    with pytest.raises(UsageError, match="No release 'spring22'"):
        compare_with_release([], {}, "spring22")
