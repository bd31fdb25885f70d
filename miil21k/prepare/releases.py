"""The published ImageNet-21K-P releases as facts, and how a prepared data set compares."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from miil21k.errors import UsageError
from miil21k.hierarchy.load import load_label_space

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

__all__ = ["RELEASES", "Release", "compare_with_release", "nearest_release"]


class Release(NamedTuple):
    """Published counts of images. Source: the README of Alibaba-MIIL/ImageNet21K and its dataset_preprocessing."""

    train: int
    val: int


# fall11 has two validation images more than 50 per class; nobody has said why.
RELEASES = {"fall11": Release(11_797_632, 561_052), "winter21": Release(11_060_223, 522_500)}
_FEW = 5


def nearest_release(wnids: Collection[str]) -> str | None:
    """Return the release whose classes overlap most with `wnids` (intersection over union), None without overlap."""
    found = frozenset(wnids)
    overlap = {}
    for name in RELEASES:
        classes = frozenset(load_label_space(name).wnids)
        overlap[name] = len(found & classes) / len(found | classes)
    best = max(overlap, key=lambda name: overlap[name])
    return best if overlap[best] > 0 else None


def compare_with_release(kept: Collection[str], images: Mapping[str, int], name: str = "auto") -> dict[str, Any]:
    """Return the release (None when there is nothing to compare), its missing and extra classes, and deviations.

    kept: the wnids of the kept classes. images: counts under `train` and `val`. name: fall11, winter21, none, or
    auto for the nearest. Every deviation is a sentence. Raises UsageError for another name.
    """
    if name not in (*RELEASES, "none", "auto"):
        raise UsageError(f"No release '{name}': choose one of {', '.join(RELEASES)}, auto or none.")
    chosen = nearest_release(kept) if name == "auto" else None if name == "none" else name
    if chosen is None:
        return {"name": None, "missing": [], "extra": [], "deviations": []}
    classes = frozenset(load_label_space(chosen).wnids)
    missing, extra = sorted(classes - frozenset(kept)), sorted(frozenset(kept) - classes)
    deviations = [
        f"{len(wnids):,} classes of {chosen} {verb}: {_few(wnids)}"
        for wnids, verb in ((missing, "are missing"), (extra, "are not expected"))
        if wnids
    ]
    published = RELEASES[chosen]
    deviations += [
        f"{images.get(place, 0):,} {place} images, published {count:,}"
        for place, count in (("train", published.train), ("val", published.val))
        if images.get(place, 0) != count
    ]
    return {"name": chosen, "missing": missing, "extra": extra, "deviations": deviations}


def _few(wnids: list[str]) -> str:
    return ", ".join(wnids[:_FEW]) + (", ..." if len(wnids) > _FEW else "")
