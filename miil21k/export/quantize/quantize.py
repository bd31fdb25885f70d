"""Write a quantised export that agrees with fp32 on images it was not set up with; or nothing."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper

from miil21k.environment import installed_versions, silence_telemetry
from miil21k.errors import ExportError, UsageError
from miil21k.export.onnx.report import card_facts, report_path
from miil21k.export.onnx.saving import MOST_BYTES, weights_path
from miil21k.export.options import QuantizeOptions
from miil21k.export.quantize.agreement import FASTER, Agreeing, crops_to_logits, speed_ratios
from miil21k.export.quantize.calibration_set import Roles, divide, read_crops, spread
from miil21k.export.quantize.network_part import put_network, take_network
from miil21k.export.quantize.search import LOOKS, Aim, Search, no_progress, share_needed
from miil21k.files import atomic, replace_file, sweep
from miil21k.metrics.shares import wilson_interval
from miil21k.runtime.int8_probe import products_are_exact
from miil21k.runtime.loading import open_export
from miil21k.runtime.machine import processor
from miil21k.zoo.export_card import read_export_card

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from miil21k.export.quantize.agreement import Agreement
    from miil21k.export.quantize.search import Setting, ShowProgress
    from miil21k.runtime.base import Backend
    from miil21k.zoo.export_card import ExportCard

__all__ = ["quantize_onnx"]

silence_telemetry()

BATCH = 8


def quantize_onnx(
    source: Path,
    output: Path,
    pictures: Sequence[Path],
    options: QuantizeOptions | None = None,
    *,
    judges: Sequence[Path] = (),
    say: Callable[[str], None] = lambda _: None,
    progress: ShowProgress = no_progress,
) -> dict[str, Any]:
    """Quantise the fp32 export `source` to `output`, and return the report that lies beside it as `<output>.json`.

    Only the network inside is quantised: preprocessing and decoding stay as they are. pictures: image files, of which
    half set it up and half choose the layers that stay float; judges: image files that judge it. Without judges, every
    second picture judges and the others do the rest; no picture has two of these roles, nor have copies of it.
    Best class, path and hedged node of the judging images are compared with those of `source` in the backend
    that the options name. say: told each step. progress: `progress(what, total)` opens a context that is told advances.

    It is kept when, with 95 % confidence, `options.min_agreement` of pictures like the judging ones keep their best
    class (one-sided Wilson interval). An existing file is replaced by one that is kept or stays as it was. Raises
    ExportError when the best setting agrees less often, or is not faster where that is required, UsageError for a
    source that is quantised already or above 2 GB, and for too few pictures; ImageError for one that is no image.
    """
    options = options or QuantizeOptions()
    card = _source_card(source, output)
    roles = _roles(pictures, judges, options)
    say(f"pictures: {len(roles.setting_up)} set it up, {len(roles.choosing)} choose layers, {len(roles.judging)} judge")
    needed = share_needed(len(roles.judging), options.min_agreement)
    if needed > 1:
        raise UsageError(_too_few(len(roles.judging), options.min_agreement))
    if options.weight_bits is None and options.mode != "fp16":
        sums_are_exact = products_are_exact(options.backend)
        options = dataclasses.replace(options, weight_bits=8 if sums_are_exact else 7)
        if not sums_are_exact:
            say(f"weights get 7 bits: in {options.backend} this processor's sums of 8-bit products overflow")
    model = onnx.load(source)
    network = take_network(model, card.preprocess.input_size)
    with progress("reading pictures", len(roles.setting_up) + len(roles.choosing)) as done:
        setting_up, choosing = (
            np.concatenate(list(read_crops(part, card.preprocess, BATCH, done)))
            for part in (roles.setting_up, roles.choosing)
        )
    search = Search(network, setting_up, choosing, card.preprocess, card.decoder(), options, progress=progress)
    exact = open_export(source, card, backend=options.backend, device="cpu", dtype="fp32")
    sweep(output.parent)
    with atomic(output) as part:

        def write(chosen: Setting) -> Backend:
            whole = put_network(model, chosen.network)
            new_card = _described(whole, card, chosen, options)
            part.write_bytes(whole.SerializeToString())
            return open_export(part, new_card, backend=options.backend, device="cpu", dtype="fp32")

        judge = _Judge(exact, roles.judging, card, options, progress)
        chosen, quantised, agreement, shown = judge.first_kept(search, write, say)
        ratios = speed_ratios(exact, quantised, card.preprocess)
        report = _report(read_export_card(part), chosen, agreement, shown, ratios, options)
        faster = min(ratios.values()) >= FASTER
        elsewhere = chosen.mode == "fp16" or chosen.symmetric  # where it will run is not this machine
        required = not elsewhere if options.require_faster is None else options.require_faster
        if required and not faster:
            raise ExportError(
                f"{chosen} of '{card.model}' agrees ({agreement}) but is not faster than fp32 in {options.backend} "
                f"here ({_speeds(ratios)}), so it was not kept: try another --backend, or keep it with "
                "--no-require-faster."
            )
        whole = onnx.load(part)
        _record(whole, report["quantization"])
        part.write_bytes(whole.SerializeToString())
        report |= {"bytes": part.stat().st_size, "bytes_fp32": source.stat().st_size}
        replace_file(report_path(output), json.dumps(report, indent=1) + "\n")
    return report


def _source_card(source: Path, output: Path) -> ExportCard:
    if output.suffix != ".onnx":
        raise UsageError(f"'{output}' does not end in .onnx, by which miil21k and others know an ONNX model.")
    if not output.parent.is_dir():
        raise UsageError(f"There is no folder '{output.parent}'.")
    card = read_export_card(source)
    if output.exists() and output.samefile(source):
        raise UsageError(f"'{output}' is the export itself, which the result is compared with: give another name.")
    if card.precision != "fp32":
        raise UsageError(f"'{source}' is {card.precision} already: quantise the fp32 export that it was made from.")
    if weights_path(source).exists() or source.stat().st_size > MOST_BYTES:
        raise UsageError(f"'{source}' has more than 2 GB of weights, which the quantiser cannot hold in one file.")
    return card


def _roles(pictures: Sequence[Path], judges: Sequence[Path], options: QuantizeOptions) -> Roles:
    roles = divide(pictures, judges)
    if not all(roles):
        counts = ", ".join(str(len(part)) for part in roles)
        raise UsageError(
            "Quantising needs different pictures that set it up, that choose layers and that judge: of those given, "
            f"without copies, there are {counts} for these, so give more."
        )
    most = options.calibration_images
    return Roles(spread(roles.setting_up, most), spread(roles.choosing, most), roles.judging)


@dataclasses.dataclass(frozen=True)
class _Judge:
    """Compares what was written with the export in fp32, `exact`, on pictures that did nothing else."""

    exact: Backend
    pictures: Sequence[Path]
    card: ExportCard
    options: QuantizeOptions
    progress: ShowProgress

    def first_kept(
        self, search: Search, write: Callable[[Setting], Backend], say: Callable[[str], None]
    ) -> tuple[Setting, Backend, Agreement, float]:
        """Return the first of at most two settings that the pictures show to be good enough; else raise ExportError.

        With it come the file that `write` made, how it agrees, and the share that this shows.
        """
        tried: list[tuple[str, ...]] = []
        refusal = ""
        for look in LOOKS:
            needed = share_needed(len(self.pictures), self.options.min_agreement, look.z)
            chosen = search.best(Aim(needed, len(self.pictures), look.margin))
            if needed > 1 or chosen.left_out in tried:
                break
            tried.append(chosen.left_out)
            of_chosen = f"{chosen.agreement} that chose it, which lets expect {chosen.agreement.expected:.1%} for top-1"
            say(f"{chosen}: {of_chosen}")
            quantised = write(chosen)
            agreement = self.agreement(quantised)
            if agreement.top1 >= needed:
                shown, _ = wilson_interval(agreement.top1, agreement.images, look.z)
                return chosen, quantised, agreement, float(shown)
            del quantised  # the next one takes its file
            refusal = _refusal(self.card, chosen, agreement, self.options, needed)
            say(f"not enough: {agreement} that judge, where {needed:.1%} of best classes must stay")
        raise ExportError(refusal)

    def agreement(self, quantised: Backend) -> Agreement:
        counting = Agreeing(self.card.decoder())
        with self.progress("judging", len(self.pictures)) as done:
            for crops in read_crops(self.pictures, self.card.preprocess, BATCH, done):
                both = (crops_to_logits(backend, crops, self.card.preprocess) for backend in (self.exact, quantised))
                counting.add(*both)
        return counting.result()


def _too_few(count: int, min_agreement: float) -> str:
    enough = math.ceil(LOOKS[0].z ** 2 * min_agreement / (1 - min_agreement))  # the interval of all of n begins there
    return (
        f"{count} pictures that judge cannot show that {min_agreement:.1%} of all keep their best class, even if each "
        f"does: give {enough} or more with --eval, or twice that with --images alone, or a lower --min-agreement."
    )


def _refusal(card: ExportCard, chosen: Setting, agreement: Agreement, options: QuantizeOptions, needed: float) -> str:
    ways = "--mode fp16" if chosen.mode != "fp16" else "fp32"
    if chosen.mode == "static":
        others = " or ".join(name for name in ("minmax", "entropy", "percentile") if name != chosen.method)
        ways = f"--method {others}, more pictures, a larger --most-left-out, or {ways}"
    elif chosen.mode == "dynamic":
        ways = f"--mode static, a larger --most-left-out, or {ways}"
    return (
        f"'{card.model}' was not quantised: the best of {chosen.tried} settings ({chosen}) gives {agreement}, "
        f"logits {agreement.logits:.2g} apart, where {needed:.1%} of these best classes must stay to show "
        f"{options.min_agreement:.0%} of all: try {ways}."
    )


def _speeds(ratios: dict[int, float]) -> str:
    return ", ".join(f"{ratio:.2f}x in batches of {batch}" for batch, ratio in ratios.items())


def _described(whole: onnx.ModelProto, card: ExportCard, chosen: Setting, options: QuantizeOptions) -> ExportCard:
    """Write the card of the result into `whole`, and return it."""
    versions = {**card.versions, **{f"quantized_{key}": value for key, value in installed_versions().items()}}
    new = dataclasses.replace(
        card,
        precision="fp16" if chosen.mode == "fp16" else "int8",
        quantization={
            "mode": chosen.mode,
            "symmetric": chosen.symmetric,
            "backend": options.backend,
            "weight_bits": chosen.weight_bits,
        },
        versions=versions,
    )
    helper.set_model_props(whole, new.to_metadata())
    return new


def _record(whole: onnx.ModelProto, quantization: dict[str, Any]) -> None:
    """Put what was measured into the metadata."""
    facts = {prop.key: prop.value for prop in whole.metadata_props}
    facts["quantization"] = json.dumps(quantization)
    helper.set_model_props(whole, facts)


def _report(
    card: ExportCard,
    chosen: Setting,
    agreement: Agreement,
    shown: float,
    ratios: dict[int, float],
    options: QuantizeOptions,
) -> dict[str, Any]:
    import onnxruntime

    return {
        **card_facts(card),
        "quantization": {
            **chosen.to_json(),
            "backend": options.backend,
            "quantizer": f"onnxruntime {onnxruntime.__version__}",
            "processor": processor(),
            "min_agreement": options.min_agreement,
            "shown_agreement": float(f"{shown:.4f}"),
            "agreement": agreement.to_json(),
            "times_faster": {f"batch {batch}": round(ratio, 3) for batch, ratio in ratios.items()},
        },
    }
