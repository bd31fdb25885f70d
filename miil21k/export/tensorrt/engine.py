"""Build and run a TensorRT engine: the calls into TensorRT 10 and 11, and nothing else. Memory is torch's."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

import torch

from miil21k.errors import ExportError
from miil21k.files import replace_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from miil21k.export.options import EngineOptions

__all__ = ["BuiltEngine", "build_engine", "missing"]


def missing() -> str | None:
    """Return what is not here that an engine needs, in words; None when all is."""
    if importlib.util.find_spec("tensorrt") is None:
        return "the package 'tensorrt' is not installed"
    if not torch.cuda.is_available():
        return "torch finds no CUDA GPU"
    return None


class BuiltEngine:
    """A built engine: its bytes, and a function that runs it on the GPU on which it was built."""

    def __init__(self, plan: bytes) -> None:
        import tensorrt as trt

        self.plan = plan
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise ExportError(f"TensorRT {trt.__version__} cannot load the engine that it has just built.")
        self._context = self._engine.create_execution_context()
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self.facts = {
            "tensorrt": trt.__version__,
            "gpu": torch.cuda.get_device_name(),
            "compute_capability": ".".join(map(str, torch.cuda.get_device_capability())),
        }

    def run(self, pixels: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Return the outputs by name, float32, for float32 [B, C, H, W]; raises ExportError when TensorRT fails."""
        import tensorrt as trt

        types = {trt.float32: torch.float32, trt.float16: torch.float16, trt.bfloat16: torch.bfloat16}
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        inputs = [name for name in names if self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        held: dict[str, torch.Tensor] = {}
        with torch.cuda.stream(self._stream):
            for name in inputs:
                held[name] = torch.from_numpy(pixels).to("cuda", types[self._engine.get_tensor_dtype(name)])
                if not self._context.set_input_shape(name, tuple(pixels.shape)):
                    raise ExportError(f"The engine takes no input of shape {pixels.shape}.")
            for name in names:
                if name not in held:
                    shape = tuple(self._context.get_tensor_shape(name))
                    held[name] = torch.empty(shape, dtype=types[self._engine.get_tensor_dtype(name)], device="cuda")
                self._context.set_tensor_address(name, held[name].data_ptr())
            if not self._context.execute_async_v3(self._stream.cuda_stream):
                raise ExportError("TensorRT could not run the engine; its reason stands above.")
        self._stream.synchronize()
        return {name: held[name].float().cpu().numpy() for name in names if name not in inputs}


def build_engine(
    model: Path, name: str, image: tuple[int, int, int], options: EngineOptions, say: Callable[[str], None]
) -> BuiltEngine:
    """Return the engine of the ONNX file `model`, whose input `name` is [B, *image]; TensorRT talks on stderr.

    Raises ExportError with the parser's sentences when TensorRT cannot read the file, and when it cannot build.
    """
    import tensorrt as trt

    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(model)):
        reasons = [parser.get_error(index).desc() for index in range(parser.num_errors)]
        raise ExportError(
            f"TensorRT {trt.__version__} cannot read '{model}': {'; '.join(reasons) or 'no reason given'}"
        )
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    least, best, most = options.shapes(image)
    profile.set_shape(name, least, best, most)
    if config.add_optimization_profile(profile) < 0:
        raise ExportError(f"TensorRT {trt.__version__} refuses batches of {options.batch} for '{model}'.")
    if not options.tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace << 20)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    cache = _timing_cache(config, options.timing_cache, say)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ExportError(f"TensorRT {trt.__version__} could not build '{model}'; its reason stands above.")
    if cache is not None and options.timing_cache is not None:
        replace_file(options.timing_cache, bytes(cache.serialize()))
    return BuiltEngine(bytes(plan))


def _timing_cache(config: Any, path: Path | None, say: Callable[[str], None]) -> Any:
    """Attach the cache at `path`, or a new one where there is none or where it is of another GPU."""
    if path is None:
        return None
    held = path.read_bytes() if path.exists() else b""
    cache = config.create_timing_cache(held)
    if not config.set_timing_cache(cache, False):
        say(f"'{path}' was measured on another GPU or by another TensorRT: measuring anew")
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache
