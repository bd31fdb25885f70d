"""Logits before they are decoded: their check, masks of classes, temperatures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from miil21k.errors import LogitsError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike, NDArray

    from miil21k.hierarchy.tree import Tree

__all__ = ["check_allowed", "check_logits", "finite_blocks", "inverse_temperature"]


def check_logits(logits: ArrayLike, num_classes: int) -> NDArray[np.float32]:
    """Return `logits` as float32 [B, num_classes], unchanged when they already are that.

    logits: [B, num_classes] of any float or integer dtype, B may be 0. Raises LogitsError for another
    shape or dtype, and for NaN, +inf or -inf, naming the first row that holds one. -inf is no way to
    mask a class: masks are an argument, so that they can be recorded.
    """
    return finite(check_shape(logits, num_classes))


def finite_blocks(
    logits: ArrayLike, num_classes: int, block_values: int
) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Yield the rows of `logits` in slices of about `block_values` values, checked as by `check_logits`.

    A block is checked right before it is used, so that it is read from memory once.
    """
    given = check_shape(logits, num_classes)
    step = max(1, block_values // max(1, num_classes))
    for start in range(0, len(given), step):
        rows = slice(start, min(start + step, len(given)))
        yield rows, finite(given[rows], start)


def check_shape(logits: ArrayLike, num_classes: int) -> NDArray[np.floating | np.integer]:
    """Return `logits` as an array [B, num_classes] of real numbers; raises LogitsError otherwise."""
    given = np.asarray(logits)
    if given.ndim != 2 or given.shape[1] != num_classes:
        hint = "; add a batch axis with logits[None]" if given.shape == (num_classes,) else ""
        raise LogitsError(f"Logits must have the shape [batch, {num_classes}], not {list(given.shape)}{hint}.")
    if given.dtype.kind not in "fiu":
        raise LogitsError(f"Logits must be real numbers, not {given.dtype}.")
    return given


def finite(given: NDArray[np.floating | np.integer], first_row: int = 0) -> NDArray[np.float32]:
    """Return `given` [R, C] as float32; raises LogitsError, counting rows from `first_row`, where it is not finite."""
    with np.errstate(over="ignore"):
        checked = given.astype(np.float32, copy=False)
    usable = np.isfinite(checked)
    if not usable.all():
        row = int(np.flatnonzero(~usable.all(axis=1))[0])
        bad = np.flatnonzero(~usable[row])
        raise LogitsError(
            f"Row {first_row + row} of the logits holds {float(given[row, bad[0]])} at class {bad[0]} (the first of "
            f"{bad.size} such values in that row); decoding in float32 needs finite logits. Mask classes with "
            "`allowed` instead."
        )
    return checked


def check_allowed(tree: Tree, allowed: ArrayLike | None) -> NDArray[np.bool_] | None:
    """Return `allowed` as bool [C], or None when it allows every class.

    Raises UsageError for another shape or dtype, or when no class is left.
    """
    if allowed is None:
        return None
    mask = np.asarray(allowed)
    if mask.shape != (tree.num_classes,) or mask.dtype != np.bool_:
        raise UsageError(
            f"A class mask must be a bool array of shape [{tree.num_classes}], not {mask.dtype} {list(mask.shape)}."
        )
    if not mask.any():
        raise UsageError("The class mask allows no class at all; at least one must remain.")
    return None if mask.all() else mask


def inverse_temperature(temperature: ArrayLike | None, num_levels: int) -> NDArray[np.float32]:
    """Return float32 [num_levels], the factor 1 / T by which the logits of each level are multiplied.

    temperature: None (1 everywhere), one number, or one number per level. Raises UsageError unless
    every temperature is finite and positive.
    """
    given = np.asarray(1.0 if temperature is None else temperature, dtype=np.float64)
    if given.shape not in ((), (num_levels,)):
        raise UsageError(f"Give one temperature, or one per level ({num_levels}), not an array of {list(given.shape)}.")
    with np.errstate(all="ignore"):
        factor = (1.0 / given).astype(np.float32)
    if not (np.isfinite(factor) & (factor > 0)).all():
        raise UsageError(f"Temperatures must be finite and greater than 0, not {given}.")
    return np.broadcast_to(factor, (num_levels,))
