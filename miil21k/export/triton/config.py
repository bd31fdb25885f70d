"""The text of a Triton `config.pbtxt`: which tensors a model has, how it is batched and where it runs.

Rules that the ONNX Runtime backend of Triton checks when it loads a model: with `max_batch_size` above 0 the first
axis of every tensor is the batch and is left out of `dims`, no input may be optional, and a tensor that is only as long
as the batch is declared as `dims: [ 1 ]` with an empty `reshape`. With 0 the whole shape is declared, overridable
initializers may be optional inputs, and a scalar is `dims: [ 1 ]`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from miil21k.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from miil21k.export.options import TritonOptions

__all__ = ["ASKED_LABELS", "BIN_LABELS", "LABELS", "Tensor", "config_text"]

LABELS, ASKED_LABELS, BIN_LABELS = "labels.txt", "asked.txt", "bins.txt"
_LABELS_OF = {"logits": LABELS, "asked": ASKED_LABELS, "bins": BIN_LABELS}
_TYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
}


@dataclass(frozen=True)
class Tensor:
    """An input or output as ONNX Runtime declares it.

    kind: its type, e.g. `tensor(float)`. shape: -1 for an axis of any length; the first is the batch, but for scalars.
    optional: an input that has a default.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    optional: bool = False

    @property
    def datatype(self) -> str:
        """The name of the type in Triton and KServe, e.g. `FP32`; raises UsageError for a type they lack."""
        if self.kind not in _TYPES:
            raise UsageError(f"'{self.name}' is a {self.kind}, which no export of miil21k has: export the model again.")
        return _TYPES[self.kind]


def config_text(
    name: str,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    options: TritonOptions,
    *,
    sample: Sequence[int],
    facts: Mapping[str, str],
) -> str:
    """Return the whole `config.pbtxt` of the model `name`, in protobuf's text format.

    inputs, outputs: of the ONNX file. sample: shape of one image for the warm-up, without the batch. facts: become
    `parameters`, which clients can read from the server.
    """
    return "\n".join(_lines(name, inputs, outputs, options, sample, facts)) + "\n"


def _lines(
    name: str,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    options: TritonOptions,
    sample: Sequence[int],
    facts: Mapping[str, str],
) -> Iterator[str]:
    yield f"name: {_quoted(name)}"
    yield 'backend: "onnxruntime"'
    yield 'default_model_filename: "model.onnx"'
    yield f"max_batch_size: {options.max_batch_size}"
    batched = options.max_batch_size > 0
    for tensor in inputs:
        if not (batched and tensor.optional):
            yield _block("input", _tensor(tensor, batched=batched))
    for tensor in outputs:
        label = [f"label_filename: {_quoted(_LABELS_OF[tensor.name])}"] if tensor.name in _LABELS_OF else []
        yield _block("output", [*_tensor(tensor, batched=batched), *label])
    if batched:
        sizes = [f"preferred_batch_size: {size}" for size in options.preferred_batch_sizes]
        delay = [f"max_queue_delay_microseconds: {options.queue_delay}"] if options.queue_delay else []
        yield _block("dynamic_batching", [*sizes, *delay])
    kind = f"kind: KIND_{'GPU' if options.gpus else options.device.upper()}"
    yield _block("instance_group", [f"count: {options.instances}", kind, *(f"gpus: {gpu}" for gpu in options.gpus)])
    kept = "all { }" if options.keep == "all" else f"latest {{ num_versions: {options.keep} }}"
    yield _block("version_policy", [kept])
    if options.warmup:
        yield from _warmup(inputs[0], options, sample)
    threads = {} if options.threads is None else {"intra_op_thread_count": str(options.threads)}
    for key, value in {**threads, **facts}.items():
        yield _block("parameters", [f"key: {_quoted(key)}", f"value {{ string_value: {_quoted(value)} }}"])


def _tensor(tensor: Tensor, *, batched: bool) -> list[str]:
    dims = tensor.shape[1:] if batched else tensor.shape
    lines = [f"name: {_quoted(tensor.name)}", f"data_type: TYPE_{tensor.datatype}"]
    lines.append(f"dims: [ {', '.join(map(str, dims or (1,)))} ]")
    if batched and not dims:
        lines.append("reshape { shape: [ ] }")
    if tensor.optional:
        lines.append("optional: true")
    return lines


def _warmup(images: Tensor, options: TritonOptions, sample: Sequence[int]) -> Iterator[str]:
    """Yield one sample of one image, and one of the largest batch that is expected."""
    batched = options.max_batch_size > 0
    largest = max(options.preferred_batch_sizes, default=options.max_batch_size)
    for size in sorted({1, largest} if batched else {1}):
        dims = ", ".join(map(str, sample if batched else (1, *sample)))
        value = f"value {{ data_type: TYPE_{images.datatype} dims: [ {dims} ] random_data: true }}"
        lines = [f'name: "batch of {size}"', f"batch_size: {size}", f"inputs {{ key: {_quoted(images.name)} {value} }}"]
        yield _block("model_warmup", lines)


def _block(title: str, lines: Sequence[str]) -> str:
    return "\n".join([f"{title} {{", *(f"  {line}" for line in lines), "}"])


def _quoted(text: str) -> str:
    """Return `text` as a string of protobuf's text format; bytes outside ASCII as octal, which every parser reads."""
    special = {0x22: '\\"', 0x5C: "\\\\", 0x0A: "\\n"}
    return '"' + "".join(special.get(b, chr(b) if 0x20 <= b < 0x7F else f"\\{b:03o}") for b in text.encode()) + '"'
