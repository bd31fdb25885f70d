"""How often two exports of one network give the same answer, and how much faster one of them is."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from math import erf, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from miil21k.data.transforms import normalise

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from miil21k.decode.decoded import Decoded
    from miil21k.decode.decoder import Decoder
    from miil21k.runtime.base import Backend
    from miil21k.zoo.schema import Preprocess

__all__ = ["FASTER", "Agreeing", "Agreement", "crops_to_logits", "speed_ratios"]

SPEED_BATCHES = (1, 8)
BEST = 5  # classes of an image, among which rounding may change the order
LEAST = 1e-30  # of a probability, so that its log is finite
FASTER = 1.05  # a ratio below this is no speed-up: the best of a few turns varies by as much


@dataclass(frozen=True)
class Agreement:
    """How two sets of logits for the same images compare.

    images: how many. top1, path, hedged: share of images whose best class, whole path, hedged node is the same, as the
    export reads them: on concepts the path is the way down to the hedged one.
    expected: the share of equal best classes that the sizes of all changes let expect, see `Agreeing`.
    expected_error: its standard error, as far as these images are a sample of others like them.
    logits: largest difference of a logit. logits_relative: the same, relative to the range of the exact logits.
    noise: root mean square difference, relative to the standard deviation of the exact logits.
    asked: largest difference of a probability that the export is asked for, or of a label of its bins; None without.
    """

    images: int
    top1: float
    path: float
    hedged: float
    expected: float
    expected_error: float
    logits: float
    logits_relative: float
    noise: float
    asked: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the figures under their names, rounded to what they can mean."""
        figures = {key: value for key, value in asdict(self).items() if value is not None}
        return {key: value if key == "images" else float(f"{value:.4g}") for key, value in figures.items()}

    def __str__(self) -> str:
        return f"top-1 {self.top1:.1%}, path {self.path:.1%}, hedged node {self.hedged:.1%} of {self.images} images"


class Agreeing:
    """Counts agreement batch by batch; the answers are those of a decoder with a hedge level, the export's own.

    A few dozen images say little about how often the best class changes, since few do; how near all of them come to it
    says more. Where the leads of the best class over the next four, in logs of probabilities, move by normal noise
    whose root mean square is that of all images, the best class of each image stays with a known probability.
    `expected` is the mean of these, `expected_error` the standard error of that mean.
    """

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._same = np.zeros(3, np.int64)
        self._count = self._values = 0
        self._largest = self._squares = self._sum = self._squared = 0.0
        self._low, self._high = np.inf, -np.inf
        self._leads: list[NDArray[np.float64]] = []
        self._moves = 0.0
        self._asked = 0.0

    def add(self, exact: NDArray[np.float32], found: NDArray[np.float32]) -> None:
        """Count a batch of logits, float32 [B, C] each."""
        if not np.isfinite(found).all():
            found = np.nan_to_num(found, nan=0.0, posinf=0.0, neginf=0.0)  # an answer all the same, and a wrong one
        ours, theirs = self._decoder.read(exact), self._decoder.read(found)
        self._add_leads(ours.classes, theirs.classes)
        for at, (one, other) in enumerate(zip(_answers(ours), _answers(theirs), strict=True)):
            self._same[at] += int((one == other).reshape(len(exact), -1).all(axis=1).sum())
        if self._decoder.asked:
            self._asked = max(self._asked, float(np.abs(theirs.asked - ours.asked).max(initial=0)))
        if self._decoder.bins is not None:
            self._asked = max(self._asked, float(np.abs(theirs.bins - ours.bins).max(initial=0)))
        apart = np.abs(exact.astype(np.float64) - found)
        self._count += len(exact)
        self._values += exact.size
        self._largest = max(self._largest, float(apart.max()))
        self._squares += float(np.square(apart).sum())
        self._sum += float(exact.sum(dtype=np.float64))
        self._squared += float(np.square(exact, dtype=np.float64).sum())
        self._low, self._high = min(self._low, float(exact.min())), max(self._high, float(exact.max()))

    def _add_leads(self, exact: NDArray[Any], found: NDArray[Any]) -> None:
        best = np.argsort(-exact, axis=1, kind="stable")[:, :BEST]
        logs = (
            np.log(np.maximum(np.take_along_axis(p, best, axis=1), LEAST, dtype=np.float64)) for p in (exact, found)
        )
        before, after = (values[:, :1] - values[:, 1:] for values in logs)
        self._leads.append(before)
        self._moves += float(np.square(after - before).sum())

    def _expected(self) -> tuple[float, float]:
        leads = np.concatenate(self._leads)
        noise = max(sqrt(self._moves / max(leads.size, 1)), 1e-12)
        stays = np.vectorize(lambda lead: (1 + erf(lead / noise / sqrt(2))) / 2, otypes=[np.float64])(leads)
        each = stays.prod(axis=1)
        return float(each.mean()), float(each.std() / sqrt(len(each)))

    def result(self) -> Agreement:
        """Return what was counted; at least one batch must have been."""
        top1, path, hedged = (self._same / self._count).tolist()
        variance = self._squared / self._values - (self._sum / self._values) ** 2
        noise = (self._squares / self._values / max(variance, 1e-30)) ** 0.5
        span = max(self._high - self._low, 1e-30)
        apart = (self._largest, self._largest / span, noise)
        asked = self._asked if self._decoder.asked or self._decoder.bins is not None else None
        return Agreement(self._count, top1, path, hedged, *self._expected(), *apart, asked)


def _answers(found: Decoded) -> tuple[NDArray[Any], ...]:
    """Return the best classes, the paths and the hedged nodes."""
    return found.classes.argmax(axis=1), found.path.nodes, found.hedged.node


def crops_to_logits(backend: Backend, crops: NDArray[np.uint8], preprocess: Preprocess) -> NDArray[np.float32]:
    """Return float32 [B, C] of crops, uint8 [B, H, W, 3], in an export of either form."""
    return backend.run(crops if backend.normalises else normalise(crops, preprocess)).logits


def speed_ratios(slow: Backend, fast: Backend, preprocess: Preprocess, *, rounds: int = 12) -> dict[int, float]:
    """Return how many times faster `fast` is than `slow`, for batches of 1 and 8 crops.

    Each call computes on one thread, as those of `predict` do. The two take turns, and the best turn of each counts, so
    that other work on the machine disturbs little; a call of several threads would wait for the slowest of them.
    """
    _, height, width = preprocess.input_size
    noise = np.random.default_rng(0).integers(0, 256, (max(SPEED_BATCHES), height, width, 3), np.uint8)
    ratios = {}
    with slow.threads(1), fast.threads(1):
        for batch in SPEED_BATCHES:
            best = [np.inf, np.inf]
            for turn in range(rounds + 1):
                for at, backend in enumerate((slow, fast)):
                    began = time.perf_counter()
                    crops_to_logits(backend, noise[:batch], preprocess)
                    if turn:  # the first turn opens the file
                        best[at] = min(best[at], time.perf_counter() - began)
            ratios[batch] = best[0] / best[1]
    return ratios
