"""An export in OpenVINO; torch is never imported, OpenVINO on first use."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from miil21k.environment import available_cpus, need, silence_telemetry
from miil21k.errors import ExportError, UsageError
from miil21k.runtime.base import Outputs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray
    from openvino import CompiledModel, InferRequest, Model

__all__ = ["OpenvinoBackend"]

silence_telemetry()

# OpenVINO makes its table of NumPy's types in the first call that needs it, and gives the GIL away half-way: a second
# thread that needs it then holds the GIL and waits for the table, for ever. So one thread asks for it, in a backend's
# constructor.
_FIRST_USE = threading.Lock()


class OpenvinoBackend:
    """An export of `miil21k export onnx` in OpenVINO, on the CPU; torch and ONNX Runtime are never imported.

    Of a `full` graph only the part from crops to logits is compiled. Calls from several threads run side by side, each
    on its own stream: with `threads(n, callers)` there is one of n threads for each caller, as long as the CPUs are
    enough for them. OpenVINO uses no more threads than there are CPUs.

    path: the `.onnx` file. num_classes: C. normalises: whether its form is `full`. input_size: (3, H, W) of the
    network. device: `auto` or `cpu`. precision: what the file computes in, which becomes the `dtype` of the backend;
    the dtype asked for is that one or `fp32`, the default, or `bf16` for a file in fp32 on a CPU with bfloat16
    instructions, which are left alone otherwise. Logits are float32 in any case.
    Raises MissingExtra where OpenVINO is not installed, UsageError for another device or dtype; `run` raises
    ExportError when OpenVINO refuses the file.
    """

    name = "openvino"
    device = "cpu"

    def __init__(
        self,
        path: Path,
        num_classes: int,
        *,
        normalises: bool,
        input_size: tuple[int, int, int],
        device: str = "auto",
        dtype: str = "fp32",
        precision: str = "fp32",
    ) -> None:
        rounded = (dtype, precision) == ("bf16", "fp32")
        if not rounded and dtype not in ("fp32", precision):
            raise UsageError(f"'{path}' computes in {precision}; {dtype} is for torch models.")
        if device not in ("auto", "cpu"):
            raise UsageError(f"No device '{device}' for OpenVINO here; choose --device cpu, or --backend onnx.")
        openvino = need("openvino", "openvino", "The backend openvino")
        with _FIRST_USE:
            openvino.Type.f32.to_dtype()
        self.dtype, self.num_classes, self.normalises = dtype if rounded else precision, num_classes, normalises
        self._path, self._size = path, input_size
        self._core = openvino.Core()
        if rounded and "BF16" not in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise UsageError(
                "This processor has no bfloat16 instructions, so bf16 would gain nothing: use --dtype fp32."
            )
        self._model: Model | None = None
        self._pools: dict[tuple[int, int], _Pool] = {}
        self._opening = threading.Lock()
        self._threads, self._streams = available_cpus(), 1

    def run(self, images: NDArray[Any], *, embed: bool = False) -> Outputs:
        """Return the logits of `images` and their embedding if asked for.

        images: crops, uint8 [B, H, W, 3], where the backend `normalises`; else float32 [B, 3, H, W] normalised.
        """
        with self._pool().request() as request:
            request.infer({0: np.ascontiguousarray(images)}, share_inputs=True)
            found = [np.array(request.get_output_tensor(index).data) for index in range(1 + embed)]
        return Outputs(found[0], found[1] if embed else None)

    @contextmanager
    def threads(self, count: int, callers: int | None = None) -> Iterator[None]:
        """Let each caller compute on `count` threads; the first call with other numbers compiles the graph again."""
        streams = max(1, min(available_cpus() // count, callers or available_cpus()))
        before, self._threads, self._streams = (self._threads, self._streams), count, streams
        try:
            yield
        finally:
            self._threads, self._streams = before

    def open_ahead(self, threads: int, *, once: bool = False) -> None:
        """Do nothing: the number of callers, which decides what is compiled, is not known yet."""

    def _pool(self) -> _Pool:
        with self._opening:
            numbers = self._threads, self._streams
            if numbers not in self._pools:
                if self._model is None:
                    self._model = self._read()
                self._pools[numbers] = _Pool(self._compile(self._model, *numbers))
            return self._pools[numbers]

    def _read(self) -> Model:
        import openvino

        try:
            model = self._core.read_model(str(self._path))
            return _crops_to_logits(model, self._size[1:]) if self.normalises else model
        except Exception as error:  # its exceptions share no base class
            raise ExportError(
                f"OpenVINO {openvino.__version__} cannot open '{self._path}': {error}. Export the model again, "
                "or use --backend onnx."
            ) from None

    def _compile(self, model: Model, threads: int, streams: int) -> CompiledModel:
        settings = {
            "INFERENCE_PRECISION_HINT": "bf16" if self.dtype == "bf16" else "f32",
            "NUM_STREAMS": streams,
            "INFERENCE_NUM_THREADS": streams * threads,
            "ENABLE_CPU_PINNING": False,  # else the streams of several processes share the first cores
        }
        return self._core.compile_model(model, "CPU", settings)


class _Pool:
    """The infer requests of a compiled graph; each serves one call at a time, and more are made as they are needed."""

    def __init__(self, compiled: CompiledModel) -> None:
        self.compiled = compiled
        self._idle: list[InferRequest] = []
        self._taking = threading.Lock()

    @contextmanager
    def request(self) -> Iterator[InferRequest]:
        with self._taking:
            request = self._idle.pop() if self._idle else self.compiled.create_infer_request()
        try:
            yield request
        finally:
            with self._taking:
                self._idle.append(request)


def _crops_to_logits(full: Model, size: tuple[int, ...]) -> Model:
    """Return the part of a `full` graph from crops, uint8 [B, *size, 3], to logits and embedding.

    OpenVINO has no optional inputs: it reads `crop` as the constant true. The graph is therefore cut where uint8
    becomes float, above `pixels`, which is behind resize and crop.
    """
    import openvino
    from openvino import opset13

    outputs = (output for node in full.get_ordered_ops() for output in node.outputs())
    node = next(output for output in outputs if "pixels" in output.names).get_node()
    while node.get_type_name() != "Convert":
        node = node.input(0).get_source_output().get_node()
    crops = opset13.parameter([-1, *size, 3], openvino.Type.u8, name="crops")
    node.input(0).replace_source_output(opset13.transpose(crops, opset13.constant([0, 3, 1, 2])).output(0))
    return openvino.Model([full.output("logits"), full.output("embedding")], [crops], "miil21k")
