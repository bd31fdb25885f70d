"""The label space that a row states: by name, or by the label names that a repository of the Hub gives its classes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miil21k.hierarchy.load import load_label_space
from miil21k.hierarchy.spaces import LABEL_SPACES, LabelSpace

if TYPE_CHECKING:
    from miil21k.zoo.schema import Weights

__all__ = ["stated_space"]


def stated_space(weights: Weights) -> LabelSpace | None:
    """Return the label space in which these weights answer, None where nobody has told it.

    `label_names` of a Hub repository are a shipped space where they are its wnids or its names in its order; other
    wnids stand in WordNet's tree, and other names side by side, called after the repository.
    """
    if weights.label_space is not None:
        return load_label_space(weights.label_space)
    names = _names(weights.timm_config.get("label_names"))
    if names is None or len(names) != weights.num_classes:
        return None
    known = next((space for space in map(load_label_space, LABEL_SPACES) if _are(space, names)), None)
    if known is None and len(set(names)) == len(names):
        return _own(weights, names)
    return known


def _names(stated: Any) -> tuple[str, ...] | None:
    """Return the names in the order of the logits; timm writes a list, or a table from number to name."""
    if isinstance(stated, Mapping):
        numbered = {str(number): name for number, name in stated.items()}
        stated = [numbered.get(str(number)) for number in range(len(numbered))]
    if not isinstance(stated, (list, tuple)) or not stated or not all(isinstance(n, str) and n.strip() for n in stated):
        return None
    return tuple(stated)


def _are(space: LabelSpace, names: tuple[str, ...]) -> bool:
    first = tuple(name.partition(",")[0].strip() for name in names)  # "tench, Tinca tinca"
    return space.wnids == names or space.tree.names[: space.num_classes] == first


def _own(weights: Weights, names: tuple[str, ...]) -> LabelSpace:
    from miil21k.hierarchy.custom import from_labels

    described = weights.timm_config.get("label_descriptions")
    words = described if isinstance(described, Mapping) else {}
    place = Path(weights.name.rpartition("/")[2].partition("@")[0])
    where = {name: f"label {number}" for number, name in enumerate(names)}
    return from_labels(place, where, glosses={key: text for key, text in words.items() if isinstance(text, str)})
