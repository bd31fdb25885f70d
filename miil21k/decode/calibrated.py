"""What a decoder asks of a calibration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from miil21k.decode.decoded import Reading
    from miil21k.decode.heads import HeadKind
    from miil21k.hierarchy.bins import Bins
    from miil21k.hierarchy.concepts import Concepts
    from miil21k.hierarchy.spaces import LabelSpace

__all__ = ["SupportsCalibration"]


class SupportsCalibration(Protocol):
    """What a decoder asks of a calibration; `miil21k.calibrate.record.Calibration` is one.

    temperature: one number, or one per depth for a level_softmax head. rule: that of a level_softmax head, else empty.
    """

    @property
    def temperature(self) -> tuple[float, ...]: ...  # noqa: D102
    @property
    def rule(self) -> str: ...  # noqa: D102

    def require(self, space: LabelSpace, head: HeadKind, allowed: NDArray[np.bool_] | None) -> None:
        """Raise LabelSpaceMismatch unless it was made for this space, kind of head and mask of classes."""

    def require_concepts(self, concepts: Concepts, min_bits: float) -> None:
        """Raise unless it knows levels for answers of at least so many bits on this graph."""

    def require_bins(self, bins: Bins) -> None:
        """Raise unless it knows levels for these labels."""

    def knows(self, reading: Reading | Literal["bins"]) -> bool:
        """Return whether it knows any level for such answers."""
        ...

    def threshold(self, accuracy: float, reading: Reading | Literal["bins"]) -> float:
        """Return the hedge level whose answers are correct this often; UsageError when it knows none."""
        ...

    def to_json(self) -> str:
        """Return it as text."""
        ...
