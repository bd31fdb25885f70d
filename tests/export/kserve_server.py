"""A server that speaks the HTTP side of KServe's inference protocol, with Triton's two extensions of it.

It reads a model repository as Triton does: `config.pbtxt` through Triton's own protobuf schema, checked by the rules
that the ONNX Runtime backend applies when it loads a model; the `.onnx` files run in ONNX Runtime. The extensions are
binary tensors and classification.
"""

from __future__ import annotations

import importlib.util
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from google.protobuf import json_format, text_format

NUMPY = {"BOOL": "bool", "UINT8": "uint8", "INT32": "int32", "INT64": "int64", "FP16": "float16", "FP32": "float32"}
ONNX = {"BOOL": "bool", "UINT8": "uint8", "INT32": "int32", "INT64": "int64", "FP16": "float16", "FP32": "float"}


def schema() -> Any:
    """Return Triton's published schema, generated; loaded by its path, since its package also imports grpc."""
    package = importlib.util.find_spec("tritonclient")
    assert package is not None
    assert package.submodule_search_locations is not None
    path = Path(package.submodule_search_locations[0]) / "grpc" / "model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("triton_model_config_pb2", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SCHEMA = schema()


def parse_config(text: str) -> Any:
    """Return the ModelConfig; a field that Triton does not know is an error."""
    return text_format.Parse(text, SCHEMA.ModelConfig())


def _file(path: Path) -> str:
    """Return the file of a version; a model of several files is a folder of that name, with the graph inside."""
    return str(path / path.name if path.is_dir() else path)


