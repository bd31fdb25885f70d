"""A proved TensorRT engine with its report beside it; or nothing."""

from __future__ import annotations

import hashlib
import json
import shlex
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import onnx
from onnx import TensorProto

from miil21k.data.images import load_image
from miil21k.data.transforms import crop_image, normalise
from miil21k.errors import ExportError, UsageError
from miil21k.export.onnx.network import OUTPUTS
from miil21k.export.onnx.proof import BOUNDS, open_session
from miil21k.export.onnx.samples import BATCHES
from miil21k.export.options import EngineOptions
from miil21k.export.tensorrt.engine import build_engine, missing
from miil21k.files import atomic, replace_file, sweep
from miil21k.zoo.export_card import read_export_card

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from miil21k.zoo.export_card import ExportCard

__all__ = ["PRECISION_BOUNDS", "RunningEngine", "export_tensorrt", "plan_command", "precision_of", "trtexec_line"]

# How far logits may be from ONNX Runtime's on the same file, relative to their range.
PRECISION_BOUNDS = {"float32": BOUNDS.logits, "tf32": 5e-3, "float16": 2e-2, "int8": 5e-2}


class RunningEngine(Protocol):
    """What the proof needs of an engine."""

    plan: bytes
    facts: dict[str, str]

    def run(self, pixels: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Return the outputs by name for float32 [B, C, H, W]."""
        ...


def plan_command(model: Path, output: Path, options: EngineOptions) -> str:
    """Return the `trtexec` line for the export at `model`; whether TensorRT takes its operators, its parser says there.

    Raises CheckpointError for a file that is no export, UsageError for one that no engine can be built of.
    """
    card, graph = _opened(model)
    return trtexec_line(model, output, graph.graph.input[0].name, card.preprocess.input_size, options)


def trtexec_line(model: Path, output: Path, name: str, image: tuple[int, int, int], options: EngineOptions) -> str:
    """Return the command of TensorRT 10 and 11 that builds the same engine; `name` is the input's."""
    words = ["trtexec", f"--onnx={model}", f"--saveEngine={output}"]
    for title, shape in zip(("min", "opt", "max"), options.shapes(image), strict=True):
        words.append(f"--{title}Shapes={name}:{'x'.join(map(str, shape))}")
    words.append("--stronglyTyped")  # TensorRT 11 always is, and takes the flag
    if not options.tf32:
        words.append("--noTF32")
    if options.workspace is not None:
        words.append(f"--memPoolSize=workspace:{options.workspace}")
    if options.timing_cache is not None:
        words.append(f"--timingCacheFile={options.timing_cache}")
    if options.version_compatible:
        words.append("--versionCompatible")
    if options.optimization_level is not None:
        words.append(f"--builderOptimizationLevel={options.optimization_level}")
    return shlex.join([*words, "--skipInference"])


def precision_of(graph: onnx.ModelProto) -> str:
    """Return `int8` for a graph with quantised tensors, `float16` for one with weights of that type, or `float32`."""
    if any(node.op_type == "QuantizeLinear" for node in graph.graph.node):
        return "int8"
    halves = any(tensor.data_type == TensorProto.FLOAT16 for tensor in graph.graph.initializer)
    return "float16" if halves else "float32"


def export_tensorrt(
    model: Path,
    output: Path,
    options: EngineOptions | None = None,
    *,
    bound: float | None = None,
    photos: Sequence[Path] = (),
    say: Callable[[str], None] = lambda _: None,
    build: Callable[..., RunningEngine] | None = None,
) -> dict[str, Any]:
    """Build the engine of an export of the form `tensor`, prove it, and return the report kept as `<output>.json`.

    Types are those of the file: float32, float16, or int8 of a quantiser that is symmetric about zero. bound: how far
    logits may be from ONNX Runtime's, relative to their range; by the precision when None. photos: pictures to prove
    it on, besides noise. build: makes the engine; TensorRT unless given.
    An existing file is replaced by a proved engine or stays as it was. Raises as `plan_command`; ExportError when
    TensorRT or a GPU is missing, with the line for `trtexec`, when it cannot build, or when the bound is missed.
    """
    options = options or EngineOptions()
    if not output.parent.is_dir():
        raise UsageError(f"There is no folder '{output.parent}'.")
    card, graph = _opened(model)
    image = card.preprocess.input_size
    name = graph.graph.input[0].name
    lacking = missing() if build is None else None
    if lacking is not None:
        raise ExportError(
            f"An engine is built where it will run, and {lacking}: pip install 'miil21k[tensorrt]' on a machine with "
            f"the GPU, or run there:\n  {trtexec_line(model, output, name, image, options)}"
        )
    precision = precision_of(graph)
    kind = "tf32" if precision == "float32" and options.tf32 else precision
    bound = PRECISION_BOUNDS[kind] if bound is None else bound
    say(f"building {output.name} ({precision}, batches of {', '.join(map(str, options.batch))})")
    engine = (build or build_engine)(model, name, image, options, say)
    say("proving it against ONNX Runtime")
    rows = _measure(engine, model, card, options, photos)
    worst = max(row["logits"] for row in rows)
    report = {
        "schema": 1,
        "onnx": {"name": model.name, "sha256": hashlib.sha256(model.read_bytes()).hexdigest()},
        **{key: value for key, value in card.to_metadata().items() if key in _KEPT},
        "precision": kind,
        "batch": list(options.batch),
        "input": [name, *image],
        "engine": engine.facts,
        "bytes": len(engine.plan),
        "proof": {"bound": bound, "logits": worst, "rows": rows},
    }
    if worst > bound:
        raise ExportError(
            f"The engine's logits are {worst:.3g} of their range from ONNX Runtime's on the same file, over {bound:g}, "
            "so it was not kept: keep more of the network in float32, or give --bound."
        )
    sweep(output.parent)
    with atomic(output) as part:
        part.write_bytes(engine.plan)
        replace_file(output.with_name(f"{output.name}.json"), json.dumps(report, indent=1) + "\n")
    return report


_KEPT = ("model", "arch", "head", "label_space", "label_space_sha256", "licence", "weights_sha256")


def _opened(model: Path) -> tuple[ExportCard, onnx.ModelProto]:
    card = read_export_card(model)
    if card.form != "tensor":
        raise UsageError(
            f"'{model}' begins with images of any size, whose antialiased resize TensorRT does not have: "
            "export the network alone with 'miil21k export onnx --form tensor'."
        )
    if card.precision == "int8" and not card.quantization.get("symmetric"):
        raise UsageError(
            f"'{model}' is INT8 with zero points, and TensorRT rounds symmetrically about zero: "
            "make it with 'miil21k export quantize --symmetric'."
        )
    return card, onnx.load(model)


def _measure(
    engine: RunningEngine, model: Path, card: ExportCard, options: EngineOptions, photos: Sequence[Path]
) -> list[dict[str, Any]]:
    """Return one row per batch: how far the engine is from ONNX Runtime, and how many answers are the same."""
    session = open_session(model)
    images = session.get_inputs()[0]
    dtype = np.float16 if images.type == "tensor(float16)" else np.float32
    decoder = card.decoder()
    rows = []
    for kind, pixels in _batches(card, options, photos):
        exact = dict(zip(OUTPUTS, session.run(list(OUTPUTS), {images.name: pixels.astype(dtype)}), strict=True))
        found = engine.run(pixels)
        if not np.isfinite(found["logits"]).all():
            raise ExportError(
                f"The engine gives infinite or undefined logits on {kind} in a batch of {len(pixels)}, so it was not "
                "kept: keep more of the network in float32."
            )
        paths = [decoder.read(answer["logits"]).path.nodes for answer in (exact, found)]
        best = [answer["logits"].argmax(axis=1) for answer in (exact, found)]
        rows.append(
            {
                "images": kind,
                "batch": len(pixels),
                **{key: _relative(found[key], exact[key]) for key in OUTPUTS},
                "same_top1": int((best[0] == best[1]).sum()),
                "same_path": int((paths[0] == paths[1]).all(axis=1).sum()),
            }
        )
    return rows


def _batches(
    card: ExportCard, options: EngineOptions, photos: Sequence[Path]
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield pixels in batches of 1, 2 and 7 as far as the engine takes them, its smallest batch and its largest."""
    least, _, most = options.batch
    sizes = sorted({least, most, *(size for size in BATCHES if least <= size <= most)})
    rng = np.random.default_rng(0)
    _, height, width = card.preprocess.input_size
    crops = [crop_image(load_image(photo), card.preprocess) for photo in photos]
    crops += [crop[:, ::-1] for crop in crops]
    for size in sizes:
        noise = rng.integers(0, 256, (size, height, width, 3), np.uint8)
        yield "noise", normalise(noise, card.preprocess)
        if crops:
            stacked = np.stack([crops[i % len(crops)] for i in range(size)])
            yield "photographs", normalise(stacked, card.preprocess)


def _relative(found: NDArray[np.float32], exact: NDArray[np.float32]) -> float:
    exact = exact.astype(np.float32)
    return float(np.abs(found - exact).max() / max(float(np.ptp(exact)), 1e-30))
