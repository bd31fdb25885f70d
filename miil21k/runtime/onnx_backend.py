"""An export in ONNX Runtime; torch is never imported, ONNX Runtime on first use."""

from __future__ import annotations

import threading
from contextlib import contextmanager, suppress
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from miil21k.environment import available_cpus, silence_telemetry
from miil21k.errors import ExportError, Miil21kError, UsageError
from miil21k.runtime.base import Outputs
from miil21k.runtime.machine import processor

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray
    from onnxruntime import InferenceSession, RunOptions

__all__ = ["EXACT_PRODUCTS", "OnnxBackend", "execution_provider", "library", "optimise"]

silence_telemetry()

_LEAST_MAPPED = "1024"  # bytes; smaller tensors stay in the graph
# x86 processors without VNNI add two products of uint8 and int8 in 16 bits, which saturates. With this ONNX Runtime
# turns the weights of such a graph into uint8, whose sums are exact there; on other processors it changes nothing.
EXACT_PRODUCTS = ("session.x64quantprecision", "1")


class OnnxBackend:
    """An export of `miil21k export onnx` in ONNX Runtime; torch is never imported.

    path: the `.onnx` file. num_classes: C. normalises: whether its form is `full`. device: `auto` (CUDA where this
    build of ONNX Runtime has it, else the CPU), `cpu`, `cuda` or `cuda:<index>`. precision: what the file computes in,
    which becomes the `dtype` of the backend; the dtype asked for is that one or `fp32`, the default. optimised: ONNX
    Runtime has optimised the graph for this processor already, so it is opened as it is.
    Raises UsageError for another device or dtype, or a provider that is not there or does not start; `run` raises
    ExportError when ONNX Runtime refuses the file.
    """

    name = "onnx"

    def __init__(
        self,
        path: Path,
        num_classes: int,
        *,
        normalises: bool,
        device: str = "auto",
        dtype: str = "fp32",
        precision: str = "fp32",
        optimised: bool = False,
    ) -> None:
        if dtype not in ("fp32", precision):
            others = "torch models and, from exports in fp32, OpenVINO" if dtype == "bf16" else "torch models"
            raise UsageError(f"'{path}' computes in {precision} in ONNX Runtime; {dtype} is for {others}.")
        self.dtype, self.num_classes, self.normalises = precision, num_classes, normalises
        self._path, self._optimised = path, optimised
        self._provider = execution_provider(device)
        self.device = "cpu" if self._provider[0].startswith("CPU") else device.replace("auto", "cuda")
        self._sessions: dict[int, InferenceSession] = {}
        self._opening = threading.Lock()
        self._threads = available_cpus()
        if self.device != "cpu":
            self._session()  # a driver that is missing is told now

    def run(self, images: NDArray[Any], *, embed: bool = False) -> Outputs:
        """Return the logits of `images` and their embedding if asked for.

        images: crops, uint8 [B, H, W, 3], where the backend `normalises`; else float32 [B, 3, H, W] normalised.
        """
        session = self._session()
        feed = {session.get_inputs()[0].name: np.ascontiguousarray(images)}
        if any(value.name == "crop" for value in session.get_overridable_initializers()):
            feed["crop"] = np.array(False)
        found = session.run(["logits", "embedding"] if embed else ["logits"], feed, _only_what_is_asked())
        return Outputs(found[0], found[1] if embed else None)

    @contextmanager
    def threads(self, count: int, callers: int | None = None) -> Iterator[None]:  # noqa: ARG002 - sessions do not care
        """Let each call compute on `count` threads; the first call with another count opens the file again."""
        before, self._threads = self._threads, count
        try:
            yield
        finally:
            self._threads = before

    def open_ahead(self, threads: int, *, once: bool = False) -> None:
        """Begin to open the file for calls of that many threads, beside other work; `run` tells of a failure.

        once: for a single call, so that the threads do not wait for it in a loop, on processors that have other work.
        """

        def work() -> None:
            with suppress(Miil21kError), self._opening:
                self._sessions[threads] = self._open(threads, spin=not once)

        threading.Thread(target=work, name="miil21k-open").start()

    def _session(self) -> InferenceSession:
        with self._opening:
            count = self._threads if self.device == "cpu" else 0
            if count not in self._sessions:
                self._sessions[count] = self._open(count)
            return self._sessions[count]

    def _open(self, threads: int, *, spin: bool = True) -> InferenceSession:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        options.add_session_config_entry(*EXACT_PRODUCTS)
        if not spin:
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if self._optimised:
            # Packing copies weights that are mapped into memory; measured, it makes no later call faster.
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
            options.add_session_config_entry("session.disable_prepacking", "1")
        try:
            session = ort.InferenceSession(str(self._path), options, providers=[self._provider])
        except Exception as error:  # its exceptions share no base class
            raise ExportError(
                f"ONNX Runtime {ort.__version__} cannot open '{self._path}': {error}. Export the model again."
            ) from None
        if session.get_providers()[0] != self._provider[0]:
            raise UsageError(
                f"{self._provider[0]} did not start: install its driver and libraries, or use --device cpu."
            )
        return session


def _only_what_is_asked() -> RunOptions:
    """Return options by which nodes that no wanted output needs are left out (ONNX Runtime would run them)."""
    import onnxruntime as ort

    options = ort.RunOptions()
    options.only_execute_path_to_fetches = True
    return options


def execution_provider(device: str) -> tuple[str, dict[str, Any]]:
    """Return ONNX Runtime's provider for a device of `choose_device`, with its settings; never another one."""
    import onnxruntime as ort

    kind, _, index = device.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (index and (kind != "cuda" or not index.isdecimal())):
        raise UsageError(f"No device '{device}' in ONNX Runtime; choose auto, cpu, cuda or cuda:<index>.")
    has_cuda = "CUDAExecutionProvider" in ort.get_available_providers()
    if kind == "cuda" and not has_cuda:
        raise UsageError(
            f"Device '{device}' was asked for, but this build of ONNX Runtime ({ort.__version__}) has no CUDA: "
            "choose --device cpu, or replace the package onnxruntime by onnxruntime-gpu."
        )
    if kind == "cpu" or not has_cuda:
        return "CPUExecutionProvider", {}
    return "CUDAExecutionProvider", {"device_id": index or "0"}


@cache
def library() -> str | None:
    """Return ONNX Runtime's version and this processor, for which it lays graphs out; None where there is none."""
    try:
        import onnxruntime
    except ImportError:
        return None
    return f"onnxruntime {onnxruntime.__version__}, {processor()}"


def optimise(plain: Path, target: Path) -> None:
    """Write the graph `plain` as ONNX Runtime optimises it for this processor, its tensors beside it in a mapped file.

    Raises ExportError when ONNX Runtime refuses it.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.optimized_model_filepath = str(target)
    weights = f"{target.name}.data"
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", weights)
    options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", _LEAST_MAPPED)
    try:
        ort.InferenceSession(str(plain), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions share no base class
        raise ExportError(f"ONNX Runtime {ort.__version__} cannot optimise the export: {error}") from None
