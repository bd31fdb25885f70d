"""A name in, a model out: `create_model`, and the entry points of `hubconf.py`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import timm
import torch
from timm.models import adapt_input_conv
from torch import nn
from torch.overrides import TorchFunctionMode

from miil21k.errors import CheckpointMismatch, UnknownModel, UsageError
from miil21k.zoo.adapters import LAYOUTS, adapt, foreign_prefix, unwrapped
from miil21k.zoo.checkpoint import load_strictly, read_state_dict
from miil21k.zoo.manifest import list_models, load_manifest
from miil21k.zoo.names import Architecture, identify
from miil21k.zoo.timm_config import timm_cfg

if TYPE_CHECKING:
    from collections.abc import Callable
    from os import PathLike

    from torch import Tensor

    from miil21k.zoo.manifest import Weights

__all__ = ["Architecture", "LoadedFrom", "create_model", "hub_entrypoints", "identify", "list_models"]


class LoadedFrom(NamedTuple):
    """Which weights fill a model.

    name: the canonical name, or the path of a user's file. source: the address of the file, or its path. sha256: of
    the file as it was published, None for a user's file, which nobody has looked at whole.
    """

    name: str
    source: str
    sha256: str | None


def create_model(  # noqa: PLR0913 - the options of torch.hub and timm, one keyword each
    name: str,
    pretrained: bool = False,
    *,
    num_classes: int | None = None,
    in_chans: int = 3,
    checkpoint: str | PathLike[str] | None = None,
    revision: str | None = None,
    cache_dir: str | PathLike[str] | None = None,
    offline: bool | None = None,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    **arch_kwargs: Any,
) -> nn.Module:
    """Return the network called `name`, in training mode as timm returns it.

    name: what `identify` knows: a trained weight of the manifest, one of timm's (`resnet50.a1_in1k`, `hf-hub:...`),
    or a bare architecture, which has no weights of its own.
    pretrained: fill it with the published weights, downloaded on first use. checkpoint: fill it from this file
    instead, in any layout in which these weights were published. num_classes: size of the head; another size
    than the checkpoint's replaces the head by a fresh one (0 removes it), and is no error.
    in_chans: input channels; the first convolution is adapted as timm does it. revision, cache_dir, offline:
    passed on to the download. arch_kwargs: passed on to timm's `create_model` (`drop_rate`, `features_only`, ...).

    The model carries `weights` (its row, or None), `label_space` (None once the head is replaced) and `loaded_from`
    (None: its parameters are random); its `pretrained_cfg` holds the row's default preprocessing.
    Raises UnknownModel, UsageError (a class count is needed; the architecture was never published; no such device),
    CheckpointError and CheckpointMismatch, DownloadError and ChecksumMismatch.
    """
    found = identify(_text(name), cache_dir=cache_dir, offline=offline)
    plan, target = _Building(name, found, num_classes, in_chans, arch_kwargs), (_device(device), _dtype(dtype))
    loaded = None
    if checkpoint is not None:
        model = plan.from_tensors(read_state_dict(Path(checkpoint)), str(checkpoint))
        loaded = LoadedFrom(str(checkpoint), str(checkpoint), None)
    elif pretrained:
        from miil21k.store.cache import address
        from miil21k.store.safetensors_cache import fetch_safetensors

        weights = plan.published()
        file = fetch_safetensors(weights, revision=revision, cache_dir=cache_dir, offline=offline)
        load = plan.from_timm if weights.family == "timm" else plan.from_tensors
        model = load(read_state_dict(file.path), str(file.path))
        loaded = LoadedFrom(weights.name, address(file.source, revision), file.sha256)
    else:
        model = plan.fresh()
    model.loaded_from = loaded  # type: ignore[assignment]
    return model.to(*target)


def _text(name: object) -> str:
    if not isinstance(name, str):
        raise UsageError(f"The name of a model must be text, not {name!r}.")
    return name


class _Building:
    """How to build one model: the row, the head that is wanted, and what timm is told."""

    def __init__(
        self,
        name: str,
        found: Weights | Architecture,
        num_classes: int | None,
        in_chans: int,
        arch_kwargs: dict[str, Any],
    ) -> None:
        counts = (0 if num_classes is None else num_classes, in_chans)
        whole = all(isinstance(n, int) and not isinstance(n, bool) for n in counts)
        if not whole or counts[0] < 0 or counts[1] < 1:
            raise UsageError(
                "num_classes must be a whole number from 0 and in_chans one from 1, "
                f"not {num_classes!r} and {in_chans!r}."
            )
        self.found = found
        self.weights = None if isinstance(found, Architecture) else found
        self.name = name
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.features_only = bool(arch_kwargs.pop("features_only", False))
        of_features = ("out_indices", "feature_cls")
        self.feature_kwargs: dict[str, Any] = {k: arch_kwargs.pop(k) for k in of_features if k in arch_kwargs}
        self.arch = found.name if isinstance(found, Architecture) else found.arch
        self.arch_kwargs = {**({} if self.weights is None else self.weights.arch_kwargs), **arch_kwargs}
        if self.weights is not None and not self.weights.buildable:
            raise UsageError(
                f"{self.weights.name} cannot be built: the configuration of {self.arch} was never published."
            )

    def published(self) -> Weights:
        """Return the row to download. Raises UnknownModel for a bare architecture, which names none."""
        if isinstance(self.found, Architecture):
            raise UnknownModel(f"{self.found.refusal} Or pass checkpoint=FILE.")
        return self.found

    def fresh(self) -> nn.Module:
        """Return the model with random parameters."""
        if self.features_only:
            return self._marked(self._build_features(), None)
        classes = self.num_classes
        if classes is None and self.weights is not None:
            classes = self._published_classes()
        return self._marked(self._build(classes), classes)

    def _published_classes(self) -> int:
        assert self.weights is not None
        if self.weights.num_classes is None:
            known = " or ".join(f"{c.num_classes} ({c.label_space})" for c in self.weights.candidates)
            raise UsageError(
                f"The class count of {self.weights.name} was never published: pass num_classes={known}, "
                "or a checkpoint to read it from."
            )
        return self.weights.num_classes

    def from_tensors(self, raw: dict[str, Tensor], source: str) -> nn.Module:
        """Return the model filled with the tensors of `source`, with its head replaced where that was asked for."""
        expected = self._expected_classes()
        with _SkipParameterInit():
            model = self._build(expected)
        ours = self.weights is not None and self.weights.family != "timm"
        layouts = self.weights.layouts if ours and self.weights else LAYOUTS
        template = {key: tensor.shape for key, tensor in model.state_dict().items()}
        state = adapt(unwrapped(raw, template), layouts, template)
        if (prefix := foreign_prefix(state, template)) is not None:
            raise CheckpointMismatch(
                f"{source} does not fit {self.name}: all its names begin with '{prefix}', and none of the model's "
                "does. Save the state dict of the network inside."
            )
        heads = [f"{head}.weight" for head in _classifiers(model)]
        rows = next((state[head].shape[0] for head in heads if head in state and state[head].ndim), 0)
        wanted = self._wanted_classes(rows, source)
        if rows != expected:
            with _SkipParameterInit():
                model = self._build(rows)
        self._adapt_first_convolution(model, state)
        load_strictly(model, state, self.name)
        if self.features_only:
            model = self._features(state, rows)
        elif wanted != rows:
            model.reset_classifier(wanted)  # type: ignore[operator]
        return self._marked(model, wanted)

    def from_timm(self, raw: dict[str, Tensor], source: str) -> nn.Module:
        """Return the model filled by timm's own loader, which knows what each family's files need."""
        options: dict[str, Any] = {**self._options(), "pretrained_cfg_overlay": {"state_dict": raw}}
        if self.features_only:
            options.update(features_only=True, **self.feature_kwargs)
        try:
            model: nn.Module = timm.create_model(self.arch, True, num_classes=self.num_classes, **options)
        except RuntimeError as error:
            raise CheckpointMismatch(f"{source} does not fit {self.name}: {str(error).strip()}.") from None
        config: dict[str, Any] = getattr(model, "pretrained_cfg", {})
        config.pop("state_dict", None)  # or the model would hold every tensor twice
        return self._marked(model, self.num_classes)

    def _adapt_first_convolution(self, model: nn.Module, state: dict[str, Tensor]) -> None:
        first = f"{_cfg(model)['first_conv']}.weight"
        if self.in_chans == 3 or first not in state:
            return
        try:
            state[first] = adapt_input_conv(self.in_chans, state[first])
        except NotImplementedError:
            raise UsageError(f"The first layer of {self.name} cannot be adapted to {self.in_chans} channels.") from None

    def _expected_classes(self) -> int:
        row = self.weights
        if row is None:
            return self.num_classes or 0
        return row.num_classes or (row.candidates[0].num_classes if row.candidates else 0)

    def _wanted_classes(self, rows: int, source: str) -> int:
        """Return the size of the head that the model ends up with; the checkpoint's has `rows`, 0 if it has none."""
        if self.num_classes is not None:
            return self.num_classes
        if not rows:
            raise CheckpointMismatch(
                f"{source} holds no classifier: pass num_classes to put a fresh one on {self.name}."
            )
        known = set()
        if self.weights is not None:
            counts = (self.weights.num_classes, *(c.num_classes for c in self.weights.candidates))
            known = {count for count in counts if count is not None}
        if known and rows not in known:
            raise CheckpointMismatch(
                f"{source} has a head of {rows} classes, {self.name} one of {' or '.join(map(str, sorted(known)))}: "
                f"pass num_classes={rows} to load it as it is."
            )
        return rows

    def _options(self) -> dict[str, Any]:
        options: dict[str, Any] = {"in_chans": self.in_chans, **self.arch_kwargs}
        if self.weights is not None:
            options["pretrained_cfg"] = timm_cfg(self.weights).to_dict()
        return options

    def _build(self, classes: int | None) -> nn.Module:
        # timm drops what is None and keeps the default of the architecture.
        model: nn.Module = timm.create_model(self.arch, num_classes=classes, **self._options())
        return model

    def _build_features(self, **loading: Any) -> nn.Module:
        options: dict[str, Any] = {**self._options(), **self.feature_kwargs}
        model: nn.Module = timm.create_model(self.arch, features_only=True, **options, **loading)
        return model

    def _features(self, state: dict[str, Tensor], rows: int) -> nn.Module:
        """Return timm's feature extractor over the same tensors, which timm copies in before it wraps the model."""
        own = list(self._build_features().state_dict())
        kept = {key: state[key] for key in own} if state.keys() >= set(own) else state
        overlay: dict[str, Any] = {"state_dict": kept, "num_classes": rows}
        if self.in_chans != 3:
            native = timm.get_pretrained_cfg(self.arch) if self.weights is None else self.weights.preprocess
            overlay["input_size"] = (self.in_chans, *native.input_size[1:])
        return self._build_features(pretrained=True, pretrained_cfg_overlay=overlay)

    def _marked(self, model: nn.Module, classes: int | None) -> nn.Module:
        own_head = (
            not self.features_only
            and self.weights is not None
            and classes is not None
            and classes == self.weights.num_classes
        )
        model.weights = self.weights  # type: ignore[assignment]
        model.label_space = self.weights.label_space if own_head and self.weights else None  # type: ignore[assignment]
        return model


