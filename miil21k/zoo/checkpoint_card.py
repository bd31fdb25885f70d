"""Checkpoints that `miil21k train` writes: safetensors whose metadata says all that using them needs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from miil21k.errors import CheckpointError, LabelSpaceMismatch, UsageError
from miil21k.hierarchy.load import load_label_space
from miil21k.hierarchy.spaces import LABEL_SPACES, parse_label_space, recorded_space
from miil21k.records import StrictJsonError, parse, to_json
from miil21k.text import brief
from miil21k.zoo.schema import Preprocess, foreign_network

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import nn

    from miil21k.decode.heads import HeadKind
    from miil21k.hierarchy.spaces import LabelSpace

__all__ = ["TrainedCard", "load_trained", "read_card"]

_FORMAT = "1"
_HEADS = ("level_softmax", "leaf_softmax", "sigmoid")


@dataclass(frozen=True)
class TrainedCard:
    """What a trained checkpoint says about itself.

    arch, arch_kwargs: what `timm.create_model` builds; the number of outputs is that of `space`. head: what the
    logits mean. space: the label space, whole, so that logit i is class i of it. preprocess: of evaluation. recipe:
    the name it was trained by. extra: further facts as text (epoch, update, the deciding metric).
    """

    arch: str
    arch_kwargs: Mapping[str, Any]
    head: HeadKind
    space: LabelSpace
    preprocess: Preprocess
    recipe: str
    extra: Mapping[str, str]

    __repr__ = brief

    def to_metadata(self) -> dict[str, str]:
        """Return the card as safetensors stores metadata; a shipped label space by name, any other one whole."""
        shipped = self.space.name in LABEL_SPACES and load_label_space(self.space.name).sha256 == self.space.sha256
        return {
            **self.extra,
            "miil21k_format": _FORMAT,
            "arch": self.arch,
            "arch_kwargs": json.dumps(dict(self.arch_kwargs)),
            "head": self.head,
            "label_space": self.space.name,
            "label_space_sha256": self.space.sha256,
            "label_space_text": "" if shipped else self.space.to_text(),
            "preprocess": json.dumps(to_json(self.preprocess)),
            "recipe": self.recipe,
        }

    def build(self) -> nn.Module:
        """Return the network with fresh weights; raises CheckpointError for an architecture that timm lacks."""
        import timm

        import miil21k.models.ofa  # noqa: F401 - makes the architecture that timm lacks known to timm

        try:
            model: nn.Module = timm.create_model(self.arch, num_classes=self.space.num_classes, **self.arch_kwargs)
        except (RuntimeError, TypeError) as error:
            raise CheckpointError(f"The architecture '{self.arch}' cannot be built here: {error}.") from None
        return model


def read_card(path: Path) -> TrainedCard | None:
    """Return the card of the checkpoint at `path`, None when it is no safetensors file or carries no card.

    Raises CheckpointError when the card is damaged, LabelSpaceMismatch when the shipped label space it names is
    another one in this version of miil21k.
    """
    from safetensors import SafetensorError, safe_open

    if path.suffix != ".safetensors":
        return None
    try:
        with safe_open(path, framework="np") as file:
            metadata: dict[str, str] = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"'{path}' cannot be read as safetensors: {error}.") from None
    if "miil21k_format" not in metadata:
        return None
    try:
        return _from_metadata(metadata)
    except (KeyError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        raise CheckpointError(f"The metadata of '{path}' is damaged ({error}); write the checkpoint again.") from None


def _from_metadata(metadata: dict[str, str]) -> TrainedCard:
    if metadata["miil21k_format"] != _FORMAT or metadata["head"] not in _HEADS:
        raise ValueError(f"format {metadata['miil21k_format']}, head {metadata['head']}")
    text, name = metadata["label_space_text"], metadata["label_space"]
    space = parse_label_space(text, f"label space '{name}'") if text else None
    space = space or recorded_space(name, metadata["label_space_sha256"]) or load_label_space(name)
    if space.sha256 != metadata["label_space_sha256"]:
        raise LabelSpaceMismatch(
            f"The checkpoint was trained on '{name}' ({metadata['label_space_sha256'][:12]}), which is "
            f"{space.sha256[:12]} in this version of miil21k: use the version that wrote it."
        )
    try:
        preprocess = parse(metadata["preprocess"], Preprocess)
    except StrictJsonError as error:
        raise ValueError(f"preprocess, key '{error.path}': {error.found}") from None
    arguments = parse(metadata["arch_kwargs"], dict)
    if (problem := foreign_network(metadata["arch"], arguments)) is not None:
        raise ValueError(f"arch_kwargs: {problem}")
    known = {"format", "miil21k_format", "arch", "arch_kwargs", "head", "recipe", "preprocess"}
    extra = {key: value for key, value in metadata.items() if key not in known and not key.startswith("label_space")}
    return TrainedCard(
        metadata["arch"],
        arguments,
        metadata["head"],  # type: ignore[arg-type] # one of _HEADS, checked above
        space,
        preprocess,
        metadata["recipe"],
        extra,
    )


def load_trained(path: Path) -> tuple[nn.Module, TrainedCard]:
    """Return the model of a trained checkpoint, in eval mode on the CPU, and its card.

    Raises CheckpointError when the file carries no card, CheckpointMismatch when its tensors do not fit.
    """
    from miil21k.zoo.checkpoint import load_strictly, read_state_dict

    card = read_card(path)
    if card is None:
        raise CheckpointError(f"'{path}' was not written by miil21k train: name the model it is of with --model.")
    model = card.build()
    load_strictly(model, read_state_dict(path), f"'{card.arch}'")
    return model.eval(), card
