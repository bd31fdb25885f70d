"""Temperature and hedge levels of a user's own labels, and what they guarantee."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from miil21k.calibrate.bins import calibrate_bins
from miil21k.calibrate.guarantee import calibrate
from miil21k.calibrate.record import Calibration, load_calibration, mask_digest
from miil21k.decode.decoder import Decoder
from miil21k.errors import UsageError
from miil21k.hierarchy.bin_lines import bin_lines
from miil21k.hierarchy.spaces import LabelSpace
from miil21k.hierarchy.tree import Tree

if TYPE_CHECKING:
    from pathlib import Path

    from miil21k.decode.heads import HeadKind

HOT = 2.5
NAMES = ["animal", *(f"{kind}{number}" for kind in ("dog", "cat", "cow") for number in range(4)), "thing"]
BINS = bin_lines(
    [("beast", "animal"), ("pet", "", "beast")]
    + [(kind, f"{kind}{number}", "pet") for kind in ("dog", "cat") for number in range(4)]
)


def space() -> LabelSpace:
    """Return twelve animals below one, and a thing."""
    tree = Tree.from_parents(NAMES, [None, *["animal"] * 12, None])
    return LabelSpace("zoo", tree, tree.names, [""] * tree.num_nodes)


def problem(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return logits whose softmax is right after division by HOT, and which label the class drawn from it has."""
    rng = np.random.default_rng(seed)
    logits = 1.5 * rng.standard_normal((n, len(NAMES)))
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    classes = (probs.cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)
    owner = decoder().bins.owner  # type: ignore[union-attr]
    return (HOT * logits).astype(np.float32), owner[classes]


def decoder(head: HeadKind = "leaf_softmax") -> Decoder:
    return Decoder(space(), head).binned(BINS)


@pytest.fixture(scope="module")
def found() -> Calibration:
    return calibrate_bins(decoder(), *problem(4000, 0), accuracies=(0.6, 0.9, 0.999999), model="m", weights="w")


def test_the_temperature_is_recovered_from_the_labels(found: Calibration) -> None:
    assert found.temperature[0] == pytest.approx(HOT, rel=0.08)
    assert (found.samples, found.model, found.weights) == ((2000, 2000), "m", "w")
    assert (found.thresholds, found.concept_thresholds, found.concepts) == ((), (), "")
    levels = calibrate_bins(decoder("level_softmax"), *problem(200, 1))
    assert levels.temperature == (levels.temperature[0],) * 2
    assert 0.05 < calibrate_bins(decoder("sigmoid"), *problem(200, 1)).temperature[0] < 20


@pytest.mark.parametrize("head", ["leaf_softmax", "sigmoid"])
def test_few_samples_that_are_all_right_make_no_answer_certain(head: HeadKind) -> None:
    classes = np.arange(1, 9).repeat(5)  # dogs and cats
    logits = np.full((40, len(NAMES)), -9, np.float32)
    logits[np.arange(40), classes] = 9
    owner = decoder().bins.owner  # type: ignore[union-attr]
    fitted = calibrate_bins(decoder(head), logits, owner[classes])
    given = decoder(head).calibrated(fitted).read(logits).bins[np.arange(40), owner[classes]]
    assert ((given > 0.93) & (given < 0.99)).all()  # about 21 of 22


def test_further_samples_are_right_or_unanswered_as_often_as_was_guaranteed(found: Calibration) -> None:
    assert [accuracy for accuracy, _ in found.bin_thresholds] == [0.6, 0.9]  # 2,000 samples cannot guarantee more
    logits, labels = problem(20000, 2)
    fixed = decoder().calibrated(found)
    bins = fixed.bins
    assert bins is not None
    for (accuracy, level), (_, answered, right) in zip(found.bin_thresholds, found.bin_outcomes, strict=True):
        read = replace(fixed, hedge=accuracy)
        assert (read.bins_level, read.level) == (level, accuracy)
        path = read.read(logits).bins_path
        given = path.length > 0
        last = path.nodes[np.arange(len(labels)), path.length - 1]
        fine = given & bins.right[labels, last]
        assert (fine | ~given).mean() == pytest.approx(accuracy, abs=0.03)  # 2,000 samples: a deviation of 0.011
        assert (given.mean(), fine.sum() / given.sum()) == pytest.approx((answered, right), abs=0.03)


