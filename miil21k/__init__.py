"""ImageNet-21K-P models that answer with a path through WordNet, and stop where they are no longer sure.

What stands in `__all__` is public, and docs/python.md shows how to use it. The names load on first use, so
`import miil21k` costs no torch, timm, onnxruntime or numpy. No name is that of a room (`miil21k.predict`), since the
order of imports would then decide which of the two a user gets.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from miil21k.calibrate.record import Calibration as Calibration
    from miil21k.calibrate.record import load_calibration as load_calibration
    from miil21k.decode.decoder import Decoder as Decoder
    from miil21k.errors import Miil21kError as Miil21kError
    from miil21k.errors import MissingExtra as MissingExtra
    from miil21k.errors import UsageError as UsageError
    from miil21k.export.onnx.file import export_onnx as export_onnx
    from miil21k.export.options import ExportOptions as ExportOptions
    from miil21k.export.options import QuantizeOptions as QuantizeOptions
    from miil21k.export.quantize.quantize import quantize_onnx as quantize_onnx
    from miil21k.hierarchy.load import load_label_space as load_label_space
    from miil21k.hierarchy.spaces import LabelSpace as LabelSpace
    from miil21k.hierarchy.tree import Tree as Tree
    from miil21k.predict.notebook import to_pandas as to_pandas
    from miil21k.predict.options import PredictOptions as PredictOptions
    from miil21k.predict.prediction import Prediction as Prediction
    from miil21k.predict.predictor import Predictor as Predictor
    from miil21k.runtime.loading import load_model as load_model
    from miil21k.store.download import fetch_weights as fetch_weights
    from miil21k.train.launch import train_model as train_model
    from miil21k.train.options import TrainRequest as TrainRequest
    from miil21k.train.recipe import Recipe as Recipe
    from miil21k.train.recipes import get_recipe as get_recipe
    from miil21k.validate.calibration import calibrate_model as calibrate_model
    from miil21k.validate.options import MeasureOptions as MeasureOptions
    from miil21k.validate.run import MeasureRequest as MeasureRequest
    from miil21k.validate.run import validate_model as validate_model
    from miil21k.zoo.manifest import find_weights as find_weights
    from miil21k.zoo.manifest import list_models as list_models
    from miil21k.zoo.registry import create_model as create_model

__version__ = "0.1.0"

_DOORS = {
    "Calibration": "miil21k.calibrate.record",
    "Decoder": "miil21k.decode.decoder",
    "ExportOptions": "miil21k.export.options",
    "LabelSpace": "miil21k.hierarchy.spaces",
    "MeasureOptions": "miil21k.validate.options",
    "MeasureRequest": "miil21k.validate.run",
    "Miil21kError": "miil21k.errors",
    "MissingExtra": "miil21k.errors",
    "PredictOptions": "miil21k.predict.options",
    "Prediction": "miil21k.predict.prediction",
    "Predictor": "miil21k.predict.predictor",
    "QuantizeOptions": "miil21k.export.options",
    "Recipe": "miil21k.train.recipe",
    "TrainRequest": "miil21k.train.options",
    "Tree": "miil21k.hierarchy.tree",
    "UsageError": "miil21k.errors",
    "calibrate_model": "miil21k.validate.calibration",
    "create_model": "miil21k.zoo.registry",
    "export_onnx": "miil21k.export.onnx.file",
    "fetch_weights": "miil21k.store.download",
    "find_weights": "miil21k.zoo.manifest",
    "get_recipe": "miil21k.train.recipes",
    "list_models": "miil21k.zoo.manifest",
    "load_calibration": "miil21k.calibrate.record",
    "load_label_space": "miil21k.hierarchy.load",
    "load_model": "miil21k.runtime.loading",
    "quantize_onnx": "miil21k.export.quantize.quantize",
    "to_pandas": "miil21k.predict.notebook",
    "train_model": "miil21k.train.launch",
    "validate_model": "miil21k.validate.run",
}

__all__ = [
    "Calibration",
    "Decoder",
    "ExportOptions",
    "LabelSpace",
    "MeasureOptions",
    "MeasureRequest",
    "Miil21kError",
    "MissingExtra",
    "PredictOptions",
    "Prediction",
    "Predictor",
    "QuantizeOptions",
    "Recipe",
    "TrainRequest",
    "Tree",
    "UsageError",
    "__version__",
    "calibrate_model",
    "create_model",
    "export_onnx",
    "fetch_weights",
    "find_weights",
    "get_recipe",
    "list_models",
    "load_calibration",
    "load_label_space",
    "load_model",
    "quantize_onnx",
    "to_pandas",
    "train_model",
    "validate_model",
]


def __getattr__(name: str) -> Any:
    if name not in _DOORS:
        raise AttributeError(f"module 'miil21k' has no attribute '{name}'")
    return getattr(importlib.import_module(_DOORS[name]), name)


def __dir__() -> list[str]:
    return __all__
