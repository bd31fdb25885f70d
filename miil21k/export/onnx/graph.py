"""Write ONNX graphs node by node."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import helper, numpy_helper

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from onnx import NodeProto, TensorProto

__all__ = ["IR_VERSION", "OPSET", "GraphWriter"]

# The first opset with an antialiased Resize, and the one that torch's exporter writes natively; ONNX Runtime reads it
# since 1.14 and TensorRT since 8.6.
OPSET = 18
IR_VERSION = 10


class GraphWriter:
    """Collects nodes and constants under names that start with `prefix`."""

    def __init__(self, prefix: str) -> None:
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = []
        self._prefix = prefix
        self._constants: dict[tuple[type[np.generic], tuple[int, ...], bytes], str] = {}

    def constant(self, values: ArrayLike, dtype: type[np.generic]) -> str:
        """Return the name of a constant tensor; equal ones are kept once."""
        tensor = np.asarray(values, dtype)
        key = dtype, tensor.shape, tensor.tobytes()
        if key not in self._constants:
            name = f"{self._prefix}/constant_{len(self.initializers)}"
            self._constants[key] = self.named(name, tensor, dtype)
        return self._constants[key]

    def named(self, name: str, values: ArrayLike, dtype: type[np.generic]) -> str:
        """Add an initializer and return its name; named like a graph input, it is the default of that input."""
        self.initializers.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def add(self, kind: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """Add a node of one output and return that output's name."""
        return self.split(kind, *inputs, outputs=[output or f"{self._prefix}/{kind}_{len(self.nodes)}"], **attributes)[
            0
        ]

    def split(self, kind: str, *inputs: str, outputs: list[str] | int, **attributes: Any) -> list[str]:
        """Add a node of several outputs (their names, or how many) and return their names."""
        number = len(self.nodes)
        if isinstance(outputs, int):
            outputs = [f"{self._prefix}/{kind}_{number}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, outputs, f"{self._prefix}/{kind}_{number}", **attributes))
        return outputs
