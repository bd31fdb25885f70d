"""Temperatures and hedge thresholds from labelled logits, and the small JSON file that keeps them.

The guarantee: for a sample drawn like those that the threshold was fitted on, the hedged answer is correct (an ancestor
of the label, the label, below it, or no answer) with at least the wanted probability, averaged over the draw of the
fitting samples. It holds for any model and any number of samples (split conformal prediction).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from miil21k.decode.logits import HEAD_KINDS, check_logits
from miil21k.decode.path import decode_path
from miil21k.decode.probabilities import DEFAULT_RULE, node_probabilities
from miil21k.errors import LabelSpaceMismatch, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from miil21k.decode.logits import HeadKind
    from miil21k.decode.probabilities import Rule
    from miil21k.hierarchy.spaces import LabelSpace
    from miil21k.hierarchy.tree import Tree

__all__ = [
    "Calibration",
    "calibrate",
    "conformal_threshold",
    "fit_temperatures",
    "hedge_scores",
    "load_calibration",
]

FORMAT = "miil21k-calibration"
VERSION = 1
ACCURACIES = (0.8, 0.9, 0.95, 0.99)
COLDEST, HOTTEST = 0.05, 20.0
FEWEST = 30  # labels below which a level has no temperature of its own
BLOCK_VALUES = 1 << 22
STEP = 2e-6  # what decode.hedge forgives, twice: the least by which a threshold must exceed a probability to refuse it


@dataclass(frozen=True)
class Calibration:
    """What makes the probabilities of one head trustworthy.

    label_space, sha256: name and digest of the tree. model, weights: canonical name and digest of the checkpoint, empty
    if unknown. head: what its logits mean. rule: how a level_softmax head becomes one tree. allowed: digest of the class
    mask, empty for all classes. temperature: one number, or one per depth for level_softmax. thresholds: (accuracy,
    hedge level in (0, 1]) pairs. samples: labels that the temperatures and the thresholds were fitted on.
    """

    label_space: str
    sha256: str
    model: str
    weights: str
    head: HeadKind
    rule: str
    allowed: str
    temperature: tuple[float, ...]
    thresholds: tuple[tuple[float, float], ...]
    samples: tuple[int, int]

    def threshold(self, accuracy: float) -> float:
        """Return the hedge level whose answers are correct with at least this probability.

        Raises UsageError when the file holds none for it.
        """
        for known, level in self.thresholds:
            if math.isclose(known, accuracy, abs_tol=1e-9):
                return level
        held = ", ".join(f"{known:g}" for known, _ in self.thresholds) or "none"
        raise UsageError(
            f"This calibration holds no threshold for accuracy {accuracy:g}, only for {held}: ask for one of these, or "
            "calibrate again with it (an accuracy that the samples could not guarantee was left out)."
        )

    def require(self, space: LabelSpace, head: HeadKind, allowed: NDArray[np.bool_] | None = None) -> None:
        """Raise LabelSpaceMismatch unless the calibration was made for this space, kind of head and class mask."""
        if self.sha256 != space.sha256:
            raise LabelSpaceMismatch(
                f"The calibration is of label space '{self.label_space}' ({self.sha256[:12]}), the head of "
                f"'{space.name}' ({space.sha256[:12]}): calibrate this head with its own labels."
            )
        if self.head != head:
            raise LabelSpaceMismatch(f"The calibration is of a {self.head} head, this head is {head}: calibrate it.")
        if self.allowed != mask_digest(allowed):
            raise LabelSpaceMismatch(
                "The calibration was made with another set of allowed classes (--include-removed-labels, a subtree or a "
                "list): calibrate with the classes that will be allowed."
            )

    def to_json(self) -> str:
        """Return the file's text; equal calibrations give equal bytes."""
        return json.dumps({"format": FORMAT, "version": VERSION, **asdict(self)}, indent=2, sort_keys=True) + "\n"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file, whole or not at all."""
        target = Path(path)
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
                file.write(self.to_json())
            Path(temporary).replace(target)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def load_calibration(path: str | os.PathLike[str]) -> Calibration:
    """Return the calibration in a JSON file; raises UsageError when it is none, or of a newer version."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} is no calibration file: {error}.") from None
    if not isinstance(data, dict) or data.pop("format", None) != FORMAT:
        raise UsageError(f"{path} is no calibration file: it lacks 'format': '{FORMAT}'.")
    if data.pop("version", None) != VERSION:
        raise UsageError(f"{path} is a calibration of another version than {VERSION}: calibrate again.")
    try:
        return _checked(data)
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path} is a damaged calibration ({error}): calibrate again.") from None


