"""A network as a program of torch itself: what `torch.export` writes, or machine code that AOTInductor makes of it.

torch runs both without timm and without miil21k. Opening a `.pt2` file can run code: open only files you made.
"""

from __future__ import annotations

import copy
import gc
import json
import os
import shutil
import sys
from typing import TYPE_CHECKING, Any

import torch

from miil21k.errors import ExportError, UsageError
from miil21k.export.onnx.file import own_photographs
from miil21k.export.onnx.model import card_of, decoder_of
from miil21k.export.onnx.network import OUTPUTS, PIXELS, quiet, with_embedding
from miil21k.export.onnx.proof import Runner, prove
from miil21k.export.onnx.report import report_of, report_path, require_within_bounds
from miil21k.export.options import ExportOptions
from miil21k.files import atomic, replace_file, sweep
from miil21k.store.integrity import tensors_digest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torch.export import ExportedProgram

    from miil21k.runtime.loading import Loaded

__all__ = ["CARD", "export_program"]

CARD = "miil21k.json"  # of the files inside a program: its card as JSON, text to text


def export_program(
    loaded: Loaded,
    output: Path,
    *,
    aot: bool = False,
    licence: str = "",
    photos: Sequence[Path] = (),
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Export `loaded` to `output`, prove it, and return the report that lies beside it as `<output>.json`.

    The program maps pixels, float32 [B, 3, H, W] normalised, to logits [B, C] and embedding [B, D], on the CPU.
    loaded: a torch network with its label space, left as it is. aot: compile it for this machine's processor, which
    needs a C++ compiler. licence, photos, say: as in `export_onnx`. An existing file is replaced by a proved one or
    stays as it was. Raises ExportError when torch cannot export or compile the network or a bound is missed,
    UsageError for a name that does not end in .pt2, a missing folder or a missing compiler.
    """
    if output.suffix != ".pt2":
        raise UsageError(f"'{output}' does not end in .pt2, by which torch knows an exported program.")
    if not output.parent.is_dir():
        raise UsageError(f"There is no folder '{output.parent}'.")
    if aot:
        _require_compiler()
    loaded.model.eval()
    card = card_of(loaded, "tensor", {}, licence=licence, weights_sha256=tensors_digest(loaded.model))
    try:
        sweep(output.parent)
        with atomic(output) as part:
            say(f"exporting {loaded.name}")
            program = _program(copy.deepcopy(loaded.model), loaded.preprocess.input_size)
            say("compiling it" if aot else "writing it")
            _save(program, part, card.to_metadata(), aot=aot)
            del program
            gc.collect()
            say("proving it against torch")
            pictures = [*own_photographs(), *photos]
            decoder = decoder_of(loaded, ExportOptions(form="tensor"))
            proof = prove(_runner(part, aot=aot), loaded.model, loaded.preprocess, decoder, pictures)
            require_within_bounds(proof, loaded.name)
            facts = {"kind": "AOTInductor" if aot else "torch.export", "bytes": part.stat().st_size}
            report = report_of(card, proof, len(pictures), f"torch {torch.__version__}, cpu", facts)
            replace_file(report_path(output), json.dumps(report, indent=1) + "\n")
    except OSError as error:
        raise ExportError(f"Cannot write {output.parent}: {error.strerror or error}.") from None
    return report


def _require_compiler() -> None:
    """Raise UsageError when the compiler that AOTInductor would call is not there."""
    compiler = os.environ.get("CXX") or {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    if shutil.which(compiler) is None:
        raise UsageError(
            f"Compiling needs a C++ compiler, and '{compiler}' is not here: install it or name another one in the "
            "environment variable CXX; without --aot none is needed."
        )


def _program(model: torch.nn.Module, input_size: tuple[int, int, int]) -> ExportedProgram:
    network = with_embedding(model)
    example = torch.zeros(2, *input_size)  # a batch of 1 would be taken for a constant
    try:
        with quiet(), torch.no_grad():
            return torch.export.export(network, (example,), dynamic_shapes={PIXELS: {0: torch.export.Dim("batch")}})
    except Exception as error:  # it fails in as many ways as there are models
        raise ExportError(f"torch {torch.__version__} cannot export {type(model).__name__}: {_first(error)}") from error


def _save(program: ExportedProgram, part: Path, metadata: dict[str, str], *, aot: bool) -> None:
    if not aot:
        torch.export.save(program, part, extra_files={CARD: json.dumps(metadata)})
        return
    configs = {"aot_inductor.metadata": metadata, "cpp.dynamic_threads": True}  # else as many threads as here and now
    try:
        with quiet():
            torch._inductor.aoti_compile_and_package(program, package_path=str(part), inductor_configs=configs)
    except Exception as error:  # of the code generator and of the C++ compiler
        raise ExportError(f"AOTInductor of torch {torch.__version__} cannot compile it: {_first(error)}") from error


def _first(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _runner(path: Path, *, aot: bool) -> Runner:
    """Return what runs the file as anybody would who has torch alone."""
    program: Any = torch._inductor.aoti_load_package(str(path)) if aot else torch.export.load(path).module()

    def run(feed: dict[str, Any]) -> dict[str, Any]:
        with torch.inference_mode():
            found = program(torch.from_numpy(feed[PIXELS]))
        return {name: values.numpy() for name, values in zip(OUTPUTS, found, strict=True)}

    return Runner(frozenset({PIXELS}), run)
