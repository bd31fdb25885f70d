"""Which setting of a quantisation agrees well enough, chosen on images that did not set it up."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from math import sqrt
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from miil21k.data.transforms import normalise
from miil21k.errors import UsageError
from miil21k.export.onnx.network import OUTPUTS, PIXELS
from miil21k.export.onnx.proof import open_session
from miil21k.export.quantize.agreement import Agreeing
from miil21k.export.quantize.precision import (
    dynamic_int8,
    fp16,
    measure_ranges,
    quantizable,
    static_int8,
    staying,
)
from miil21k.metrics.shares import wilson_interval

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray
    from onnx import ModelProto

    from miil21k.decode.decoder import Decoder
    from miil21k.export.options import Method, QuantizeMode, QuantizeOptions
    from miil21k.export.quantize.agreement import Agreement
    from miil21k.zoo.schema import Preprocess

    ShowProgress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]

__all__ = [
    "LOOKS",
    "Aim",
    "Look",
    "Search",
    "Setting",
    "choose_mode",
    "network_logits",
    "no_progress",
    "share_needed",
]

CALIBRATION_BATCH = 4  # images whose activations are in memory together
BATCH = 8


def no_progress(_what: str, _total: int) -> AbstractContextManager[Callable[[int], None]]:
    """Show nothing."""
    return nullcontext(lambda _: None)


@dataclass(frozen=True, eq=False)
class Setting:
    """A quantised network, how it was made, and how it agrees with fp32 on the images that chose it.

    layers: how many layers can be quantised; left_out: names of those that stay float, the first ones. tried: how
    many settings were compared.
    """

    network: ModelProto
    mode: QuantizeMode
    method: Method | None
    layers: int
    left_out: tuple[str, ...]
    agreement: Agreement
    symmetric: bool = False
    weight_bits: int = 8
    tried: int = 1

    def __str__(self) -> str:
        if self.mode == "fp16":
            return "fp16"
        how = f"INT8 {self.mode}" + (", symmetric" if self.symmetric else "")
        how += f", {self.method}" if self.method else ""
        how += ", weights in 7 bits" if self.weight_bits == 7 else ""
        return f"{how}, {len(self.left_out)} of {self.layers} layers left in float"

    def to_json(self) -> dict[str, Any]:
        """Return what the report says of it."""
        return {
            "mode": self.mode,
            "method": self.method,
            "symmetric": self.symmetric,
            "weight_bits": self.weight_bits if self.mode != "fp16" else None,
            "layers": self.layers,
            "left_out": list(self.left_out),
            "settings_tried": self.tried,
            "choosing_agreement": self.agreement.to_json(),
        }


def choose_mode(network: ModelProto) -> QuantizeMode:
    """Return `static` where most of the layers with weights are convolutions, else `dynamic`."""
    products = len(quantizable(network, "dynamic"))
    return "static" if len(quantizable(network, "static")) > 2 * products else "dynamic"


class Look(NamedTuple):
    """One time that the judging pictures are looked at.

    z: of the one-sided interval that a file must pass. margin: standard errors that are aimed above what it needs.
    """

    z: float
    margin: float


# A setting that is expected to reach just what is needed is refused half the time, by chance; one that aims higher
# leaves more layers in float than half of the networks need. So the first is tried, and the second where it is refused.
# Wrongly kept are at most 4 % of the first kind and 1 % of the second: the two together hold with 95 %.
LOOKS = (Look(1.750686, 0.0), Look(2.326348, 1.0))


def share_needed(images: int, min_agreement: float, z: float = LOOKS[0].z) -> float:
    """Return the least share of `images` that must agree to show `min_agreement`; infinity where none does.

    It is the least count whose one-sided Wilson interval, `z` standard errors wide, begins at `min_agreement` or above.
    """
    shares = np.arange(images + 1) / images
    low, _ = wilson_interval(shares, np.full(images + 1, images), z)
    enough = np.flatnonzero(low >= min_agreement)
    return float(shares[enough[0]]) if enough.size else np.inf


@dataclass(frozen=True)
class Aim:
    """What a setting must let expect of the judging pictures.

    needed: the share of them that must keep their best class, see `share_needed`. judging: how many judge. margin:
    standard errors above it, of the difference between what is expected, which some pictures estimated, and what is
    counted, which comes from others. With 1, five of six are kept.
    """

    needed: float
    judging: int
    margin: float = 0.0

    def reached_by(self, agreement: Agreement) -> bool:
        """Return whether what `agreement` lets expect lies the margin above what is needed."""
        share = agreement.expected
        counted = max(share * (1 - share), 0.0) / self.judging
        return share - self.margin * sqrt(agreement.expected_error**2 + counted) >= self.needed


def network_logits(network: ModelProto, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return float32 [N, C], the logits of a network alone for `pixels`, float32 [N, 3, H, W]."""
    session = open_session(network.SerializeToString())
    parts = [
        session.run([OUTPUTS[0]], {PIXELS: np.ascontiguousarray(pixels[start : start + BATCH])})[0]
        for start in range(0, len(pixels), BATCH)
    ]
    return np.concatenate(parts)


