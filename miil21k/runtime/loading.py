"""How a name becomes a network with its label space and preprocessing, which a runtime of the table can start."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from miil21k.errors import DownloadError, ExportError, LabelSpaceMismatch, MissingExtra, UnknownModel, UsageError
from miil21k.hierarchy.custom import numbered
from miil21k.hierarchy.load import load_label_space
from miil21k.runtime.base import ExportFile
from miil21k.runtime.options import LoadOptions
from miil21k.runtime.registry import export_runtimes, find_runtime
from miil21k.store.cache import Cache, find_cached
from miil21k.text import brief
from miil21k.zoo.manifest import find_weights
from miil21k.zoo.stated_space import stated_space

if TYPE_CHECKING:
    from miil21k.decode.heads import HeadKind
    from miil21k.hierarchy.spaces import LabelSpace
    from miil21k.runtime.base import Backend
    from miil21k.zoo.export_card import ExportCard
    from miil21k.zoo.schema import Preprocess, Weights

__all__ = [
    "DEFAULT_MODEL",
    "FALLBACK_MODEL",
    "Loaded",
    "default_model",
    "head_space",
    "load_model",
    "open_export",
    "preprocess_of",
]

DEFAULT_MODEL = "tresnet_m_21k"
FALLBACK_MODEL = "embedded"
PROVED_IN = "onnx"  # the runtime in which `miil21k export onnx` proves a file
log = logging.getLogger("miil21k.runtime")
OptionsT = TypeVar("OptionsT", bound="LoadOptions")


@dataclass(frozen=True, eq=False)
class Loaded:
    """A network, and what starts it.

    model: a torch module in evaluation mode or not, or the `ExportFile` that a runtime opens. notice: one sentence when
    another model than the preferred one answers, else None. weights_sha256: the digest of its tensors where the file
    recorded it, as exports do. licence: of the weights, None when nobody has said it. runtime: the key in `RUNTIMES` of
    what starts it, on which device and in which dtype. backend: what was started ahead of `start`.
    """

    model: Any  # this room imports no torch
    name: str
    space: LabelSpace
    head: HeadKind
    preprocess: Preprocess
    notice: str | None = None
    weights_sha256: str | None = None
    licence: str | None = None
    runtime: str = "torch"
    device: str = "auto"
    dtype: str = "fp32"
    backend: Backend | None = None

    __repr__ = brief

    def start(self) -> Backend:
        """Return what computes it; a torch module is changed for that, and must not be trained or exported afterwards.

        Raises UsageError for a device or a dtype that is not to be had here, MissingExtra for a library.
        """
        if self.backend is not None:
            return self.backend
        return find_runtime(self.runtime).open(self.model, self.space.num_classes, self.device, self.dtype)


def load_model(name: str | None, options: LoadOptions | None = None, *, nameless: bool = False) -> Loaded:
    """Return the network that `name` and `options.checkpoint` stand for.

    Nothing is looked for in the cache of exports, which `miil21k.runtime.resolve.resolve` does. A name that ends in
    `.onnx` is the path of an export, and no torch is imported; one that ends in `.safetensors` is
    the path of what `miil21k train` wrote.
    A model that was named is loaded or an error is raised. The name may also be any architecture of timm when a
    checkpoint and its label space are given; its logits then mean `options.head`, `leaf_softmax` unless told
    otherwise. Without a name, a checkpoint of `miil21k train` says itself what it is; without either,
    `tresnet_m_21k` is preferred, and `embedded` answers when that is neither cached nor reachable.
    nameless: classes of which nobody has said what they are get numbers, for what does not depend on them.
    """
    options = options or LoadOptions()
    if name is not None and name.endswith(".onnx"):
        return _exported(Path(name), options)
    runtime = "torch" if options.backend == "auto" else options.backend
    _require_network(runtime, name, options)
    found = _network(name, options, nameless=nameless)
    return replace(found, runtime=runtime, device=options.device, dtype=options.dtype)


def _network(name: str | None, options: LoadOptions, *, nameless: bool) -> Loaded:
    if name is not None:
        return _named(name, options, nameless=nameless)
    if options.head is not None:
        raise UsageError("The option head is for a checkpoint of your own: name its architecture as the model.")
    if options.checkpoint is not None:
        return _trained(Path(options.checkpoint), options)
    weights, options, notice = default_model(options)
    return replace(_published(weights, options), notice=notice)


def default_model(options: OptionsT) -> tuple[Weights, OptionsT, str | None]:
    """Return the weights that answer when no model is named, the options for them, and the notice, if any.

    They are fetched when they are not cached; no torch is imported.
    """
    preferred, fallback = find_weights(DEFAULT_MODEL), find_weights(FALLBACK_MODEL)
    cache = Cache.at(options.cache_dir)
    if find_cached(preferred, cache, options.revision) is not None:
        return preferred, options, None
    from miil21k.store.download import obtain

    preprocess_of(preferred, options)  # refused before anything is downloaded
    try:
        obtain(preferred, revision=options.revision, cache_dir=options.cache_dir, offline=options.offline)
    except DownloadError as error:
        try:
            obtain(fallback, cache_dir=options.cache_dir, offline=options.offline)
        except MissingExtra as missing:
            raise DownloadError(f"{error} The model that needs no network is not installed either. {missing}") from None
        log.debug("why: %s", error)
    else:
        return preferred, options, None
    notice = f"'{DEFAULT_MODEL}' is neither cached nor reachable; '{FALLBACK_MODEL}' (ImageNet-1K) answers instead."
    log.warning(notice)
    return fallback, replace(options, revision=None), notice


def _require_network(runtime: str, name: str | None, options: LoadOptions) -> None:
    """Raise UsageError for a runtime that runs exports alone."""
    if find_runtime(runtime).runs == "network":
        return
    words = [name] if name is not None else [] if options.checkpoint is not None else [DEFAULT_MODEL]
    words += [f"--checkpoint {options.checkpoint}"] if options.checkpoint is not None else []
    raise UsageError(
        f"The backend '{runtime}' runs exports: make one with "
        f"'miil21k export onnx {' '.join(words)} -o model.onnx' and name model.onnx as the model."
    )


def _named(name: str, options: LoadOptions, *, nameless: bool) -> Loaded:
    if name.endswith(".safetensors"):
        if options.checkpoint is not None or options.head is not None:
            raise UsageError(f"'{name}' is a checkpoint that says what it is: leave checkpoint and head out.")
        return _trained(Path(name), options)
    from miil21k.zoo.names import Architecture, identify, own_checkpoint

    place: dict[str, Any] = {"cache_dir": options.cache_dir, "offline": options.offline}
    path = own_checkpoint(name, revision=options.revision, **place)
    if path is not None:
        if options.checkpoint is not None or options.head is not None:
            raise UsageError(f"'{name}' says itself what it is: leave checkpoint and head out.")
        return replace(_trained(path, options), name=name)
    found = identify(name, **place)
    if isinstance(found, Architecture):
        if options.checkpoint is None:
            raise UnknownModel(f"{found.refusal} Or pass a checkpoint of your own with --checkpoint.")
        return _own(found.name, options, nameless=nameless)
    weights = found
    if weights.family == "timm":
        weights = weights._replace(head=options.head or weights.head)
    elif options.head is not None:
        raise UsageError(f"The head of '{weights.name}' is known ({weights.head}): leave the option head out.")
    return _published(weights, options, nameless=nameless)


def _published(weights: Weights, options: LoadOptions, *, nameless: bool = False) -> Loaded:
    space = None if options.label_space is not None else stated_space(weights)
    if space is None and not (nameless and weights.label_space is None and options.label_space is None):
        space = load_label_space(head_space(weights, options))
    preprocess = preprocess_of(weights, options)  # refused before anything is downloaded
    sized = _sized(weights.arch, weights.preprocess, options)
    from miil21k.zoo.registry import create_model

    model: Any = create_model(
        weights.name,
        pretrained=options.checkpoint is None,
        checkpoint=options.checkpoint,
        revision=options.revision,
        cache_dir=options.cache_dir,
        offline=options.offline,
        **sized,
    )
    space = space or numbered(model.num_classes)
    _require_classes(model, space, weights.name)
    return Loaded(model, weights.name, space, weights.head, preprocess, licence=weights.licence)


def head_space(weights: Weights, options: LoadOptions) -> str:
    """Return which label space the head of published weights has; raises UsageError when nobody has said it."""
    named = weights.label_space or options.label_space
    if named is None:
        spaces = " or ".join(candidate.label_space for candidate in weights.candidates)
        may_be = f" (it may be {spaces})" if spaces else ""
        raise UsageError(
            f"The label space of '{weights.name}' was never published{may_be}: "
            "say with label_space which one its classes are."
        )
    return named


def preprocess_of(weights: Weights, options: LoadOptions) -> Preprocess:
    """Return how images become what published weights read, with what the user changed."""
    return _preprocess(weights.preprocess, options)


def _own(arch: str, options: LoadOptions, *, nameless: bool) -> Loaded:
    """Return a bare architecture filled with the user's file, preprocessed as timm does for that architecture."""
    from miil21k.zoo.registry import create_model
    from miil21k.zoo.timm_config import own_preprocess

    standard = own_preprocess(arch)
    if options.label_space is None and not nameless:
        raise UsageError(f"'{arch}' is an architecture: say with label_space what the classes of the checkpoint are.")
    preprocess = _preprocess(standard, options)
    model: Any = create_model(arch, checkpoint=options.checkpoint, **_sized(arch, standard, options))
    named = options.label_space
    space = load_label_space(named) if named is not None else numbered(model.num_classes)
    _require_classes(model, space, str(options.checkpoint))
    return Loaded(model, arch, space, options.head or "leaf_softmax", preprocess)


