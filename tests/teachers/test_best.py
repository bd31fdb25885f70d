"""The best of every class: against sorting everything, in any order, in any number of runs, and of parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from miil21k.teachers.best import ClassBests, name_digest

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

Offer = tuple[bytes, list[str], list[float]]
Best = dict[str, list[tuple[float, bytes]]]


def offers(count: int, classes: int, seed: int = 0) -> list[Offer]:
    """Return images that offer themselves to four classes each, with many equal scores."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 50, (count, 4)) / 64  # exact in float32; some are 0
    places = np.argsort(rng.random((count, classes)), axis=1)[:, :4]
    return [(f"pool/{n:06d}.jpg".encode(), [f"n{p:08d}" for p in places[n]], scores[n].tolist()) for n in range(count)]


def brute_force(images: Iterable[Offer], most: int) -> Best:
    found: dict[str, dict[bytes, float]] = {}
    for name, wnids, scores in images:
        for wnid, score in zip(wnids, scores, strict=True):
            if score > 0:
                mine = found.setdefault(wnid, {})
                mine[name] = max(score, mine.get(name, 0))
    return {
        wnid: sorted(((s, n) for n, s in mine.items()), key=lambda one: (-one[0], name_digest(one[1])))[:most]
        for wnid, mine in sorted(found.items())
    }


def kept(bests: ClassBests) -> Best:
    return {
        best.wnid: [(float(s), name) for s, name in zip(best.scores, best.names, strict=True)]
        for best in bests.merged()
    }


def filled(folder: Path, images: Iterable[Offer], most: int, memory: int = 10**9) -> ClassBests:
    bests = ClassBests(folder, most, memory)
    for offer in images:
        bests.add(*offer)
    bests.flush()
    return bests


@pytest.mark.parametrize(("most", "memory"), [(5, 10**9), (5, 1), (700, 1), (700, 10**9), (10**6, 10**9)])
def test_the_best_are_those_of_sorting_everything_in_any_memory(tmp_path: Path, most: int, memory: int) -> None:
    images = offers(8_000, 20)
    bests = filled(tmp_path, images, most, memory)
    assert kept(bests) == brute_force(images, most)
    assert (bests.spilled > 0) == (memory == 1 and most == 700)


def test_the_order_of_the_stream_is_no_matter_and_a_name_counts_once(tmp_path: Path) -> None:
    images = offers(3_000, 8)
    twice = [(name, wnids, [score / 2 for score in scores]) for name, wnids, scores in images[:500]]
    first = kept(filled(tmp_path / "a", [*images, *twice], 40))
    second = kept(filled(tmp_path / "b", [*twice, *reversed(images)], 40, 1))
    assert first == second == brute_force(images, 40)


def test_the_best_of_parts_merged_are_the_best_of_the_whole(tmp_path: Path) -> None:
    images = offers(4_000, 8)
    whole = brute_force(images, 30)
    merged = ClassBests(tmp_path / "merged", 30, 10**9)
    for part in range(4):
        for wnid, found in kept(filled(tmp_path / str(part), images[part::4], 30)).items():
            for score, name in found:
                merged.add(name, [wnid], [score])
    merged.flush()
    assert kept(merged) == whole


def test_runs_are_merged_before_they_are_many_and_only_recorded_ones_count_after_a_kill(tmp_path: Path) -> None:
    images = offers(6_000, 6)
    bests = ClassBests(tmp_path, 500, 10**9)
    for start in range(0, 6_000, 300):  # 20 runs
        for offer in images[start : start + 300]:
            bests.add(*offer)
        bests.flush()
        if start == 3_000:
            recorded = list(bests.runs)
    assert len(bests.runs) < 6
    assert len(list(tmp_path.iterdir())) > len(bests.runs), "what is merged stays until it is recorded"
    bests.drop_superseded()
    assert kept(bests) == brute_force(images, 500)
    assert len(recorded) == 11
    late = ClassBests(tmp_path, 500, 10**9, bests.runs)
    assert kept(late) == brute_force(images, 500)
    late.add(b"late", ["n00000001"], [99.0])
    late.flush()
    assert kept(late)["n00000001"][0] == (99.0, b"late")
    assert {path.name for path in tmp_path.iterdir()} == set(late.runs)


def test_a_score_that_cannot_be_among_the_best_takes_no_memory(tmp_path: Path) -> None:
    bests = filled(tmp_path, offers(3_000, 4), 10)
    before = bests.used()
    for number in range(2_000):
        bests.add(f"later/{number}".encode(), ["n00000001"], [0.001])
    assert before == bests.used() == 0