class Search:
    """The search for the setting of one network.

    setting_up, choosing: crops, uint8 [N, H, W, 3]; the first set ranges, and nothing else. options: those of a run,
    `weight_bits` decided. What was measured for one aim is not measured again for the next. Raises UsageError when
    there is nothing to quantise, ExportError when ONNX Runtime refuses.
    """

    def __init__(
        self,
        network: ModelProto,
        setting_up: NDArray[np.uint8],
        choosing: NDArray[np.uint8],
        preprocess: Preprocess,
        decoder: Decoder,
        options: QuantizeOptions,
        *,
        progress: ShowProgress = no_progress,
    ) -> None:
        self.network, self.options, self.decoder, self.progress = network, options, decoder, progress
        self.mode: QuantizeMode = options.mode  # type: ignore[assignment]
        if options.mode == "auto":
            self.mode = "static" if options.symmetric else choose_mode(network)
        self.layers = () if self.mode == "fp16" else tuple(quantizable(network, self.mode))
        if self.mode != "fp16" and not self.layers:
            raise UsageError(f"This network has no layers that {self.mode} quantises: choose another --mode.")
        self.setting_up, self.choosing = normalise(setting_up, preprocess), normalise(choosing, preprocess)
        self.exact = network_logits(network, self.choosing)
        self._found: dict[int, Setting] = {}  # by how many layers stay float

    def best(self, aim: Aim) -> Setting:
        """Return the setting with the fewest layers in float that reaches `aim`, else the one that agrees best.

        The first layers stay float, 1, 2, 4 and so on up to `most_left_out`, then bisection: they read the largest
        pictures and carry the fewest weights, so that float costs little there, and what they lose every later layer
        reads.
        """

        def enough(count: int) -> bool:
            """Measure the setting with the first `count` layers in float, once."""
            if count not in self._found:
                self._found[count] = self._setting(count)
            return aim.reached_by(self._found[count].agreement)

        high = int(self.options.most_left_out * len(self.layers))
        low, count = 0, 0
        while not enough(count) and count < high:
            low, count = count, min(max(1, 2 * count), high)
        while enough(count) and count - low > 1:
            middle = (low + count) // 2
            low, count = (low, middle) if enough(middle) else (middle, count)
        most = max(self._found, key=lambda tried: self._found[tried].agreement.expected)
        return replace(self._found[count if enough(count) else most], tried=len(self._found))

    def _quantised(self, floats: Sequence[str]) -> ModelProto:
        if self.mode == "fp16":
            return fp16(self.network)
        stay, bits = staying(self.network, floats), self.options.weight_bits or 8
        if self.mode == "dynamic":
            return dynamic_int8(self.network, leave_out=stay, weight_bits=bits)
        symmetric = self.options.symmetric
        return static_int8(self.network, self._ranges, leave_out=stay, symmetric=symmetric, weight_bits=bits)

    def _setting(self, floats: int) -> Setting:
        network = self._quantised(self.layers[:floats])
        counting = Agreeing(self.decoder)
        counting.add(self.exact, network_logits(network, self.choosing))
        return Setting(
            network,
            self.mode,
            self.options.method if self.mode == "static" else None,
            len(self.layers),
            self.layers[:floats],
            counting.result(),
            self.options.symmetric and self.mode == "static",
            self.options.weight_bits or 8,
        )

    @cached_property
    def _ranges(self) -> Any:
        with self.progress("measuring ranges", len(self.setting_up)) as done:
            return measure_ranges(self.network, self._batches(done), self.options.method)

    def _batches(self, done: Callable[[int], None]) -> Iterator[NDArray[np.float32]]:
        for start in range(0, len(self.setting_up), CALIBRATION_BATCH):
            yield self.setting_up[start : start + CALIBRATION_BATCH]
            done(min(CALIBRATION_BATCH, len(self.setting_up) - start))
