"""How well a share that was counted is known."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["TWO_SIDED", "wilson_interval"]

TWO_SIDED = 1.959964  # both ends hold together with 95 %


def wilson_interval(
    share: ArrayLike, count: ArrayLike, z: float = TWO_SIDED
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the ends of the Wilson interval (Wilson 1927) of `share` among `count` (at least 1) trials.

    share: in [0, 1], of any shape; count: of the same. z: how many standard deviations, by default those of 95 %.
    """
    share, count = np.asarray(share, np.float64), np.asarray(count)
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * np.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    # At 0 and 1 the formula ends there exactly, but for rounding.
    return np.minimum(centre - half, share), np.maximum(centre + half, share)
