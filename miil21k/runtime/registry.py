"""The libraries that compute, in one table. A new one is an entry here and a module with its `Backend` beside this one.

Nothing heavy is imported before a library is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from miil21k.environment import version_of
from miil21k.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from miil21k.runtime.base import Backend, ExportFile

__all__ = ["RUNTIMES", "Runtime", "backend_names", "export_runtimes", "find_runtime"]


@dataclass(frozen=True)
class Runtime:
    """One library that computes logits.

    title: what people call it. runs: what it opens, a torch `network` or an `export`. package, extra: what installs it.
    library: gives its name and version, and the processor where its files are laid out for one; None where it is not
    installed. open: `open(model, num_classes, device, dtype)`, the model being a torch module or an `ExportFile`.
    dtypes: in which it computes what is stored in fp32. devices: kinds that it may be asked for.
    opens_in: seconds until an export of the cache is open. gain: its rate in batches, where torch's is 1. Both are of
    BENCHMARKS.md ("Exports": `mobilenetv3_large_100`, two cores) and decide where this machine has measured nothing.
    prepare: `prepare(plain, target)` writes an `.onnx` file as the cache keeps it; None: as it is.
    """

    title: str
    runs: Literal["network", "export"]
    package: str
    extra: str
    library: Callable[[], str | None]
    open: Callable[[Any, int, str, str], Backend]
    dtypes: tuple[str, ...]
    devices: tuple[str, ...]
    opens_in: float
    gain: float
    prepare: Callable[[Path, Path], None] | None = None


def find_runtime(name: str) -> Runtime:
    """Return the entry of `name`; raises UsageError for a name that has none."""
    try:
        return RUNTIMES[name]
    except KeyError:
        raise UsageError(f"There is no backend '{name}'; choose {', '.join(backend_names())}.") from None


def backend_names() -> tuple[str, ...]:
    """Return what `--backend` takes: `auto`, and every key of the table."""
    return ("auto", *RUNTIMES)


def export_runtimes() -> tuple[str, ...]:
    """Return the keys of those that run exports."""
    return tuple(name for name, runtime in RUNTIMES.items() if runtime.runs == "export")


def _torch_library() -> str | None:
    return _distribution("torch")


def _open_torch(model: Any, num_classes: int, device: str, dtype: str) -> Backend:
    from miil21k.runtime.torch_backend import TorchBackend

    return TorchBackend(model, num_classes, device=device, dtype=dtype)


def _onnx_library() -> str | None:
    from miil21k.runtime.onnx_backend import library

    return library()


def _open_onnx(file: ExportFile, num_classes: int, device: str, dtype: str) -> Backend:
    from miil21k.runtime.onnx_backend import OnnxBackend

    return OnnxBackend(
        file.path,
        num_classes,
        normalises=file.normalises,
        device=device,
        dtype=dtype,
        precision=file.precision,
        optimised=file.prepared,
    )


def _optimise(plain: Path, target: Path) -> None:
    from miil21k.runtime.onnx_backend import optimise

    optimise(plain, target)


def _openvino_library() -> str | None:
    return _distribution("openvino")


def _open_openvino(file: ExportFile, num_classes: int, device: str, dtype: str) -> Backend:
    from miil21k.runtime.openvino_backend import OpenvinoBackend

    return OpenvinoBackend(
        file.path,
        num_classes,
        normalises=file.normalises,
        input_size=file.input_size,
        device=device,
        dtype=dtype,
        precision=file.precision,
    )


def _distribution(name: str) -> str | None:
    version = version_of(name)
    return None if version is None else f"{name} {version}"


RUNTIMES: dict[str, Runtime] = {
    "torch": Runtime(
        title="torch",
        runs="network",
        package="torch",
        extra="",
        library=_torch_library,
        open=_open_torch,
        dtypes=("fp32", "fp16", "bf16"),
        devices=("cpu", "cuda", "mps"),
        opens_in=3.0,
        gain=1.0,
    ),
    "onnx": Runtime(
        title="ONNX Runtime",
        runs="export",
        package="onnxruntime",
        extra="export",
        library=_onnx_library,
        open=_open_onnx,
        dtypes=("fp32",),
        devices=("cpu", "cuda"),
        opens_in=0.02,
        gain=1.4,
        prepare=_optimise,
    ),
    "openvino": Runtime(
        title="OpenVINO",
        runs="export",
        package="openvino",
        extra="openvino",
        library=_openvino_library,
        open=_open_openvino,
        dtypes=("fp32", "bf16"),
        devices=("cpu",),
        opens_in=0.3,
        gain=1.5,
    ),
}