def _checked(data: dict[str, Any]) -> Calibration:
    temperature = tuple(float(value) for value in data.pop("temperature"))
    thresholds = tuple((float(accuracy), float(level)) for accuracy, level in data.pop("thresholds"))
    first, second = (int(count) for count in data.pop("samples"))
    if not all(math.isfinite(value) and value > 0 for value in temperature):
        raise ValueError(f"temperatures {temperature}")
    if not all(0 < accuracy < 1 and 0 < level <= 1 for accuracy, level in thresholds):
        raise ValueError(f"thresholds {thresholds}")
    if data["head"] not in HEAD_KINDS or not all(isinstance(value, str) for value in data.values()):
        raise ValueError(f"head {data['head']!r}")
    return Calibration(**data, temperature=temperature, thresholds=thresholds, samples=(first, second))


def mask_digest(allowed: NDArray[np.bool_] | None) -> str:
    """Return a digest of a class mask, empty when it allows everything."""
    if allowed is None or np.asarray(allowed).all():
        return ""
    return hashlib.sha256(np.packbits(np.asarray(allowed, np.bool_)).tobytes()).hexdigest()


def calibrate(  # noqa: PLR0913 (what a head is, and what is asked of it)
    space: LabelSpace,
    logits: NDArray[np.floating],
    labels: NDArray[np.integer],
    head: HeadKind,
    *,
    accuracies: Sequence[float] = ACCURACIES,
    rule: Rule = DEFAULT_RULE,
    allowed: NDArray[np.bool_] | None = None,
    model: str = "",
    weights: str = "",
    seed: int = 0,
) -> Calibration:
    """Return the calibration of a head from labelled logits.

    logits: [n, C]. labels: int [n], node indices of `space.tree`. Half of the samples, drawn with `seed`, fit the
    temperatures; the other half fits one hedge level per accuracy, so that the guarantee stays exact. An accuracy that
    so few samples, or this model, cannot guarantee is left out. Raises UsageError for fewer than four samples or an
    accuracy outside (0, 1), LogitsError for logits that cannot be decoded.
    """
    if not all(0 < accuracy < 1 for accuracy in accuracies):
        raise UsageError(f"Accuracies lie between 0 and 1, not {', '.join(map(str, accuracies))}.")
    if len(labels) < 4:
        raise UsageError(f"Calibration needs at least four labelled samples, not {len(labels)}.")
    _check_labels(space.tree, logits, labels)
    order = np.random.default_rng(seed).permutation(len(labels))
    first, second = np.array_split(order, 2)
    temperature = fit_temperatures(space.tree, logits[first], labels[first], head, allowed=allowed)
    scores = np.concatenate(
        [
            hedge_scores(
                space.tree,
                node_probabilities(
                    space.tree,
                    logits[rows],
                    head,
                    allowed=allowed,
                    temperature=temperature if head == "level_softmax" else temperature[0],
                    rule=rule,
                ),
                labels[rows],
            )
            for rows in _blocks(second, space.tree.num_nodes)
        ]
    )
    levels = ((float(accuracy), conformal_threshold(scores, accuracy)) for accuracy in sorted(set(accuracies)))
    return Calibration(
        label_space=space.name,
        sha256=space.sha256,
        model=model,
        weights=weights,
        head=head,
        rule=rule if head == "level_softmax" else "",
        allowed=mask_digest(allowed),
        temperature=temperature,
        thresholds=tuple((accuracy, level) for accuracy, level in levels if level <= 1),
        samples=(first.size, second.size),
    )