def _require_classes(model: Any, space: LabelSpace, name: str) -> None:
    if model.num_classes != space.num_classes:
        raise LabelSpaceMismatch(
            f"The head of {name} has {model.num_classes} classes, the label space '{space.name}' {space.num_classes}."
        )


def _sized(arch: str, own: Preprocess, options: LoadOptions) -> dict[str, Any]:
    """Return what the architecture must be told about another input size; convolutional networks take any."""
    size = own.input_size[1]
    if options.img_size in (None, size):
        return {}
    if arch.startswith("vit_"):
        return {"dynamic_img_size": True}  # resamples the position embedding in every forward pass
    if arch.startswith(("mixer_", "levit_")):
        raise UsageError(f"'{arch}' has a fixed input of {size} x {size} pixels: leave img_size out.")
    return {}


def _exported(path: Path, options: LoadOptions) -> Loaded:
    if options.checkpoint is not None or options.head is not None:
        raise UsageError(f"'{path}' holds its weights and says what its head is: leave checkpoint and head out.")
    from miil21k.zoo.export_card import read_export_card

    card = read_export_card(path)
    edge = card.preprocess.input_size[1]
    if options.img_size not in (None, edge):
        raise UsageError(f"'{path}' was exported for {edge} x {edge} pixels: leave img_size out.")
    runtime = PROVED_IN if options.backend == "auto" else options.backend
    backend = open_export(path, card, backend=runtime, device=options.device, dtype=options.dtype)
    return Loaded(
        _file(path, card),
        card.model,
        card.space,
        card.head,
        _preprocess(card.preprocess, options),
        weights_sha256=card.weights_sha256,
        licence=card.licence or None,
        runtime=runtime,
        device=options.device,
        dtype=options.dtype,
        backend=backend,
    )


