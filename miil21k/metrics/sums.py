"""Metrics as sums over samples, so that parts of a data set can be added up without loss.

Every metric has `update` (add a batch; `weights` [B] say how much each sample counts), `merge` (add another part, of
another process or another run), `state_dict` and `load_state_dict` (plain arrays), and `compute` (fractions by name).
Processes that see disjoint samples get the figures of one process that sees them all; a sampler that pads with
duplicates would not be exact, so use none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from miil21k.errors import LogitsError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["Sums", "check_batch", "check_labels", "check_weights", "count", "ratio", "total"]


class Sums:
    """Base of the metrics: named arrays of counts (int64) and sums (float64) that are added up."""

    def __init__(self, **zeros: NDArray[Any]) -> None:
        self._sums: dict[str, NDArray[Any]] = zeros

    def __getitem__(self, name: str) -> NDArray[Any]:
        """Return the array called `name`."""
        return self._sums[name]

    def add(self, name: str, value: NDArray[Any] | float) -> None:
        """Add `value` to the array called `name`, which takes fractions from the first weighted batch on."""
        self._sums[name] = self._sums[name] + value

    def merge(self, other: Sums) -> None:
        """Add the samples of `other`, a metric of the same kind over the same tree."""
        before = self.state_dict()
        self.load_state_dict(other.state_dict())  # refuses a metric of another kind
        for name, array in before.items():
            self.add(name, array)

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Return copies of the arrays, for a file or another process."""
        return {name: array.copy() for name, array in self._sums.items()}

    def load_state_dict(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Replace the arrays by those of `state`; raises UsageError when they are not of this metric."""
        found = {name: (array.shape, array.dtype.kind in "if") for name, array in state.items()}
        expected = {name: (array.shape, True) for name, array in self._sums.items()}
        if found != expected:
            shapes = {name: shape for name, (shape, _) in expected.items()}
            has = {name: (array.shape, str(array.dtype)) for name, array in state.items()}
            raise UsageError(f"This is no state of {type(self).__name__}: expected {shapes}, found {has}.")
        self._sums = {name: array.copy() for name, array in state.items()}

    def compute(self) -> dict[str, float]:
        """Return the metrics by name."""
        raise NotImplementedError


def check_batch(
    values: NDArray[np.floating], labels: NDArray[np.integer], width: int, num_labels: int | None = None
) -> NDArray[np.int64]:
    """Return `labels` as int64 [B]; `values` must be finite [B, width] and labels in 0..num_labels-1 (of `width`).

    Raises LogitsError for values of another shape or that are not finite, UsageError for other labels.
    """
    if values.ndim != 2 or values.shape[1] != width:
        raise LogitsError(f"Expected values of shape [batch, {width}], not {list(values.shape)}.")
    if not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values).all(1))[0])
        raise LogitsError(f"Row {row} holds values that are NaN or infinite.")
    return check_labels(labels, len(values), width if num_labels is None else num_labels)


def check_labels(labels: NDArray[np.integer], batch: int, width: int) -> NDArray[np.int64]:
    """Return `labels` as int64 [batch]; raises UsageError for another shape or an index outside 0..width-1."""
    given = np.asarray(labels)
    if given.shape != (batch,) or given.dtype.kind not in "iu":
        raise UsageError(f"Expected {batch} integer labels, not {given.dtype} {list(given.shape)}.")
    if batch and (given.min() < 0 or given.max() >= width):
        raise UsageError(f"Labels must lie in 0..{width - 1}, not {int(given.min())}..{int(given.max())}.")
    return given.astype(np.int64)


def check_weights(weights: NDArray[np.floating] | None, batch: int) -> NDArray[np.float64] | None:
    """Return `weights` as float64 [batch]; raises UsageError for another shape, a negative or an infinite one."""
    if weights is None:
        return None
    given = np.asarray(weights, np.float64)
    if given.shape != (batch,) or not (np.isfinite(given) & (given >= 0)).all():
        raise UsageError(f"Expected {batch} weights that are finite and not negative, not {list(given.shape)}.")
    return given


def total(values: Any, weights: NDArray[np.floating] | None) -> Any:
    """Return the sum of `values` [B, ...] over the samples, each as often as its weight says."""
    return values.sum(0) if weights is None else np.tensordot(weights, values, 1)


def count(batch: int, weights: NDArray[np.floating] | None) -> float:
    """Return how much the samples of a batch count together."""
    return batch if weights is None else float(weights.sum())


def ratio(part: float, whole: float) -> float:
    """Return part / whole, or NaN when nothing was counted."""
    return float(part) / float(whole) if whole else float("nan")