def hedge_scores(tree: Tree, node_prob: NDArray[np.float32], labels: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return float64 [B], the probability of the first wrong node on each chain of `decode_path`; 0 if none is wrong.

    A hedged answer is correct exactly when the hedge level refuses that node. node_prob: [B, N]. A node is right when
    it is the label, above it or below it. Source: Goren et al. 2024, 'climbing', on the chain of `decode_path`.
    """
    paths = decode_path(tree, node_prob)
    truth = tree.level_target[labels]
    depth = tree.depth[labels][:, None]
    own = np.where(paths.nodes >= 0, paths.nodes, 0)
    # Right at or above the label's depth: the label's ancestor there. Below: the node passes through the label.
    above = own == np.where(truth >= 0, truth, -2)
    through = np.take_along_axis(tree.level_target[own], depth[:, None, :].repeat(own.shape[1], 1), 2)[..., 0]
    below = through == np.asarray(labels)[:, None]
    wrong = (paths.nodes >= 0) & ~(above | below)
    first = wrong.argmax(1)
    score = np.where(wrong.any(1), paths.probs[np.arange(len(first)), first], 0.0)
    return score.astype(np.float64)


def conformal_threshold(scores: NDArray[np.float64], accuracy: float) -> float:
    """Return the hedge level that refuses all but the share 1 - accuracy of `scores`; infinity when none can.

    It lies just above the ceil((n + 1) accuracy)-th smallest score, so that a new sample's score is below it with
    probability at least `accuracy`, whatever the distribution. With too few samples for that rank there is none.
    """
    rank = math.ceil((scores.size + 1) * accuracy - 1e-9)
    if rank > scores.size:
        return math.inf
    level = float(np.partition(scores, rank - 1)[rank - 1]) + STEP
    return level if level <= 1 else math.inf


def fit_temperatures(
    tree: Tree,
    logits: NDArray[np.floating],
    labels: NDArray[np.integer],
    head: HeadKind,
    *,
    allowed: NDArray[np.bool_] | None = None,
) -> tuple[float, ...]:
    """Return the temperatures in [0.05, 20] of least negative log-likelihood.

    level_softmax: one per depth, from the samples whose label reaches it; a depth with fewer than 30 labels or one
    class takes that of the nearest depth above, the first one 1. leaf_softmax: one, for the probability of the label's
    subtree. sigmoid: one, with a label and its ancestors positive. Classes that are not allowed take no part; samples
    whose label is not allowed are left out.
    """
    checked = check_logits(logits, tree.num_classes)
    mask = np.ones(tree.num_classes, bool) if allowed is None else np.asarray(allowed, bool)
    labels = np.asarray(labels, np.int64)
    if head == "level_softmax":
        return _level_temperatures(tree, checked, labels, mask)
    if head == "leaf_softmax":
        return (_fit_leaf(tree, checked, labels, mask),)
    positive = np.zeros((len(labels), tree.num_nodes), bool)
    chain = tree.level_target[labels]
    rows, columns = np.nonzero(chain >= 0)
    positive[rows, chain[rows, columns]] = True
    positive = positive[:, : tree.num_classes][:, mask]
    values = checked[:, mask]
    return (_minimize(lambda beta: _binary_loss(values, positive, beta)),)


def _level_temperatures(
    tree: Tree, logits: NDArray[np.float32], labels: NDArray[np.int64], mask: NDArray[np.bool_]
) -> tuple[float, ...]:
    found: list[float] = []
    for level in tree.levels:
        classes = level.nodes[level.nodes < tree.num_classes]
        classes = classes[mask[classes]]
        target = tree.level_target[labels, level.depth]
        rows = np.flatnonzero(np.isin(target, classes))
        if rows.size < FEWEST or classes.size < 2:
            found.append(found[-1] if found else 1.0)
            continue
        values = logits[np.ix_(rows, classes)]
        hit = values[np.arange(rows.size), np.searchsorted(classes, target[rows])]
        found.append(_fit_softmax(values, hit))
    return tuple(found)


def _fit_softmax(values: NDArray[np.float32], hit: NDArray[np.float32]) -> float:
    return _minimize(lambda beta: float((_logsumexp(values, beta) - beta * hit).mean()))


def _fit_leaf(tree: Tree, logits: NDArray[np.float32], labels: NDArray[np.int64], mask: NDArray[np.bool_]) -> float:
    subtrees = []
    for label in np.unique(labels):
        below = tree.descendants(int(label))
        below = below[below < tree.num_classes]
        below = below[mask[below]]
        if below.size:
            subtrees.append((np.flatnonzero(labels == label), below))
    if not subtrees:
        return 1.0
    rows = np.concatenate([rows for rows, _ in subtrees])
    values = logits[np.ix_(rows, np.flatnonzero(mask))]
    inside = [logits[np.ix_(rows, below)] for rows, below in subtrees]
    return _minimize(
        lambda beta: float(
            (_logsumexp(values, beta).sum() - sum(_logsumexp(part, beta).sum() for part in inside)) / rows.size
        )
    )


def _binary_loss(values: NDArray[np.float32], positive: NDArray[np.bool_], beta: float) -> float:
    total = 0.0
    for rows in _blocks(np.arange(len(values)), values.shape[1]):
        z = beta * values[rows]
        total += float(np.logaddexp(0, z).sum(dtype=np.float64)) - float(z[positive[rows]].sum(dtype=np.float64))
    return total / max(1, len(values))


def _logsumexp(values: NDArray[np.float32], beta: float) -> NDArray[np.float64]:
    """Return float64 [R], log sum exp(beta values) of each row."""
    result = np.empty(len(values))
    for rows in _blocks(np.arange(len(values)), values.shape[1]):
        z = values[rows] * np.float32(beta)
        top = z.max(axis=1, keepdims=True)
        result[rows] = np.log(np.exp(z - top).sum(axis=1, dtype=np.float64)) + top[:, 0]
    return result


def _minimize(loss: Callable[[float], float]) -> float:
    """Return the temperature 1 / beta of least `loss(beta)`, by golden sections of log beta, to 4 digits."""
    shrink = (math.sqrt(5) - 1) / 2
    low, high = -math.log(HOTTEST), -math.log(COLDEST)
    left, right = high - shrink * (high - low), low + shrink * (high - low)
    at_left, at_right = loss(math.exp(left)), loss(math.exp(right))
    while high - low > 1e-5:
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - shrink * (high - low)
            at_left = loss(math.exp(left))
        else:
            low, left, at_left = left, right, at_right
            right = low + shrink * (high - low)
            at_right = loss(math.exp(right))
    return float(f"{math.exp(-(low + high) / 2):.6g}")


def _check_labels(tree: Tree, logits: NDArray[np.floating], labels: NDArray[np.integer]) -> None:
    given = np.asarray(labels)
    if given.ndim != 1 or given.dtype.kind not in "iu" or len(given) != len(logits):
        raise UsageError(f"Expected {len(logits)} integer labels, not {given.dtype} {list(given.shape)}.")
    if given.min() < 0 or given.max() >= tree.num_nodes:
        raise UsageError(f"Labels must lie in 0..{tree.num_nodes - 1}, not {given.min()}..{given.max()}.")


def _blocks(rows: NDArray[np.int64], width: int) -> list[NDArray[np.int64]]:
    return np.array_split(rows, max(1, -(-rows.size * width // BLOCK_VALUES)))
