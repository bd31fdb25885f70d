"""Average precision of every label, and its mean (mAP), for images of any number of labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from miil21k.errors import LogitsError, UsageError
from miil21k.metrics.sums import check_weights

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["AveragePrecision", "average_precision"]


def average_precision(
    scores: NDArray[np.floating], targets: NDArray[np.bool_], weights: NDArray[np.floating] | None = None
) -> float:
    """Return the sum over thresholds of (R_n - R_{n-1}) P_n for scores [N]; NaN without a positive.

    targets: bool [N]. weights: how much each sample counts, [N]. Samples of one score pass the threshold together, and
    nothing is interpolated, as in scikit-learn's `average_precision_score`.
    """
    counts = np.ones(len(scores)) if weights is None else np.asarray(weights, np.float64)
    counted = counts > 0
    scores, targets, counts = scores[counted], targets[counted], counts[counted]
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.diff(scores[order], append=-np.inf) != 0)  # of each run of equal scores
    found = np.cumsum(counts[order] * targets[order])[last]
    answered = np.cumsum(counts[order])[last]
    if not found.size or not found[-1]:
        return float("nan")
    return float((np.diff(found, prepend=0.0) / found[-1] * (found / answered)).sum())


class AveragePrecision:
    """Scores and targets of all samples, from which the exact figures are computed.

    `mAP`: the mean of the average precision over the labels that a sample has; `mAP_micro`: the average precision of
    all pairs of sample and label at once; `labels`: how many have a sample. Parts of a data set, and the processes of
    a distributed run, are put together by `merge` and `state_dict`, as those of `Sums`. Memory: 5 bytes for each pair
    of sample and label.
    """

    def __init__(self, num_labels: int) -> None:
        self.num_labels = num_labels
        self._parts: list[dict[str, NDArray[np.generic]]] = []

    def update(
        self,
        scores: NDArray[np.floating],
        targets: NDArray[np.bool_],
        weights: NDArray[np.floating] | None = None,
    ) -> None:
        """Add a batch: scores [B, L], finite, larger for more probable; targets: bool [B, L]; weights: [B].

        Raises LogitsError for scores of another shape or that are not finite, UsageError for other targets.
        """
        if scores.ndim != 2 or scores.shape[1] != self.num_labels or not np.isfinite(scores).all():
            raise LogitsError(f"Expected finite scores of shape [batch, {self.num_labels}], not {list(scores.shape)}.")
        if targets.shape != scores.shape or targets.dtype != np.bool_:
            raise UsageError(f"Expected bool targets {list(scores.shape)}, not {targets.dtype} {list(targets.shape)}.")
        counts = check_weights(weights, len(scores))
        counts = np.ones(len(scores)) if counts is None else counts
        self._parts.append({"scores": scores.astype(np.float32), "targets": targets, "weights": counts})

    def merge(self, other: AveragePrecision) -> None:
        """Add the samples of `other`, over the same labels."""
        if other.num_labels != self.num_labels:
            raise UsageError(f"Average precision over {other.num_labels} labels is none over {self.num_labels}.")
        self._parts += other._parts

    def state_dict(self) -> dict[str, NDArray[np.generic]]:
        """Return the arrays, for a file or another process."""
        if not self._parts:
            empty = np.empty((0, self.num_labels))
            return {"scores": empty.astype(np.float32), "targets": empty.astype(bool), "weights": np.empty(0)}
        return {name: np.concatenate([part[name] for part in self._parts]) for name in self._parts[0]}

    def load_state_dict(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Replace the samples by those of `state`; raises UsageError when they are not of this metric."""
        found = {name: array.shape[1:] for name, array in state.items()}
        if found != {"scores": (self.num_labels,), "targets": (self.num_labels,), "weights": ()}:
            raise UsageError(f"This is no state of AveragePrecision over {self.num_labels} labels: {found}.")
        self._parts = [dict(state)]

    @property
    def per_label(self) -> NDArray[np.float64]:
        """float64 [L], the average precision of each label; NaN where no sample has it."""
        scores, targets, weights = self._arrays()
        each = [average_precision(scores[:, at], targets[:, at], weights) for at in range(self.num_labels)]
        return np.array(each, np.float64)

    @property
    def positives(self) -> NDArray[np.int64]:
        """int64 [L], how many samples have each label."""
        return np.asarray(self._arrays()[1].sum(0), np.int64)

    def _arrays(self) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.float64]]:
        state = self.state_dict()
        return (
            np.asarray(state["scores"], np.float32),
            np.asarray(state["targets"], np.bool_),
            np.asarray(state["weights"], np.float64),
        )

    def compute(self) -> dict[str, float]:
        """Return the metrics by name; NaN where no sample has a label."""
        each = self.per_label
        seen = each[~np.isnan(each)]
        scores, targets, weights = self._arrays()
        micro = average_precision(scores.ravel(), targets.ravel(), np.repeat(weights, self.num_labels))
        return {
            "mAP": float(seen.mean()) if seen.size else float("nan"),
            "mAP_micro": micro,
            "labels": float(seen.size),
        }