def test_the_file_holds_it_and_a_decoder_of_other_bins_refuses_it(found: Calibration, tmp_path: Path) -> None:
    found.save(tmp_path / "c.json")
    again = load_calibration(tmp_path / "c.json")
    assert again == found
    assert "right at least: 0.6, 0.9" in repr(again)
    fixed = decoder().calibrated(again)
    assert fixed.notes == ("The calibration is of bins alone: the path stops where P < 0.9, which guarantees nothing.",)
    other = Decoder(space(), "leaf_softmax").binned(BINS[:-1])
    with pytest.raises(UsageError, match=r"levels for other bins .* calibrate DATA --model m --bins BINS.csv --output"):
        other.calibrated(again)
    with pytest.raises(UsageError, match="of bins alone: give these with --bins, or leave --calibration out"):
        Decoder(space(), "leaf_softmax").calibrated(again)
    tree = calibrate(Decoder(space(), "leaf_softmax"), problem(100, 0)[0], np.zeros(100, int), model="m")
    with pytest.raises(UsageError, match=r"knows no levels for bins: .* --model m --bins BINS.csv"):
        decoder().calibrated(tree)
    with pytest.raises(UsageError, match=r"no threshold for accuracy 0.7 of bins, only for 0.6, 0.9"):
        replace(decoder(), hedge=0.7).calibrated(again)


def test_what_cannot_be_calibrated_is_refused() -> None:
    logits, labels = problem(10, 0)
    with pytest.raises(UsageError, match=r"^This decoder has no bins: give it some with binned\(\)\.$"):
        calibrate_bins(Decoder(space(), "leaf_softmax"), logits, labels)
    with pytest.raises(UsageError, match=r"^Calibration needs at least four labelled samples, not 3\.$"):
        calibrate_bins(decoder(), logits[:3], labels[:3])
    with pytest.raises(UsageError, match=r"^Labels must lie in 0\.\.4, the places of beast, pet, dog, cat, other\.$"):
        calibrate_bins(decoder(), logits, labels + 5)
    for wrong in (-1, 5):
        odd = labels.copy()
        odd[3] = wrong
        with pytest.raises(UsageError, match=r"^Labels must lie in 0\.\.4"):
            calibrate_bins(decoder(), logits, odd)


def test_a_calibration_without_more_words_is_of_the_usual_accuracies_and_of_nothing_named() -> None:
    logits, labels = problem(200, 1)
    plain = calibrate_bins(decoder(), logits, labels)
    assert (plain.model, plain.weights) == ("", "")
    assert [accuracy for accuracy, _ in plain.bin_thresholds] == [accuracy for accuracy, _, _ in plain.bin_outcomes]
    assert 0.8 in dict(plain.bin_thresholds)
    assert all(0 < level <= 1 for _, level in plain.bin_thresholds)
    assert plain == calibrate_bins(decoder(), logits, labels, accuracies=(0.8, 0.9, 0.95, 0.99), seed=0)
    tree = calibrate(Decoder(space(), "leaf_softmax"), logits, np.zeros(200, int))
    assert (tree.model, tree.weights) == ("", "")
    assert tree == calibrate(
        Decoder(space(), "leaf_softmax"), logits, np.zeros(200, int), accuracies=(0.8, 0.9, 0.95, 0.99), seed=0
    )


def test_a_calibration_of_bins_says_with_which_classes_rule_and_floor_it_was_made() -> None:
    logits, labels = problem(200, 1)
    fewer = replace(decoder("level_softmax"), min_bits=0.5, rule="min").restricted(exclude="cow0")
    made = calibrate_bins(fewer, logits, labels)
    assert fewer.allowed is not None
    assert (made.allowed, made.min_bits, made.rule) == (mask_digest(fewer.allowed), 0.5, "min")
    assert made.allowed != mask_digest(None) == calibrate_bins(decoder(), logits, labels).allowed
    assert (made.label_space, made.sha256, made.head) == ("zoo", space().sha256, "level_softmax")
    assert calibrate_bins(decoder(), logits, labels).rule == ""


def test_blocks_of_rows_change_no_level_of_bins(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = problem(200, 1)
    whole = calibrate_bins(decoder(), logits, labels)
    monkeypatch.setattr("miil21k.calibrate.bins.row_blocks", lambda rows, _: np.array_split(rows, 4))
    again = calibrate_bins(decoder(), logits, labels)
    assert again.temperature == pytest.approx(whole.temperature, rel=1e-3)
    assert [level for _, level in again.bin_thresholds] == pytest.approx(
        [level for _, level in whole.bin_thresholds], rel=1e-2
    )
    assert again.bin_outcomes == whole.bin_outcomes
