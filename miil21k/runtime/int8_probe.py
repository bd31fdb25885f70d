"""Whether products of 8 bits add up exactly on this processor, found by computing some."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

from miil21k.errors import UsageError
from miil21k.runtime.base import ExportFile
from miil21k.runtime.registry import export_runtimes, find_runtime

__all__ = ["products_are_exact"]

# One convolution of 64 channels, uint8 by int8, whose output is 1 where the sum of 64 products of 255 and 127 is exact.
_GRAPH = Path(__file__).parent / "int8_probe.onnx"
_PIXELS = np.full((1, 64, 4, 4), 255, np.float32)


@cache
def products_are_exact(backend: str) -> bool:
    """Return whether the runtime `backend` sums products of uint8 and int8 exactly on this processor.

    x86 processors without VNNI multiply two pairs and add them in 16 bits, which saturates where weights use all 8
    bits: logits then differ from those of other processors. ONNX Runtime is told not to (`EXACT_PRODUCTS`). Asking the
    processor by computing holds on every system, and for whatever kernel the library takes. Raises UsageError for a
    runtime that runs no exports.
    """
    runtime = find_runtime(backend)
    if runtime.runs == "network":
        raise UsageError(f"{runtime.title} does not run INT8 exports; choose {' or '.join(export_runtimes())}.")
    opened = runtime.open(ExportFile(_GRAPH, (64, 4, 4), normalises=False), 16, "cpu", "fp32")
    return bool(np.allclose(opened.run(_PIXELS).logits, 1, atol=0.01))