class Model:
    """One model of the repository with its versions, loaded by the rules of Triton's ONNX Runtime backend."""

    def __init__(self, folder: Path) -> None:
        self.config = parse_config((folder / "config.pbtxt").read_text())
        assert self.config.name == folder.name
        assert self.config.backend == "onnxruntime"
        numbers = sorted(
            int(p.name) for p in folder.iterdir() if p.is_dir() and p.name.isdecimal() and p.name[0] != "0"
        )
        policy = self.config.version_policy
        if policy.WhichOneof("policy_choice") != "all":
            numbers = numbers[-(policy.latest.num_versions or 1) :]
        options = ort.SessionOptions()
        options.log_severity_level = 3
        filename = self.config.default_model_filename
        self.sessions = {
            str(n): ort.InferenceSession(_file(folder / str(n) / filename), options, providers=["CPUExecutionProvider"])
            for n in numbers
        }
        assert self.sessions, "no version is available"
        self.labels = {
            tensor.name: (folder / tensor.label_filename).read_text().splitlines()
            for tensor in self.config.output
            if tensor.label_filename
        }
        for session in self.sessions.values():
            self.validate(session)

    def validate(self, session: ort.InferenceSession) -> None:
        batched = self.config.max_batch_size > 0
        required = [value.name for value in session.get_inputs()]
        declared = [tensor.name for tensor in self.config.input if not tensor.optional]
        assert len(declared) == len(required), f"configuration expects {declared}, model provides {required}"
        known = {value.name: value for value in (*session.get_inputs(), *session.get_overridable_initializers())}
        for tensor in self.config.input:
            assert not (tensor.optional and batched), (
                f"optional input '{tensor.name}' in a model that supports batching"
            )
            self.compare(tensor, known[tensor.name], batched, exact=False)
        outputs = {value.name: value for value in session.get_outputs()}
        for tensor in self.config.output:
            self.compare(tensor, outputs[tensor.name], batched, exact=True)

    def compare(self, tensor: Any, value: Any, batched: bool, exact: bool) -> None:
        datatype = SCHEMA.DataType.Name(tensor.data_type).removeprefix("TYPE_")
        assert f"tensor({ONNX[datatype]})" == value.type, tensor.name
        assert len(tensor.dims) >= 1, "the empty shape is not allowed"
        shape = [size if isinstance(size, int) else -1 for size in value.shape]
        dims = list(tensor.reshape.shape if tensor.HasField("reshape") else tensor.dims)
        if not shape:
            assert not batched
            assert set(dims) <= {1}
            return
        full = [-1, *dims] if batched else dims
        assert not batched or shape[0] == -1
        assert len(full) == len(shape), (tensor.name, full, shape)
        assert all(a == b or (b == -1 and not exact) for a, b in zip(full, shape, strict=True)), (
            tensor.name,
            full,
            shape,
        )

    def infer(self, session: ort.InferenceSession, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        tensors = {tensor.name: tensor for tensor in self.config.input}
        batched = self.config.max_batch_size > 0
        for name, tensor in tensors.items():
            if name not in feed:
                if not tensor.optional:
                    raise ValueError(f"expected input '{name}'")
                continue
            shape, dims = list(feed[name].shape), list(tensor.dims)
            if batched and not 1 <= shape[0] <= self.config.max_batch_size:
                raise ValueError(f"batch of {shape[0]} for '{name}', at most {self.config.max_batch_size}")
            expected = [-1, *dims] if batched else dims
            if len(shape) != len(expected) or any(a not in (-1, b) for a, b in zip(expected, shape, strict=True)):
                raise ValueError(f"unexpected shape for input '{name}': expected {expected}, got {shape}")
        unknown = feed.keys() - tensors.keys()
        if unknown:
            raise ValueError(f"unexpected inference input '{unknown.pop()}'")
        ranks = {value.name: len(value.shape) for value in session.get_overridable_initializers()}
        feed = {name: values.reshape(()) if ranks.get(name) == 0 else values for name, values in feed.items()}
        names = [tensor.name for tensor in self.config.output]
        found = dict(zip(names, session.run(names, feed), strict=True))
        for tensor in self.config.output:
            if tensor.HasField("reshape"):
                found[tensor.name] = found[tensor.name].reshape(-1, *tensor.dims)
        return found

    def classified(self, name: str, values: np.ndarray, count: int) -> np.ndarray:
        labels = self.labels.get(name)
        rows = []
        for row in values.reshape(len(values), -1):
            best = np.argsort(-row, kind="stable")[:count]
            rows.append([f"{row[i]:f}:{i}" + (f":{labels[i]}" if labels else "") for i in best])
        return np.array(rows, dtype=object)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: TritonStandIn

    def log_message(self, *args: Any) -> None:
        """Say nothing."""

    def answer(self, code: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(code)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def json(self, value: Any, code: int = 200) -> None:
        self.answer(code, json.dumps(value).encode(), Content_Type="application/json")

    def found(self) -> tuple[Model, str, str]:
        """Return the model, the version and what is asked of it."""
        parts = self.path.split("?")[0].strip("/").split("/")
        if parts[:2] != ["v2", "models"] or len(parts) < 3 or parts[2] not in self.server.models:
            raise ValueError(f"Request for unknown model: '{self.path}' is not found")
        model, rest = self.server.models[parts[2]], parts[3:]
        version = max(model.sessions, key=int)
        if rest[:1] == ["versions"]:
            version, rest = rest[1], rest[2:]
        if version not in model.sessions:
            raise ValueError(f"Request for unknown model: '{parts[2]}' version {version} is not at ready state")
        return model, version, rest[0] if rest else ""

    def do_GET(self) -> None:
        if self.path in ("/v2/health/live", "/v2/health/ready"):
            return self.answer(200)
        try:
            model, _, verb = self.found()
        except ValueError as error:
            return self.json({"error": str(error)}, 400)
        if verb == "ready":
            return self.answer(200)
        if verb == "config":
            return self.json(json_format.MessageToDict(model.config, preserving_proto_field_name=True))
        batch = [-1] if model.config.max_batch_size else []
        sides = {
            side: [
                {
                    "name": tensor.name,
                    "datatype": SCHEMA.DataType.Name(tensor.data_type).removeprefix("TYPE_"),
                    "shape": [*batch, *tensor.dims],
                }
                for tensor in getattr(model.config, side.removesuffix("s"))
            ]
            for side in ("inputs", "outputs")
        }
        return self.json(
            {"name": model.config.name, "versions": sorted(model.sessions), "platform": "onnxruntime_onnx", **sides}
        )

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        try:
            model, version, verb = self.found()
            assert verb == "infer"
            length = int(self.headers.get("Inference-Header-Content-Length", len(body)))
            request, binary = json.loads(body[:length]), body[length:]
            feed, at = {}, 0
            for tensor in request["inputs"]:
                dtype = NUMPY[tensor["datatype"]]
                size = tensor.get("parameters", {}).get("binary_data_size")
                if size is None:
                    values = np.array(tensor["data"], dtype)
                else:
                    values, at = np.frombuffer(binary[at : at + size], dtype), at + size
                feed[tensor["name"]] = values.reshape(tensor["shape"])
            found = model.infer(model.sessions[version], feed)
        except (ValueError, KeyError) as error:
            return self.json({"error": str(error)}, 400)
        binary_default = request.get("parameters", {}).get("binary_data_output", False)
        wanted = request.get("outputs") or [{"name": name} for name in found]
        tensors, blobs = [], []
        for want in wanted:
            name, parameters = want["name"], want.get("parameters", {})
            values, datatype = found[name], None
            if parameters.get("classification"):
                values, datatype = model.classified(name, values, parameters["classification"]), "BYTES"
            datatype = datatype or next(key for key, kind in NUMPY.items() if kind == values.dtype.name)
            entry: dict[str, Any] = {"name": name, "datatype": datatype, "shape": list(values.shape)}
            if parameters.get("binary_data", binary_default):
                blob = values.tobytes() if datatype != "BYTES" else b"".join(
                    len(text.encode()).to_bytes(4, "little") + text.encode() for text in values.ravel()
                )  # fmt: skip
                entry["parameters"] = {"binary_data_size": len(blob)}
                blobs.append(blob)
            else:
                entry["data"] = values.ravel().tolist()
            tensors.append(entry)
        head = json.dumps({"model_name": model.config.name, "model_version": version, "outputs": tensors}).encode()
        if not blobs:
            return self.answer(200, head, Content_Type="application/json")
        return self.answer(
            200,
            head + b"".join(blobs),
            Content_Type="application/octet-stream",
            Inference_Header_Content_Length=str(len(head)),
        )


class TritonStandIn(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, repository: Path) -> None:
        self.models = {folder.name: Model(folder) for folder in sorted(repository.iterdir()) if folder.is_dir()}
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    def __enter__(self) -> TritonStandIn:
        self.thread = threading.Thread(target=self.serve_forever, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self.shutdown()
        self.thread.join()
        self.server_close()
