"""A torch model as a backend; torch is imported on first use."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from miil21k.errors import UsageError
from miil21k.runtime.base import Outputs

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from numpy.typing import NDArray
    from torch import nn

__all__ = ["FeatureMap", "TorchBackend", "choose_device", "fold_batch_norm"]


def choose_device(wanted: str = "auto") -> str:
    """Return the torch device to use: `auto` takes CUDA, else MPS, else the CPU.

    wanted: `auto`, `cpu`, `mps`, `cuda` or `cuda:<index>`. Raises UsageError for any other name, and for a device
    that this machine or this build of torch does not have; it never falls back in silence.
    """
    import torch

    kind, _, index = wanted.partition(":")
    if kind not in ("auto", "cpu", "cuda", "mps") or (index and (kind != "cuda" or not index.isdecimal())):
        raise UsageError(f"No device '{wanted}'; choose auto, cpu, mps, cuda or cuda:<index>.")
    gpus = torch.cuda.device_count() if kind in ("auto", "cuda") and torch.cuda.is_available() else 0
    has_mps = kind in ("auto", "mps") and torch.backends.mps.is_available()
    if kind == "auto":
        return "cuda" if gpus else "mps" if has_mps else "cpu"
    if kind == "cuda" and int(index or 0) >= gpus:
        raise UsageError(
            f"Device '{wanted}' was asked for, but torch {torch.__version__} sees {gpus} CUDA devices here: "
            "choose --device cpu, or install a CUDA build of torch and its driver."
        )
    if kind == "mps" and not has_mps:
        raise UsageError("Device 'mps' was asked for, but this machine or this build of torch lacks it: use cpu.")
    return wanted


class FeatureMap(NamedTuple):
    """What a head that is linear over average-pooled features made of one image: logits = weight @ mean + bias.

    features: float32 [D, h, w], before the pooling. weight: float32 [C, D]. logits: float32 [C].
    """

    features: NDArray[np.float32]
    weight: NDArray[np.float32]
    logits: NDArray[np.float32]


class TorchBackend:
    """A torch model in evaluation mode, channels last, with its batch norms folded into its convolutions.

    The model is changed in place and must not be trained afterwards. Folding moves logits by rounding only
    (relative 1e-4 at most). device: what `choose_device` takes. dtype: `fp32`, `fp16` or `bf16`.
    """

    name = "torch"
    normalises = False

    def __init__(self, model: nn.Module, num_classes: int, *, device: str = "auto", dtype: str = "fp32") -> None:
        import torch

        self.device = choose_device(device)
        self.dtype = dtype
        self.num_classes = num_classes
        types = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
        if dtype not in types:
            raise UsageError(f"dtype must be one of {', '.join(types)}, not '{dtype}'.")
        self._type = types[dtype]
        model.eval().requires_grad_(False)
        fold_batch_norm(model)
        model.to(device=self.device, dtype=self._type)
        self._model: Any = model.to(memory_format=torch.channels_last)  # Any: timm's forward_head is untyped

    def run(self, images: NDArray[np.float32], *, embed: bool = False) -> Outputs:
        """Return the logits of `images`, float32 [B, 3, H, W] normalised, and their embedding if asked for.

        The embedding is timm's `forward_head(..., pre_logits=True)`: the features that the classifier multiplies.
        Raises UsageError when it is asked of a model without timm's `forward_head`.
        """
        import torch

        with torch.inference_mode():
            batch = torch.from_numpy(images).to(self.device, self._type, memory_format=torch.channels_last)
            if not embed:
                return Outputs(_to_numpy(self._model(batch)), None)
            if not hasattr(self._model, "forward_head"):
                raise UsageError(f"{type(self._model).__name__} has no timm forward_head, so it gives no embeddings.")
            features = self._model.forward_features(batch)
            embedding = self._model.forward_head(features, pre_logits=True)
            return Outputs(_to_numpy(self._model.forward_head(features)), _to_numpy(embedding))

    def feature_map(self, image: NDArray[np.float32]) -> FeatureMap:
        """Return what the head pools and how it weighs that, of `image`, float32 [1, 3, H, W] normalised.

        Raises UsageError unless the head is one linear layer over the mean of the features: with these features, the
        network's logits are compared with what that layer makes of their mean.
        """
        import torch
        from torch import nn

        model = self._model
        with torch.inference_mode():
            classifier = model.get_classifier() if hasattr(model, "get_classifier") else None
            if isinstance(classifier, nn.Linear) and hasattr(model, "forward_head"):
                batch = torch.from_numpy(image).to(self.device, self._type, memory_format=torch.channels_last)
                features = model.forward_features(batch)
                logits = model.forward_head(features)[0].float()
                if features.ndim == 4 and features.shape[1] == classifier.in_features:
                    made = classifier(features.mean((2, 3)))[0].float()
                    tolerance = 1e-3 if self._type == torch.float32 else 0.05
                    if (made - logits).abs().max() <= tolerance * logits.abs().max():
                        return FeatureMap(*map(_to_numpy, (features[0], classifier.weight, logits)))
        raise UsageError(
            f"The head of {type(model).__name__} is not one linear layer over average-pooled features, "
            "so there is no exact map of where the evidence is."
        )

    @contextmanager
    def threads(self, count: int, callers: int | None = None) -> Iterator[None]:  # noqa: ARG002 - torch does not care
        """Let torch use `count` threads inside one operation; a setting of the whole process, put back at the end."""
        import torch

        before = torch.get_num_threads()
        torch.set_num_threads(count)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def open_ahead(self, threads: int, *, once: bool = False) -> None:
        """Do nothing: the network is ready."""


def _to_numpy(tensor: torch.Tensor) -> NDArray[np.float32]:
    return np.asarray(tensor.float().cpu().numpy())


def fold_batch_norm(model: nn.Module) -> int:
    """Fold every batch norm that alone reads a convolution into that convolution, in place; returns how many.

    The pairs are read from the traced graph, so that a convolution whose output goes elsewhere too is left alone;
    a model that cannot be traced is left as it is. `model` must be in evaluation mode.
    """
    from torch import nn
    from torch.nn.utils.fusion import fuse_conv_bn_weights

    pairs = _conv_norm_pairs(model)
    for conv_name, norm_name in pairs:
        conv, norm = model.get_submodule(conv_name), model.get_submodule(norm_name)
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        # timm's BatchNormAct2d carries the activation that follows the norm (and a drop, idle in evaluation).
        parent, _, child = norm_name.rpartition(".")
        setattr(model.get_submodule(parent), child, getattr(norm, "act", nn.Identity()))
    return len(pairs)


def _conv_norm_pairs(model: nn.Module) -> list[tuple[str, str]]:
    from torch import fx, nn

    class Tracer(fx.Tracer):
        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            whole = isinstance(m, (nn.Conv2d, nn.BatchNorm2d))
            return whole or super().is_leaf_module(m, module_qualified_name)

    try:
        nodes = [node for node in Tracer().trace(model).nodes if node.op == "call_module"]
    except Exception:  # tracing fails in as many ways as there are models; an unfolded model is only slower
        return []
    modules = dict(model.named_modules())
    calls = [str(node.target) for node in nodes]
    pairs = []
    for node in nodes:
        before = node.args[0] if node.args else None
        norm = modules[str(node.target)]
        if not isinstance(norm, nn.BatchNorm2d) or norm.running_mean is None or not isinstance(before, fx.Node):
            continue
        if before.op != "call_module" or not isinstance(modules[str(before.target)], nn.Conv2d):
            continue
        names = (str(before.target), str(node.target))
        if len(before.users) == 1 and all(calls.count(name) == 1 for name in names):
            pairs.append(names)
    return pairs