def open_export(path: Path, card: ExportCard, *, backend: str, device: str, dtype: str) -> Backend:
    """Return what runs the export at `path`, whose metadata are `card`.

    backend: a key of `RUNTIMES`. What else is raised is what that runtime raises; UsageError for one that runs none,
    ExportError for an INT8 file whose answers would be others on this processor.
    """
    runtime = find_runtime(backend)
    if runtime.runs == "network":
        *names, last = ("auto", *export_runtimes())
        raise UsageError(
            f"'{path}' is an export, which {runtime.title} does not run: choose --backend {', '.join(names)} or "
            f"{last}, or name the model that it was made from."
        )
    opened = runtime.open(_file(path, card), card.space.num_classes, device, dtype)
    if card.precision == "int8" and opened.device == "cpu":
        _require_exact_products(path, card, backend)
    return opened


def _require_exact_products(path: Path, card: ExportCard, backend: str) -> None:
    from miil21k.runtime.int8_probe import products_are_exact

    quantization = card.quantization
    wide = quantization.get("weight_bits", 8) == 8 and not quantization.get("symmetric")
    if wide and not products_are_exact(backend):
        raise ExportError(
            f"'{path}' was judged where sums of 8-bit products are exact, and those of this processor overflow, so its "
            "answers would be others: quantise the fp32 export here, or anywhere with --weight-bits 7."
        )


def _file(path: Path, card: ExportCard) -> ExportFile:
    return ExportFile(path, card.preprocess.input_size, normalises=card.form == "full", precision=card.precision)


def _trained(path: Path, options: LoadOptions) -> Loaded:
    from miil21k.zoo.checkpoint_card import load_trained

    model, card = load_trained(path)
    return Loaded(model, path.name, card.space, card.head, _preprocess(card.preprocess, options))


def _preprocess(own: Preprocess, options: LoadOptions) -> Preprocess:
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
    return own._replace(**changes)
