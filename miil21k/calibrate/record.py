"""The small JSON file that makes the probabilities of one head trustworthy."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from miil21k.decode.heads import HEAD_KINDS
from miil21k.errors import LabelSpaceMismatch, UsageError
from miil21k.files import replace_file
from miil21k.hierarchy.spaces import changed_since
from miil21k.records import StrictJsonError, read_json

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable
    from typing import Literal

    from numpy.typing import NDArray

    from miil21k.decode.decoded import Reading
    from miil21k.decode.heads import HeadKind
    from miil21k.hierarchy.bins import Bins
    from miil21k.hierarchy.concepts import Concepts
    from miil21k.hierarchy.spaces import LabelSpace

__all__ = ["Calibration", "load_calibration", "mask_digest"]

FORMAT = "miil21k-calibration"
VERSION = 1


@dataclass(frozen=True)
class Calibration:
    """What makes the probabilities of one head trustworthy.

    label_space, sha256: name and digest of the tree. model, weights: canonical name and digest of the checkpoint,
    empty if unknown. head: what its logits mean. rule: how a level_softmax head becomes one tree, else empty.
    allowed: digest of the class mask, empty for all classes. temperature: one number, or one per depth for
    level_softmax. thresholds: (accuracy, hedge level in (0, 1]) pairs. samples: how many labels the temperatures and
    the thresholds were fitted on. outcomes: (accuracy, share of the latter samples that were answered, share of these
    answers that were right) at each threshold; empty in files that do not say. concepts: digest of the graph that
    answers on concepts are read on, empty in files that know none; concept_thresholds, concept_outcomes: the like of
    these, for answers of at least `min_bits`. bins: digest of the labels of a user that the images were labelled with,
    empty in files that know none; bin_thresholds, bin_outcomes: the like of these, for answers with such labels.
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
    outcomes: tuple[tuple[float, float, float], ...] = ()
    concepts: str = ""
    concept_thresholds: tuple[tuple[float, float], ...] = ()
    concept_outcomes: tuple[tuple[float, float, float], ...] = ()
    min_bits: float = 1.0
    bins: str = ""
    bin_thresholds: tuple[tuple[float, float], ...] = ()
    bin_outcomes: tuple[tuple[float, float, float], ...] = ()

    def __repr__(self) -> str:
        thresholds = self.thresholds or self.concept_thresholds or self.bin_thresholds
        accuracies = ", ".join(f"{accuracy:g}" for accuracy, _ in thresholds) or "none"
        return f"Calibration({self.model!r}, {self.label_space}, {self.head}, right at least: {accuracies})"

    def knows(self, reading: Reading | Literal["bins"]) -> bool:
        """Return whether the images could calibrate such answers, whatever they could guarantee."""
        return {
            "published": not self.bins or bool(self.thresholds),
            "concepts": bool(self.concepts),
            "bins": bool(self.bins),
        }[reading]

    def threshold(self, accuracy: float, reading: Reading | Literal["bins"] = "published") -> float:
        """Return the hedge level whose answers are correct with at least this probability.

        Raises UsageError when the file holds none for it.
        """
        thresholds = {
            "published": self.thresholds,
            "concepts": self.concept_thresholds,
            "bins": self.bin_thresholds,
        }[reading]
        for known, level in thresholds:
            if math.isclose(known, accuracy, abs_tol=1e-9):
                return level
        held = ", ".join(f"{known:g}" for known, _ in thresholds) or "none"
        where = {"published": "", "concepts": " of answers on concepts", "bins": " of bins"}[reading]
        if not self.knows(reading) and self.bins:
            raise UsageError("This calibration is of bins alone: give these with --bins, or leave --calibration out.")
        raise UsageError(
            f"This calibration holds no threshold for accuracy {accuracy:g}{where}, only for {held}: ask for one of "
            "these, or calibrate again with it (an accuracy that the samples could not guarantee was left out)."
        )

    def require_concepts(self, concepts: Concepts, min_bits: float) -> None:
        """Raise unless the file knows levels for answers on this graph that say at least `min_bits`.

        Raises UsageError where it knows none, or for those of more bits alone, LabelSpaceMismatch for another graph.
        """
        again = self._command("")
        if not self.concepts:
            raise UsageError(f"This calibration knows no levels for answers on concepts: make one that does: {again}")
        if self.concepts != concepts.sha256:
            raise LabelSpaceMismatch(
                f"The calibration was made with another graph of concepts ({self.concepts[:12]}) than that of "
                f"'{concepts.space.name}' here ({concepts.sha256[:12]}): calibrate again: {again}"
            )
        if min_bits < self.min_bits:
            raise UsageError(
                f"The calibration is of answers on concepts that say at least {self.min_bits:g} bits: ask for no less "
                f"than that, not {min_bits:g}."
            )

    def require_bins(self, bins: Bins) -> None:
        """Raise UsageError unless the file knows levels for these labels, with these classes below each."""
        again = f"make one that does, on images in folders named by your labels: {self._command(' --bins BINS.csv')}"
        if not self.bins:
            raise UsageError(f"This calibration knows no levels for bins: {again}")
        if self.bins != bins.sha256:
            raise UsageError(
                f"This calibration knows levels for other bins ({self.bins[:12]}) than these ({bins.sha256[:12]}): "
                f"{again}"
            )

    def _command(self, more: str) -> str:
        return f"miil21k calibrate DATA --model {self.model or 'MODEL'}{more} --output FILE"

    def require(self, space: LabelSpace, head: HeadKind, allowed: NDArray[np.bool_] | None = None) -> None:
        """Raise LabelSpaceMismatch unless the calibration was made for this space, kind of head and class mask."""
        if self.sha256 != space.sha256:
            raise LabelSpaceMismatch(
                f"The calibration is of label space '{self.label_space}' ({self.sha256[:12]}), the head of "
                f"'{space.name}' ({space.sha256[:12]}): calibrate this head with its own labels."
                + (f" {why}" if (why := changed_since(space.name, space.sha256, self.sha256)) else "")
            )
        if self.head != head:
            raise LabelSpaceMismatch(f"The calibration is of a {self.head} head, this head is {head}: calibrate it.")
        if self.allowed != mask_digest(allowed):
            raise LabelSpaceMismatch(
                "The calibration was made with another set of allowed classes (--include-removed-labels, a subtree, "
                "a list): calibrate with the classes that will be allowed."
            )

    def to_json(self) -> str:
        """Return the file's text; equal calibrations give equal bytes."""
        return json.dumps({"format": FORMAT, "version": VERSION, **asdict(self)}, indent=2, sort_keys=True) + "\n"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file, whole or not at all."""
        replace_file(Path(path), self.to_json())


def load_calibration(path: str | os.PathLike[str]) -> Calibration:
    """Return the calibration in a JSON file; raises UsageError when it is none, or of another version."""
    try:
        data = read_json(Path(path))
    except OSError as error:
        raise UsageError(f"The calibration {path} cannot be read: {error.strerror or error}.") from None
    except StrictJsonError:
        raise UsageError(f"{path} is no calibration file: it is not JSON.") from None
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
    thresholds, on_concepts = _pairs(data.pop("thresholds")), _pairs(data.pop("concept_thresholds", ()))
    outcomes, of_concepts = _triples(data.pop("outcomes", ())), _triples(data.pop("concept_outcomes", ()))
    in_bins, of_bins = _pairs(data.pop("bin_thresholds", ())), _triples(data.pop("bin_outcomes", ()))
    min_bits = float(data.pop("min_bits", 1.0))
    first, second = (int(count) for count in data.pop("samples"))
    if not all(value > 0 for value in temperature):
        raise ValueError(f"temperatures {temperature}")
    if not all(0 < accuracy < 1 and 0 < level <= 1 for accuracy, level in (*thresholds, *on_concepts, *in_bins)):
        raise ValueError(f"thresholds {thresholds}, {on_concepts}, {in_bins}")
    if not all(0 <= share <= 1 for outcome in (*outcomes, *of_concepts, *of_bins) for share in outcome):
        raise ValueError(f"outcomes {outcomes}, {of_concepts}, {of_bins}")
    if not 0 <= min_bits < math.inf:
        raise ValueError(f"min_bits {min_bits}")
    if data["head"] not in HEAD_KINDS or not all(isinstance(value, str) for value in data.values()):
        raise ValueError(f"head {data['head']!r}")
    return Calibration(
        **data,
        temperature=temperature,
        thresholds=thresholds,
        samples=(first, second),
        outcomes=outcomes,
        concept_thresholds=on_concepts,
        concept_outcomes=of_concepts,
        min_bits=min_bits,
        bin_thresholds=in_bins,
        bin_outcomes=of_bins,
    )


def _pairs(given: Iterable[Iterable[Any]]) -> tuple[tuple[float, float], ...]:
    return tuple((float(accuracy), float(level)) for accuracy, level in given)


def _triples(given: Iterable[Iterable[Any]]) -> tuple[tuple[float, float, float], ...]:
    return tuple((float(accuracy), float(answered), float(right)) for accuracy, answered, right in given)


def mask_digest(allowed: NDArray[np.bool_] | None) -> str:
    """Return a digest of a class mask, empty when it allows everything."""
    if allowed is None or np.asarray(allowed).all():
        return ""
    return hashlib.sha256(np.packbits(np.asarray(allowed, np.bool_)).tobytes()).hexdigest()
