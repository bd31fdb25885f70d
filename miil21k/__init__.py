"""ImageNet-21K-P models that answer with a path through WordNet, and stop where they are no longer sure.

The public names load on first use, so `import miil21k` costs no torch, timm or onnxruntime.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from miil21k.errors import Miil21kError as Miil21kError
    from miil21k.hierarchy.load import load_label_space as load_label_space
    from miil21k.hierarchy.spaces import LabelSpace as LabelSpace
    from miil21k.hierarchy.tree import Tree as Tree
    from miil21k.predict.prediction import Prediction as Prediction
    from miil21k.predict.predictor import Predictor as Predictor
    from miil21k.zoo.manifest import list_models as list_models
    from miil21k.zoo.registry import create_model as create_model

__version__ = "0.1.0"

_DOORS = {
    "LabelSpace": "miil21k.hierarchy.spaces",
    "Miil21kError": "miil21k.errors",
    "Prediction": "miil21k.predict.prediction",
    "Predictor": "miil21k.predict.predictor",
    "Tree": "miil21k.hierarchy.tree",
    "create_model": "miil21k.zoo.registry",
    "list_models": "miil21k.zoo.manifest",
    "load_label_space": "miil21k.hierarchy.load",
}

__all__ = [
    "LabelSpace",
    "Miil21kError",
    "Prediction",
    "Predictor",
    "Tree",
    "__version__",
    "create_model",
    "list_models",
    "load_label_space",
]


def __getattr__(name: str) -> Any:
    if name not in _DOORS:
        raise AttributeError(f"module 'miil21k' has no attribute '{name}'")
    return getattr(importlib.import_module(_DOORS[name]), name)


def __dir__() -> list[str]:
    return __all__