class _SkipParameterInit(TorchFunctionMode):
    """Leave every parameter unset while a model is built: the checkpoint is about to replace all of them.

    Only in-place calls on parameters are skipped, so buffers, which a checkpoint may not hold, are computed.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        target = args[0] if args else (kwargs or {}).get("tensor")
        in_place = name.endswith("_") and not name.startswith("__") and name != "requires_grad_"
        if in_place and isinstance(target, nn.Parameter):
            return target
        return func(*args, **(kwargs or {}))


def _cfg(model: nn.Module) -> dict[str, Any]:
    cfg: Any = model.pretrained_cfg
    return dict(cfg)


def _classifiers(model: nn.Module) -> tuple[str, ...]:
    named = _cfg(model)["classifier"]
    return (named,) if isinstance(named, str) else tuple(named or ())


def _dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    found = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if dtype is not None and not (isinstance(found, torch.dtype) and found.is_floating_point):
        raise UsageError(f"'{dtype}' is no floating-point dtype of torch. Examples: float32, bfloat16, float16.")
    return found


def _device(device: torch.device | str | None) -> torch.device | None:
    """Return the device. Raises UsageError for one that torch does not know or this machine lacks."""
    if device is None:
        return None
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:  # torch raises all of them
        raise UsageError(f"The device '{device}' cannot be used: {str(error).strip().partition('. ')[0]}.") from None
    return found


def hub_entrypoints() -> dict[str, Callable[..., nn.Module]]:
    """Return one function per name for `hubconf.py`: `f(pretrained=True, **kwargs)` as in `create_model`.

    Every canonical name and alias is there, with '.' and '-' written as '_'.
    """
    found = {}
    for weights in load_manifest().models:
        for name in weights.names:
            spelled = name.replace(".", "_").replace("-", "_")
            found[spelled] = _hub_entrypoint(spelled, weights)
    return found


def _hub_entrypoint(name: str, weights: Weights) -> Callable[..., nn.Module]:
    def entrypoint(pretrained: bool = True, **kwargs: Any) -> nn.Module:
        return create_model(weights.name, pretrained, **kwargs)

    space = weights.label_space or "an unpublished label space"
    entrypoint.__name__ = entrypoint.__qualname__ = name
    entrypoint.__doc__ = (
        f"{weights.name}: {weights.arch}, {space}, licence {weights.licence}.\n\n"
        "    pretrained: load the published weights. kwargs: as in miil21k.create_model "
        "(num_classes, checkpoint, revision, cache_dir, offline, dtype, device, in_chans)."
    )
    return entrypoint
