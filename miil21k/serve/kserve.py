"""The messages of KServe's second inference protocol, JSON and the binary extension: images in, tensors out.

https://github.com/kserve/open-inference-protocol, and Triton's extension `binary_tensor_data`.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from miil21k import __version__
from miil21k.data.images import ImageInput
from miil21k.records import StrictJsonError, parse, read_record
from miil21k.serve.bodies import Refused
from miil21k.text import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["HEADER_LENGTH", "VERSION", "InferRequest", "inference_of", "model_metadata", "response", "server_metadata"]

HEADER_LENGTH = "Inference-Header-Content-Length"
VERSION = "1"
PIXELS, FILES = "images", "encoded_images"  # the two inputs, of which a request has one
_DATATYPES = {"float32": "FP32", "int32": "INT32", "object": "BYTES"}
_BINARY = "binary_data_output"  # the parameter of a request that speaks for all its outputs


class _Input(NamedTuple):
    name: str
    datatype: str
    shape: tuple[int, ...]
    parameters: Mapping[str, Any] = {}


class _InferOutput(NamedTuple):
    name: str
    parameters: Mapping[str, Any] = {}


class _InferHead(NamedTuple):
    inputs: tuple[_Input, ...]
    outputs: tuple[_InferOutput, ...] = ()
    id: str = ""
    parameters: Mapping[str, Any] = {}


class InferRequest(NamedTuple):
    """A request that was read.

    images: of one batch. query: its parameters, as those of an address. outputs: what is wanted, and whether as bytes;
    empty for all. binary: whether those that do not say are bytes.
    """

    id: str
    images: list[ImageInput]
    query: list[tuple[str, str]]
    outputs: dict[str, bool]
    binary: bool


def server_metadata() -> dict[str, Any]:
    """Return what `GET /v2` says."""
    return {"name": "miil21k", "version": __version__, "extensions": ["binary_tensor_data"]}


def model_metadata(name: str, outputs: Mapping[str, tuple[str, list[int]]]) -> dict[str, Any]:
    """Return what `GET /v2/models/NAME` says. outputs: type and shape by name, -1 for an axis of any length."""
    return {
        "name": name,
        "versions": [VERSION],
        "platform": "miil21k",
        "inputs": [
            {"name": PIXELS, "datatype": "UINT8", "shape": [-1, -1, -1, 3]},
            {"name": FILES, "datatype": "BYTES", "shape": [-1]},
        ],
        "outputs": [
            {"name": output, "datatype": datatype, "shape": shape} for output, (datatype, shape) in outputs.items()
        ],
    }


def inference_of(body: bytes, header: str | None, known: Sequence[str], max_images: int) -> InferRequest:
    """Return the request in `body`.

    header: the length of its JSON, where bytes follow. known: the outputs that there are. Raises Refused: 400, in one
    sentence, for all that is wrong in it, 413 for more than `max_images` images.
    """
    length = len(body) if header is None else _length(header, len(body))
    try:
        head, contents = _head(body[:length])
    except StrictJsonError as error:
        where = f" at '{error.path}'" if error.path else ""
        raise Refused(400, f"The request cannot be read{where}: {error.found}.") from None
    if len(head.inputs) != 1:
        raise Refused(400, f"There must be one input, '{PIXELS}' or '{FILES}', and here are {len(head.inputs)}.")
    images = _images(head.inputs[0], contents[0], body[length:], max_images)
    binary = head.parameters.get(_BINARY, False)
    outputs = {output.name: _binary(output, known, binary) for output in head.outputs}
    query = [(name, _spelt(value)) for name, value in head.parameters.items() if name != _BINARY]
    return InferRequest(head.id, images, query, outputs, binary)


def _length(header: str, most: int) -> int:
    if not (header.isascii() and header.isdecimal() and len(header) < 20 and int(header) <= most):
        raise Refused(400, f"{HEADER_LENGTH} must be a number of bytes, at most the {most:,} of the body.")
    return int(header)


def _head(text: bytes) -> tuple[_InferHead, list[Any]]:
    """Return the JSON of a request, and the data of each input beside it; None where there is none."""
    raw = parse(text, dict)
    inputs = raw.get("inputs")
    each = inputs if isinstance(inputs, list) else []
    contents = [one.pop("data", None) if isinstance(one, dict) else None for one in each]
    head = read_record(_InferHead, raw)
    told = [one.parameters for one in head.inputs] + [one.parameters for one in head.outputs]
    for parameters in (head.parameters, *told):
        for name, value in parameters.items():
            if not isinstance(value, str | int | float | bool):
                raise StrictJsonError("expected text, a number, true or false", f"parameters.{name}")
    if not isinstance(head.parameters.get(_BINARY, False), bool):
        raise StrictJsonError("expected true or false", f"parameters.{_BINARY}")
    return head, contents


def _spelt(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _binary(output: _InferOutput, known: Sequence[str], usual: bool) -> bool:
    if output.name not in known:
        hint = did_you_mean(output.name, known)
        raise Refused(400, f"No output '{output.name}'.{hint} The outputs are: {', '.join(known)}.")
    unknown = set(output.parameters) - {"binary_data"}
    binary = output.parameters.get("binary_data", usual)
    if unknown or not isinstance(binary, bool):
        raise Refused(400, f"The output '{output.name}' takes one parameter: binary_data, true or false.")
    return binary


def _images(sent: _Input, data: Any, tail: bytes, max_images: int) -> list[ImageInput]:
    readers: dict[str, tuple[str, Callable[..., Sequence[Any]]]] = {
        PIXELS: ("UINT8", _pixels),
        FILES: ("BYTES", _files),
    }
    if sent.name not in readers:
        raise Refused(400, f"No input '{sent.name}': send '{PIXELS}' or '{FILES}'.")
    datatype, read = readers[sent.name]
    if sent.datatype != datatype:
        raise Refused(400, f"The input '{sent.name}' is {datatype}, not '{sent.datatype}'.")
    size = sent.parameters.get("binary_data_size")
    if (size is None) == (data is None):
        raise Refused(400, f"The input '{sent.name}' has either data or a binary_data_size.")
    if size is not None and (isinstance(size, bool) or size != len(tail)):
        raise Refused(400, f"binary_data_size says {size} bytes, and {len(tail)} come after the JSON.")
    if size is None and tail:
        raise Refused(400, f"{len(tail)} bytes come after the JSON, and no input has a binary_data_size.")
    if not sent.shape or sent.shape[0] < 1:
        raise Refused(400, f"The input '{sent.name}' needs at least one image.")
    if sent.shape[0] > max_images:
        raise Refused(413, f"There are more than {max_images} images in one request.")
    images = read(sent.shape, data, tail)
    return [ImageInput(f"image {number}", image) for number, image in enumerate(images)]


def _pixels(shape: tuple[int, ...], data: Any, tail: bytes) -> list[NDArray[np.uint8]]:
    if len(shape) != 4 or shape[3] != 3 or min(shape) < 1:
        raise Refused(400, f"The input '{PIXELS}' has the shape [B, height, width, 3], not {list(shape)}.")
    values = np.frombuffer(tail, np.uint8) if data is None else _whole_numbers(data)
    if values.size != math.prod(shape):
        raise Refused(
            400, f"The input '{PIXELS}' holds {values.size:,} values, and {list(shape)} needs another number."
        )
    return list(values.reshape(shape))


def _whole_numbers(data: Any) -> NDArray[np.uint8]:
    refused = Refused(400, f"The data of '{PIXELS}' are whole numbers from 0 to 255, flat or as deep as the shape.")
    try:
        found = np.asarray(data)
    except ValueError:  # ragged
        raise refused from None
    if found.dtype.kind not in "iu" or (found.size and (found.min() < 0 or found.max() > 255)):
        raise refused
    return found.astype(np.uint8)


def _files(shape: tuple[int, ...], data: Any, tail: bytes) -> list[bytes]:
    found = list(_binary_files(tail)) if data is None else _text_files(data)
    if len(shape) > 2 or math.prod(shape) != shape[0] or len(found) != shape[0]:
        raise Refused(400, f"The input '{FILES}' holds {len(found)} files, and its shape is {list(shape)}, not [B].")
    return found


def _binary_files(tail: bytes) -> Iterator[bytes]:
    """Yield each element: its length in four bytes, little-endian, and itself."""
    at = 0
    while at < len(tail):
        end = at + 4 + int.from_bytes(tail[at : at + 4], "little")
        if at + 4 > len(tail) or end > len(tail):
            raise Refused(400, f"The bytes of '{FILES}' end within a file: each has its length in four bytes first.")
        yield tail[at + 4 : end]
        at = end


def _text_files(data: Any) -> list[bytes]:
    try:
        if isinstance(data, list) and all(isinstance(text, str) for text in data):
            return [base64.b64decode(text, validate=True) for text in data]
    except (binascii.Error, ValueError):
        pass
    raise Refused(400, f"The data of '{FILES}' are a list of files as base64.")


def response(request: InferRequest, model: str, tensors: Mapping[str, NDArray[Any]]) -> tuple[bytes, int | None]:
    """Return the body of the answer, and the length of its JSON where bytes follow.

    tensors: [B, ...] by name, float32, int32 or, of objects, bytes.
    """
    wanted = request.outputs or dict.fromkeys(tensors, request.binary)
    outputs, tail = [], []
    for name, binary in wanted.items():
        values = tensors[name]
        output: dict[str, Any] = {
            "name": name,
            "datatype": _DATATYPES[values.dtype.name],
            "shape": list(values.shape),
        }
        if binary:
            tail.append(_bytes(values))
            output["parameters"] = {"binary_data_size": len(tail[-1])}
        else:
            flat = values.reshape(-1).tolist()
            output["data"] = [item.decode() for item in flat] if values.dtype == object else flat
        outputs.append(output)
    named = {"id": request.id} if request.id else {}
    head = {**named, "model_name": model, "model_version": VERSION, "outputs": outputs}
    text = json.dumps(head, ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace")
    return b"".join([text, *tail]), len(text) if tail else None


def _bytes(values: NDArray[Any]) -> bytes:
    if values.dtype == object:
        return b"".join(len(item).to_bytes(4, "little") + item for item in values.reshape(-1).tolist())
    return values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()
