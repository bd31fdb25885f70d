"""Which weights answer, and how they become a network with its label space and preprocessing."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miil21k.backends import OnnxBackend
from miil21k.errors import DownloadError, MissingExtra, UsageError
from miil21k.hierarchy.spaces import load_label_space
from miil21k.zoo.exported import read_export_card
from miil21k.zoo.manifest import find_weights

if TYPE_CHECKING:
    from miil21k.decode.logits import HeadKind
    from miil21k.hierarchy.spaces import LabelSpace
    from miil21k.predict.options import PredictOptions
    from miil21k.zoo.schema import Preprocess, Weights

__all__ = ["DEFAULT_MODEL", "FALLBACK_MODEL", "Loaded", "load"]

DEFAULT_MODEL = "tresnet_m_21k"
FALLBACK_MODEL = "embedded"
log = logging.getLogger("miil21k.predict")


@dataclass(frozen=True, eq=False)
class Loaded:
    """A network ready to run.

    notice: one sentence when another model than the preferred one answers, else None. weights_sha256: the digest of
    its tensors where the file recorded it, as exports do.
    """

    model: Any  # a torch nn.Module, or the OnnxBackend of an export; this room imports no torch
    name: str
    space: LabelSpace
    head: HeadKind
    preprocess: Preprocess
    notice: str | None = None
    weights_sha256: str | None = None


def load(name: str | None, options: PredictOptions) -> Loaded:
    """Return the network that `name` and `options.checkpoint` stand for.

    A name that ends in `.onnx` is the path of an export, and no torch is imported.
    A model that was named is loaded or an error is raised. Without a name, a checkpoint of `miil21k train` says
    itself what it is; without either, `tresnet_m_21k` is preferred, and `embedded` answers when that is neither
    cached nor reachable.
    """
    if name is None and options.checkpoint is not None:
        return _trained(Path(options.checkpoint), options)
    if name is not None and name.endswith(".onnx"):
        return _exported(Path(name), options)
    if name is not None:
        return _published(find_weights(name), options)
    try:
        return _published(find_weights(DEFAULT_MODEL), options)
    except DownloadError as error:
        notice = f"'{DEFAULT_MODEL}' is neither cached nor reachable; '{FALLBACK_MODEL}' (ImageNet-1K) answers instead."
        try:
            loaded = _published(find_weights(FALLBACK_MODEL), replace(options, revision=None))
        except MissingExtra as missing:
            raise DownloadError(f"{error} The model that needs no network is not installed either. {missing}") from None
        log.warning(notice)
        log.debug("why: %s", error)
        return replace(loaded, notice=notice)


def _published(weights: Weights, options: PredictOptions) -> Loaded:
    if weights.label_space is None:
        spaces = " or ".join(candidate.label_space for candidate in weights.candidates)
        raise UsageError(
            f"The label space of '{weights.name}' was never published (it may be {spaces}): it cannot be decoded."
        )
    preprocess = _preprocess(weights.preprocess, options)  # refused before anything is downloaded
    sized = _sized(weights, options)
    from miil21k.zoo.registry import create_model

    model = create_model(
        weights.name,
        pretrained=options.checkpoint is None,
        checkpoint=options.checkpoint,
        revision=options.revision,
        cache_dir=options.cache_dir,
        offline=options.offline,
        **sized,
    )
    return Loaded(model, weights.name, load_label_space(weights.label_space), weights.head, preprocess)


def _sized(weights: Weights, options: PredictOptions) -> dict[str, Any]:
    """Return what the architecture must be told about another input size; convolutional networks take any."""
    if options.img_size in (None, weights.preprocess.input_size[1]):
        return {}
    if weights.arch.startswith("vit_"):
        return {"dynamic_img_size": True}  # resamples the position embedding in every forward pass
    if weights.arch.startswith(("mixer_", "levit_")):
        size = weights.preprocess.input_size[1]
        raise UsageError(f"'{weights.name}' has a fixed input of {size} x {size} pixels: leave img_size out.")
    return {}


def _exported(path: Path, options: PredictOptions) -> Loaded:
    if options.checkpoint is not None:
        raise UsageError(f"'{path}' holds its weights: leave the checkpoint out, or export that one.")
    card = read_export_card(path)
    edge = card.preprocess.input_size[1]
    if options.img_size not in (None, edge):
        raise UsageError(f"'{path}' was exported for {edge} x {edge} pixels: leave img_size out.")
    backend = OnnxBackend(
        path,
        card.space.num_classes,
        normalises=card.form == "full",
        device=options.device,
        dtype=options.dtype,
    )
    preprocess = _preprocess(card.preprocess, options)
    return Loaded(backend, card.model, card.space, card.head, preprocess, weights_sha256=card.weights_sha256)


def _trained(path: Path, options: PredictOptions) -> Loaded:
    from miil21k.zoo.trained import load_trained

    model, card = load_trained(path)
    return Loaded(model, path.name, card.space, card.head, _preprocess(card.preprocess, options))


def _preprocess(own: Preprocess, options: PredictOptions) -> Preprocess:
    """Return the preprocessing with what the user changed; raises UsageError for values that make no sense."""
    changes: dict[str, Any] = {
        key: getattr(options, key)
        for key in ("crop_pct", "interpolation", "crop_mode")
        if getattr(options, key) is not None
    }
    if options.img_size is not None:
        changes["input_size"] = (own.input_size[0], options.img_size, options.img_size)
    if changes:
        changes["source"] = f"{own.source}; changed by the user: {', '.join(changes)}"
    return replace(own, **changes)
