"""Resizing as slowly and plainly as it can be written."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def antialiased(pixels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.float64]:
    """Return [height, width, 3]: each value a triangle-weighted mean over all source pixels that it covers."""
    rows, columns = _triangle(pixels.shape[0], height), _triangle(pixels.shape[1], width)
    return np.einsum("ia,jb,abc->ijc", rows, columns, pixels.astype(np.float64), optimize=True)


def _triangle(source: int, target: int) -> NDArray[np.float64]:
    scale = source / target
    reach = max(scale, 1.0)
    centres = (np.arange(target)[:, None] + 0.5) * scale - 0.5
    weights = np.maximum(0, 1 - np.abs(np.arange(source)[None, :] - centres) / reach)
    return weights / weights.sum(axis=1, keepdims=True)


def bilinear(pixels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.float64]:
    """Return [height, width, 3]: each value between the four source pixels nearest to its centre, all others unused."""
    y = np.clip((np.arange(height) + 0.5) * pixels.shape[0] / height - 0.5, 0, pixels.shape[0] - 1)
    x = np.clip((np.arange(width) + 0.5) * pixels.shape[1] / width - 0.5, 0, pixels.shape[1] - 1)
    top, left = np.floor(y).astype(int), np.floor(x).astype(int)
    below, right = np.minimum(top + 1, pixels.shape[0] - 1), np.minimum(left + 1, pixels.shape[1] - 1)
    down, across = (y - top)[:, None, None], (x - left)[None, :, None]
    values = pixels.astype(np.float64)
    upper = values[top][:, left] * (1 - across) + values[top][:, right] * across
    lower = values[below][:, left] * (1 - across) + values[below][:, right] * across
    return upper * (1 - down) + lower * down
