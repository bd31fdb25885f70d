"""Which setting of a quantisation agrees well enough, chosen on images that did not set it up."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from miil21k.data.transforms import normalise
from miil21k.errors import UsageError
from miil21k.export.quantize.agreement import Agreeing
from miil21k.export.quantize.assignment import fastest_within, share_of_time, works
from miil21k.export.quantize.bias_correction import mean_losses, with_corrected_biases
from miil21k.export.quantize.calibration_set import spread
from miil21k.export.quantize.precision import (
    METHODS,
    MODES,
    dynamic_int8,
    fp16,
    measure_ranges,
    quantizable,
    static_int8,
    staying,
)
from miil21k.export.quantize.rounding import with_cancelling_weights
from miil21k.export.quantize.sensitivity import network_logits, sensitivities

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray
    from onnx import ModelProto

    from miil21k.decode.decoder import Decoder
    from miil21k.export.quantize.agreement import Agreement
    from miil21k.export.quantize.precision import Method, Mode
    from miil21k.zoo.schema import Preprocess

    Maker = Callable[[Sequence[str], Sequence[str]], ModelProto]
    Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]

__all__ = ["QuantizeOptions", "Setting", "choose_mode", "choose_setting", "no_progress"]

CALIBRATION_BATCH = 4  # images whose activations are in memory together
SENSITIVITY_IMAGES = 16
LEAST_NOISE = 2**-5  # of that of all layers in 8 bits
BISECTIONS = 6
WORTH = 0.9  # of the time in float: files that must be 5 % faster are sought with some room


def no_progress(_what: str, _total: int) -> AbstractContextManager[Callable[[int], None]]:
    """Show nothing."""
    return nullcontext(lambda _: None)


@dataclass(frozen=True)
class QuantizeOptions:
    """How an export is quantised, and what it must keep to.

    mode: `static` (INT8, ranges of activations measured on images), `dynamic` (INT8, matrix products only, ranges as
    they come), `fp16`, or `auto`: static where convolutions carry most of the layers, else dynamic. method: how
    static finds the ranges, `minmax`, `entropy` or `percentile`. symmetric: static with zero points of 0 and float32
    biases, for TensorRT. min_agreement: the share of judging images that must keep their best class, in (0, 1].
    most_left_out: the share of layers that may stay float, in [0, 1]. calibration_images: how many images at most set
    it up, and how many choose layers. require_faster: refuse what is not faster than fp32; None for INT8 yes, for what
    runs elsewhere (fp16, symmetric) no. backend: `onnx` or `openvino`, which measures agreement and speed.
    Raises UsageError for anything else.
    """

    mode: Mode | str = "auto"
    method: Method = "minmax"
    symmetric: bool = False
    min_agreement: float = 0.97
    most_left_out: float = 0.95
    calibration_images: int = 256
    require_faster: bool | None = None
    backend: str = "onnx"

    def __post_init__(self) -> None:
        known = (("mode", ("auto", *MODES)), ("method", METHODS), ("backend", ("onnx", "openvino")))
        for name, choices in known:
            if getattr(self, name) not in choices:
                raise UsageError(f"{name} must be {' or '.join(choices)}, not '{getattr(self, name)}'.")
        if self.symmetric and self.mode not in ("auto", "static"):
            raise UsageError(f"symmetric is of mode static: {self.mode} has no fixed zero points.")
        if not 0 < self.min_agreement <= 1:
            raise UsageError(f"min_agreement lies above 0 and up to 1, not {self.min_agreement}.")
        if not 0 <= self.most_left_out <= 1:
            raise UsageError(f"most_left_out lies between 0 and 1, not {self.most_left_out}.")
        if self.calibration_images < 1:
            raise UsageError(f"calibration_images must be at least 1, not {self.calibration_images}.")


@dataclass(frozen=True, eq=False)
class Setting:
    """A quantised network, how it was made, and how it agrees with fp32 on the images that chose it.

    layers: how many layers can be quantised; left_out: names of those that stay float. noise: what each layer alone
    brings in, where it was measured. tried: how many settings were compared.
    """

    network: ModelProto
    mode: Mode
    method: Method | None
    layers: int
    left_out: tuple[str, ...]
    agreement: Agreement
    symmetric: bool = False
    noise: dict[str, float] = field(default_factory=dict)
    tried: int = 1

    def __str__(self) -> str:
        if self.mode == "fp16":
            return "fp16"
        how = f"INT8 {self.mode}" + (", symmetric" if self.symmetric else "")
        how += f", {self.method}" if self.method else ""
        return f"{how}, {len(self.left_out)} of {self.layers} layers left in float"

    def to_json(self) -> dict[str, Any]:
        """Return what the report says of it."""
        return {
            "mode": self.mode,
            "method": self.method,
            "symmetric": self.symmetric,
            "layers": self.layers,
            "left_out": list(self.left_out),
            "settings_tried": self.tried,
            "choosing_agreement": self.agreement.to_json(),
            "layer_noise": {name: float(f"{noise:.4g}") for name, noise in self.noise.items()},
        }


def choose_mode(network: ModelProto) -> Mode:
    """Return `static` where most of the layers with weights are convolutions, else `dynamic`."""
    products = len(quantizable(network, "dynamic"))
    return "static" if len(quantizable(network, "static")) > 2 * products else "dynamic"


def choose_setting(
    network: ModelProto,
    setting_up: NDArray[np.uint8],
    choosing: NDArray[np.uint8],
    preprocess: Preprocess,
    decoder: Decoder,
    options: QuantizeOptions,
    *,
    progress: Progress = no_progress,
) -> Setting:
    """Return the first setting that agrees well enough on the images `choosing`, else the best one.

    setting_up, choosing: crops, uint8 [N, H, W, 3]; the first set ranges and biases, and nothing else. Where all layers
    in 8 bits do not agree well enough, the fastest choice of layers is sought that does, with at most `most_left_out`
    in float and at least a tenth of the time saved by estimate. Well enough: a third of the best classes that
    `min_agreement` allows to change are expected to, since other pictures may be harder. Raises UsageError when there
    is nothing to quantise, ExportError when ONNX Runtime refuses.
    """
    mode: Mode = options.mode  # type: ignore[assignment]
    if options.mode == "auto":
        mode = "static" if options.symmetric else choose_mode(network)
    ours, theirs = normalise(setting_up, preprocess), normalise(choosing, preprocess)
    return _Search(network, options, ours, theirs, decoder, progress).run(mode)


@dataclass(eq=False)
class _Search:
    """The search for one network. setting_up, choosing: normalised, float32 [N, 3, H, W]."""

    network: ModelProto
    options: QuantizeOptions
    setting_up: NDArray[np.float32]
    choosing: NDArray[np.float32]
    decoder: Decoder
    progress: Progress
    noise: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.exact = network_logits(self.network, self.choosing)

    def run(self, mode: Mode) -> Setting:
        if mode == "fp16":
            return self.measured(fp16(self.network), mode, 0, ())
        layers = quantizable(self.network, mode)
        if not layers:
            raise UsageError(f"This network has no layers that {mode} quantises: choose another --mode.")
        make = self.maker(mode, layers)

        def measured(names: tuple[str, ...], tried: int) -> Setting:
            return self.measured(make((), staying(self.network, names)), mode, len(layers), names, tried)

        found = measured((), 1)
        if int(self.options.most_left_out * len(layers)) and not self.enough(found):
            found = self.with_some_left_out(found, layers, make, measured)
        return found

    def enough(self, found: Setting) -> bool:
        return found.agreement.expected >= 1 - (1 - self.options.min_agreement) / 3

    def with_some_left_out(
        self,
        best: Setting,
        layers: Sequence[str],
        make: Maker,
        measured: Callable[[tuple[str, ...], int], Setting],
    ) -> Setting:
        """Return the fastest setting that agrees well enough, by bisection of its noise, else the best one."""
        self.noise = self.sensitive(layers, make)
        work = works(self.network, layers)
        whole = float(np.sqrt(sum(noise**2 for noise in self.noise.values() if np.isfinite(noise))))
        most = self.options.most_left_out * len(layers)
        high, low, tried = 1.0, LEAST_NOISE, 1
        for _ in range(BISECTIONS):
            middle = (low * high) ** 0.5
            eight = set(fastest_within(self.noise, work, middle * whole))
            names = tuple(name for name in layers if name not in eight)
            if len(names) > most or share_of_time(eight, work) > WORTH:
                low = middle
                continue
            tried += 1
            found = measured(names, tried)
            if self.enough(found):
                best, low = found, middle
            else:
                high = middle
                if not self.enough(best) and found.agreement.expected > best.agreement.expected:
                    best = found
        return replace(best, tried=tried, noise=self.noise)

    def maker(self, mode: Mode, layers: Sequence[str]) -> Maker:
        """Return the function from nodes (these only; all, less these) to the quantised network."""
        ranges = self.ranges() if mode == "static" else None
        losses = self.losses(layers)

        def make(only: Sequence[str], stay: Sequence[str]) -> ModelProto:
            names = only or sorted(set(layers) - set(stay))
            rounded = with_corrected_biases(with_cancelling_weights(self.network, names), losses, names)
            if mode == "dynamic":
                return dynamic_int8(rounded, only=only, leave_out=stay)
            return static_int8(rounded, ranges, only=only, leave_out=stay, symmetric=self.options.symmetric)

        return make

    def ranges(self) -> Any:
        with self.progress("measuring ranges", len(self.setting_up)) as done:
            return measure_ranges(self.network, self.batches(done), self.options.method)

    def losses(self, layers: Sequence[str]) -> dict[str, NDArray[np.float64]]:
        rounded = with_cancelling_weights(self.network, layers)
        with self.progress("measuring biases", len(self.setting_up)) as done:
            return mean_losses(self.network, rounded, layers, self.batches(done))

    def batches(self, done: Callable[[int], None]) -> Iterator[NDArray[np.float32]]:
        for start in range(0, len(self.setting_up), CALIBRATION_BATCH):
            yield self.setting_up[start : start + CALIBRATION_BATCH]
            done(min(CALIBRATION_BATCH, len(self.setting_up) - start))

    def sensitive(self, layers: Sequence[str], make: Maker) -> dict[str, float]:
        few = np.array(spread(range(len(self.choosing)), SENSITIVITY_IMAGES))
        with self.progress("measuring each layer", len(layers)) as done:
            return sensitivities(self.network, layers, lambda only: make(only, ()), self.choosing[few], done)

    def measured(
        self, network: ModelProto, mode: Mode, layers: int, left_out: tuple[str, ...], tried: int = 1
    ) -> Setting:
        counting = Agreeing(self.decoder)
        counting.add(self.exact, network_logits(network, self.choosing))
        method = self.options.method if mode == "static" else None
        symmetric = self.options.symmetric and mode == "static"
        return Setting(network, mode, method, layers, left_out, counting.result(), symmetric, self.noise, tried)
