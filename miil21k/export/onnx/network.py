"""A torch network as an ONNX graph: normalised pixels -> logits and embedding, any batch size."""

from __future__ import annotations

import logging
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

import onnx
import torch
from timm.layers import StdConv2d
from torch import Tensor, nn
from torch.nn import functional

from miil21k.errors import ExportError
from miil21k.export.onnx.graph import OPSET
from miil21k.runtime.torch_backend import fold_batch_norm

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from onnx import ModelProto

__all__ = ["OUTPUTS", "PIXELS", "fold_weight_standardisation", "network_to_onnx", "quiet", "with_embedding"]

PIXELS = "pixels"
OUTPUTS = ("logits", "embedding")


class _WithEmbedding(nn.Module):
    """Returns logits [B, C] and what the classifier multiplies, [B, D], through timm's uniform surface."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        features = self.model.forward_features(pixels)  # type: ignore[operator]
        embedding = self.model.forward_head(features, pre_logits=True)  # type: ignore[operator]
        return self.model.forward_head(features), embedding  # type: ignore[operator]


def with_embedding(model: nn.Module) -> nn.Module:
    """Return pixels -> (logits [B, C], embedding [B, D]), the network that every export holds.

    The model is changed in place: batch norms are folded into convolutions, and standardised weights (BiT) are
    computed once. Raises ExportError when the model lacks timm's `forward_features` and `forward_head`.
    """
    if not hasattr(model, "forward_head"):
        raise ExportError(
            f"{type(model).__name__} has no timm forward_features and forward_head: it gives no embedding."
        )
    model.eval().requires_grad_(False)
    fold_weight_standardisation(model)
    fold_batch_norm(model)
    return _WithEmbedding(model).eval()


def network_to_onnx(model: nn.Module, input_size: tuple[int, int, int], weights_of: Path | None = None) -> ModelProto:
    """Return `model` as ONNX: input `pixels` float32 [batch, C, H, W], outputs `logits` and `embedding`.

    The model is changed in place, as `with_embedding` does. weights_of: the file that is to hold the model; its weights
    are then written to `<weights_of>.data` without being copied, and the returned model only refers to them.
    Raises ExportError when torch's exporter fails, or when the model gives no embedding.
    """
    network = with_embedding(model)
    _keep_zero_padding(model)
    example = torch.zeros(2, *input_size)  # a batch of 1 would be taken for a constant
    try:
        with quiet():
            program = torch.onnx.export(
                network,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                input_names=[PIXELS],
                output_names=list(OUTPUTS),
                dynamic_shapes={PIXELS: {0: torch.export.Dim("batch")}},
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # the exporter fails in as many ways as there are models
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ExportError(
            f"torch {torch.__version__} cannot export {type(model).__name__} to ONNX: {reason}"
        ) from error
    assert program is not None
    if weights_of is None:
        found = program.model_proto
    else:
        program.save(weights_of, external_data=True)
        found = onnx.load(weights_of, load_external_data=False)
    # The rewrite rules of onnxscript remember the last node they saw, and through it every weight.
    for value in program.model.graph.initializers.values():
        value.const_value = None
    return found


def _keep_zero_padding(model: nn.Module) -> None:
    """Give explicit zero padding (BiT's, before its max pooling) a value that is 0 to rounding.

    ONNX Runtime merges a Pad of exactly 0 into the MaxPool behind it, which pads with minus infinity instead.
    """
    for module in model.modules():
        if isinstance(module, nn.ConstantPad2d) and module.value == 0:
            module.value = 1e-30


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what exporters and compilers say about their own insides."""
    names = ("torch.onnx", "torch.export", "torch.utils.cpp_extension", "onnxscript", "onnx_ir")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def fold_weight_standardisation(model: nn.Module) -> int:
    """Replace every weight-standardised convolution by a plain one with the same effect; returns how many."""
    found = [(name, module) for name, module in model.named_modules() if isinstance(module, StdConv2d)]
    for name, module in found:
        weight = functional.batch_norm(
            module.weight.reshape(1, module.out_channels, -1), None, None, training=True, momentum=0.0, eps=module.eps
        ).reshape_as(module.weight)
        plain = nn.Conv2d(
            module.in_channels,
            module.out_channels,
            module.kernel_size,
            module.stride,
            module.padding,
            module.dilation,
            module.groups,
            bias=module.bias is not None,
        )
        plain.weight = nn.Parameter(weight.detach(), requires_grad=False)
        plain.bias = module.bias
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, plain)
    return len(found)
