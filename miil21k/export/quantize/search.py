"""Which setting of a quantisation agrees well enough, chosen on images that did not set it up."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from math import sqrt
from typing import TYPE_CHECKING, Any

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
from miil21k.metrics.shares import ONE_SIDED, wilson_interval

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
    "Aim",
    "Setting",
    "choose_mode",
    "choose_setting",
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


def share_needed(images: int, min_agreement: float) -> float:
    """Return the least share of `images` that must agree to show `min_agreement` with 95 % confidence; above 1: none.

    It is the least count whose one-sided Wilson interval begins at `min_agreement` or above it.
    """
    shares = np.arange(images + 1) / images
    low, _ = wilson_interval(shares, np.full(images + 1, images), ONE_SIDED)
    enough = np.flatnonzero(low >= min_agreement)
    return float(shares[enough[0]]) if enough.size else np.inf


@dataclass(frozen=True)
class Aim:
    """What a setting must let expect, so that chance alone seldom makes the judging pictures refuse it.

    needed: the share of the judging pictures that must keep their best class, see `share_needed`. judging: how many
    judge. A setting whose expected share is just `needed` passes half the time: what is expected was estimated on some
    pictures, and what is counted comes from others. One standard error of the difference is added, so that five of six
    pass.
    """

    needed: float
    judging: int

    def reached_by(self, agreement: Agreement) -> bool:
        """Return whether what `agreement` lets expect lies a standard error above what is needed, or is 1."""
        share = agreement.expected
        counted = max(share * (1 - share), 0.0) / self.judging
        return share - sqrt(agreement.expected_error**2 + counted) >= self.needed


def network_logits(network: ModelProto, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return float32 [N, C], the logits of a network alone for `pixels`, float32 [N, 3, H, W]."""
    session = open_session(network.SerializeToString())
    parts = [
        session.run([OUTPUTS[0]], {PIXELS: np.ascontiguousarray(pixels[start : start + BATCH])})[0]
        for start in range(0, len(pixels), BATCH)
    ]
    return np.concatenate(parts)


def choose_setting(
    network: ModelProto,
    setting_up: NDArray[np.uint8],
    choosing: NDArray[np.uint8],
    preprocess: Preprocess,
    decoder: Decoder,
    options: QuantizeOptions,
    aim: Aim,
    *,
    progress: ShowProgress = no_progress,
) -> Setting:
    """Return the setting with the fewest layers in float that agrees well enough on `choosing`, else the best one.

    setting_up, choosing: crops, uint8 [N, H, W, 3]; the first set ranges, and nothing else. aim: what is
    enough. options: those of a run, `weight_bits` decided. The first layers stay float, 1, 2,
    4 and so on up to `most_left_out`, then bisection: they read the largest pictures and carry the fewest weights, so
    that float costs little there, and what they lose every later layer reads. Raises UsageError when there is nothing
    to quantise, ExportError when ONNX Runtime refuses.
    """
    mode: QuantizeMode = options.mode  # type: ignore[assignment]
    if options.mode == "auto":
        mode = "static" if options.symmetric else choose_mode(network)
    ours, theirs = normalise(setting_up, preprocess), normalise(choosing, preprocess)
    return _Search(network, options, aim, ours, theirs, decoder, progress).run(mode)


@dataclass(eq=False)
class _Search:
    """The search for one network. setting_up, choosing: normalised, float32 [N, 3, H, W]."""

    network: ModelProto
    options: QuantizeOptions
    aim: Aim
    setting_up: NDArray[np.float32]
    choosing: NDArray[np.float32]
    decoder: Decoder
    progress: ShowProgress

    def __post_init__(self) -> None:
        self.exact = network_logits(self.network, self.choosing)

    def run(self, mode: QuantizeMode) -> Setting:
        if mode == "fp16":
            return self.setting(fp16(self.network), mode)
        layers = quantizable(self.network, mode)
        if not layers:
            raise UsageError(f"This network has no layers that {mode} quantises: choose another --mode.")
        ranges = self.ranges() if mode == "static" else None
        found: dict[int, Setting] = {}

        def enough(count: int) -> bool:
            """Measure the setting with the first `count` layers in float, once."""
            if count not in found:
                found[count] = self.setting(self.quantised(mode, ranges, layers[:count]), mode, layers, count)
            return self.aim.reached_by(found[count].agreement)

        high = int(self.options.most_left_out * len(layers))
        low, count = 0, 0
        while not enough(count) and count < high:
            low, count = count, min(max(1, 2 * count), high)
        while enough(count) and count - low > 1:
            middle = (low + count) // 2
            low, count = (low, middle) if enough(middle) else (middle, count)
        best = max(found, key=lambda tried: found[tried].agreement.expected)
        chosen = found[count] if enough(count) else found[best]
        return replace(chosen, tried=len(found))

    def quantised(self, mode: QuantizeMode, ranges: Any, floats: Sequence[str]) -> ModelProto:
        stay, bits = staying(self.network, floats), self.options.weight_bits or 8
        if mode == "dynamic":
            return dynamic_int8(self.network, leave_out=stay, weight_bits=bits)
        symmetric = self.options.symmetric
        return static_int8(self.network, ranges, leave_out=stay, symmetric=symmetric, weight_bits=bits)

    def setting(self, network: ModelProto, mode: QuantizeMode, layers: Sequence[str] = (), floats: int = 0) -> Setting:
        counting = Agreeing(self.decoder)
        counting.add(self.exact, network_logits(network, self.choosing))
        return Setting(
            network,
            mode,
            self.options.method if mode == "static" else None,
            len(layers),
            tuple(layers[:floats]),
            counting.result(),
            self.options.symmetric and mode == "static",
            self.options.weight_bits or 8,
        )

    def ranges(self) -> Any:
        with self.progress("measuring ranges", len(self.setting_up)) as done:
            return measure_ranges(self.network, self.batches(done), self.options.method)

    def batches(self, done: Callable[[int], None]) -> Iterator[NDArray[np.float32]]:
        for start in range(0, len(self.setting_up), CALIBRATION_BATCH):
            yield self.setting_up[start : start + CALIBRATION_BATCH]
            done(min(CALIBRATION_BATCH, len(self.setting_up) - start))
