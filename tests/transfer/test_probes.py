"""Classifiers on frozen features, against closed forms and scikit-learn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from miil21k.errors import UsageError
from miil21k.transfer.probes import PROBES, UNSEEN, probe
from miil21k.transfer.strength import best_temperature, fit_probe, log_softmax

if TYPE_CHECKING:
    from numpy.typing import NDArray

pytest.importorskip("sklearn")


def _clouds(per_class: int, classes: int = 4, width: int = 12, noise: float = 1.0) -> tuple[NDArray, NDArray]:
    """Return vectors around a centre for each class, far from the origin, as those of a network are."""
    rng = np.random.default_rng(0)
    centres = 2 * rng.standard_normal((classes, width)) + 5
    labels = np.repeat(np.arange(classes), per_class).astype(np.int32)
    return (centres[labels] + noise * rng.standard_normal((len(labels), width))).astype(np.float32), labels


@pytest.mark.parametrize("per_class", [2, 20])
def test_ridge_solves_the_normal_equations_of_scikit_learn(per_class: int) -> None:
    """Fewer vectors than coordinates, and more: the two forms of the closed form."""
    from sklearn.linear_model import Ridge

    values, labels = _clouds(per_class)
    found = PROBES["ridge"].fit(values, labels, 4, 0.3).logits(values)
    scale = np.sqrt(((values - values.mean(0)) ** 2).sum(1).mean())
    model = Ridge(alpha=0.3).fit((values - values.mean(0)) / scale, np.eye(4)[labels])
    assert found == pytest.approx(model.predict((values - values.mean(0)) / scale), abs=2e-5)


@pytest.mark.parametrize("classes", [2, 4])
def test_logistic_regression_gives_the_probabilities_of_scikit_learn(classes: int) -> None:
    from sklearn.linear_model import LogisticRegression

    values, labels = _clouds(20, classes)
    scaled = (values - values.mean(0)) / np.sqrt(((values - values.mean(0)) ** 2).sum(1).mean())
    model = LogisticRegression(C=10, tol=3e-4, max_iter=300).fit(scaled, labels)
    found = np.exp(log_softmax(PROBES["logistic"].fit(values, labels, classes, 0.1).logits(values)))
    assert found == pytest.approx(model.predict_proba(scaled), abs=0.02)


def test_a_neighbour_votes_with_its_cosine() -> None:
    values = np.array([[3, 0], [0, 3], [-3, -3]], np.float32)  # their mean is 0
    found = PROBES["knn"].fit(values, np.array([0, 1, 2]), 4).logits(np.array([[1, 0]], np.float32))
    near = np.exp([0, -1 / 0.05, (-(0.5**0.5) - 1) / 0.05])  # cosines 1, 0 and that of 135 degrees
    assert np.exp(found[0]) == pytest.approx([*(near / near.sum()), 0], abs=2e-6)


def test_ten_neighbours_vote() -> None:
    """All others get the least share."""
    angles = np.linspace(0, 1, 21)
    values = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    found = PROBES["knn"].fit(values - values.mean(0), np.arange(21), 21).logits((values - values.mean(0))[:1])
    assert (found[0] > found[0].min()).sum() == 10


@pytest.mark.parametrize("strength", [0.1, 3.0])
@pytest.mark.parametrize("per_class", [2, 20])
def test_neighbours_are_near_where_the_classes_are_white(
    per_class: int, strength: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fewer vectors than coordinates, and more; whitened by the inverse square root of the whole matrix."""
    values, labels = _clouds(per_class)
    values[:, 0] *= 5
    within = values - np.stack([values[labels == label].mean(0) for label in range(4)])[labels]
    spread = within.T @ within / len(values)
    own = np.linalg.eigvalsh(spread)
    shrunk = spread + strength * own[own > 1e-5].mean() * np.eye(12)
    lengths, axes = np.linalg.eigh(shrunk)
    white = (values - values.mean(0)) @ (axes / np.sqrt(lengths)) @ axes.T
    white /= np.linalg.norm(white, axis=1, keepdims=True)
    votes = np.exp((white @ white.T - 1) / 0.05) @ np.eye(4)[labels]
    monkeypatch.setattr("miil21k.transfer.probes.NEIGHBOURS", len(values))
    found = PROBES["knn"].fit(values, labels, 4, strength).logits(values)
    assert np.exp(found) == pytest.approx(votes / votes.sum(1, keepdims=True), abs=2e-4)


def test_how_far_neighbours_are_whitened_is_chosen_out_of_fold() -> None:
    """Where images of a class differ along one direction most, whitening it away is worth a lot."""
    values, labels = _clouds(20, noise=0.6)
    values[:, 0] += 40 * np.random.default_rng(5).standard_normal(len(values)).astype(np.float32)
    fitted = fit_probe(PROBES["knn"], values, labels, 4)
    found = dict(fitted.scores)
    assert fitted.strength == min(PROBES["knn"].strengths)
    assert found[fitted.strength] > found[max(PROBES["knn"].strengths)]


def test_a_class_without_images_is_never_the_answer_and_costs_no_precision() -> None:
    values, labels = _clouds(5)
    for name in ("ridge", "logistic"):
        found = PROBES[name].fit(values, labels, 6, 1.0).cooled(0.5)
        assert found.bias[4:].tolist() == [UNSEEN, UNSEEN]
        assert np.isfinite(log_softmax(found.logits(values))).all()
        assert found.logits(values).argmax(1).max() <= 3


def test_strength_is_chosen_on_the_training_images_and_answers_are_out_of_fold() -> None:
    """With noise labels, answers out of fold are right by chance alone, however well the classifier fits."""
    rng = np.random.default_rng(1)
    values, labels = rng.standard_normal((120, 150)).astype(np.float32), rng.integers(0, 4, 120)
    fitted = fit_probe(PROBES["ridge"], values, labels, 4, seed=3)
    again = fit_probe(PROBES["ridge"], values, labels, 4, seed=3)
    assert fitted.strength == again.strength
    assert np.array_equal(fitted.out_of_fold, again.out_of_fold)
    assert (fitted.classifier.logits(values).argmax(1) == labels).mean() > 0.6
    assert (fitted.out_of_fold.argmax(1) == labels).mean() < 0.4
    assert len(fitted.scores) == len(PROBES["ridge"].strengths)
    assert max(right for _, right in fitted.scores) == dict(fitted.scores)[fitted.strength]


def test_with_one_image_a_class_the_usual_strength_is_taken() -> None:
    values, labels = _clouds(1)
    fitted = fit_probe(PROBES["logistic"], values, labels, 4)
    assert (fitted.strength, fitted.scores) == (PROBES["logistic"].usual, ())
    assert np.isnan(fitted.out_of_fold).all()
    assert (fitted.classifier.logits(values).argmax(1) == labels).all()


def test_the_temperature_makes_labels_likeliest() -> None:
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((4000, 3)) * 2
    labels = np.array([rng.choice(3, p=np.exp(row)) for row in log_softmax(logits)])
    assert best_temperature(5 * logits, labels) == pytest.approx(5, rel=0.06)


def test_few_images_all_right_leave_some_doubt() -> None:
    """80 images that no classifier has wrong: with one label in 82 in doubt, an answer is sure to 81 / 82."""
    labels = np.arange(80) % 5
    logits = 3.0 * np.eye(5)[labels]
    shares = np.exp(log_softmax(logits / best_temperature(logits, labels)))
    assert shares.max() == pytest.approx(81 / 82, abs=1e-4)


def test_an_unknown_probe_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="Did you mean 'logistic'"):
        probe("logistics")
