"""The endpoints of the server, declared once: its routes and its description are made of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from miil21k.serve.query import PARAMETERS
from miil21k.writers.rows import ROW, ROW_SCHEMA, Struct, json_schema

if TYPE_CHECKING:
    from collections.abc import Iterable

    from miil21k.serve.bodies import Limits
    from miil21k.serve.query import Asked

__all__ = ["ASKED_ROW", "ASKING", "EMBEDDED_ROW", "ENCODINGS", "SCHEMAS", "Endpoint", "endpoints"]

ASKING = ("ask", "under", "classes", "exclude", "rule")  # the parameters that change what is asked
ENCODINGS = ("float", "base64")  # of an embedding
_SHARED = [field for field in ROW.fields if field.part is None and field.name not in ("path", "stop", "topk")]
ASKED_ROW = Struct((*_SHARED, *(field for field in ROW.fields if field.name in ("given", "asked"))))
EMBEDDED_ROW = Struct((*_SHARED, *(field for field in ROW.fields if field.name == "embedding")))


class Endpoint(NamedTuple):
    """One method of one path.

    handler: the name of what answers, which the description calls it by too. open: it needs no key and counts for no
    client's limit. images: it computes images, and is counted and timed. operation: what OpenAPI says of it; None for
    another spelling of a path, which is not described.
    """

    method: str
    path: str
    handler: str
    operation: dict[str, Any] | None
    open: bool = False
    images: bool = False


_WORDS = {
    400: "A parameter or a body makes no sense, or the body ends too early.",
    401: "The server has API keys and this is none of them.",
    404: "There is no such model here.",
    408: "The body did not arrive in time.",
    413: "An image, or the whole request, is too large, or holds too many images.",
    415: "Another type, or a compressed body.",
    429: "More requests than this client may make; Retry-After says when the next one is taken.",
    500: "The network failed; the reason is in the log.",
    501: "This network gives no embedding.",
    503: "Too much is waiting, or the server is stopping; Retry-After says when to try again.",
}
_GUARD = (401, 429)
_WORK = (400, *_GUARD, 408, 413, 415, 500, 503)
_BINARY: dict[str, Any] = {}  # OpenAPI 3.1: bytes have no schema
_IMAGES = {
    "required": True,
    "content": {
        "image/*": _BINARY,
        "application/octet-stream": _BINARY,
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "additionalProperties": {"type": "string", "contentMediaType": "application/octet-stream"},
                "minProperties": 1,
                "description": "Files under any names.",
            }
        },
    },
}


def _rows(row: str) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["schema", "predictions"],
        "properties": {
            "schema": {"const": ROW_SCHEMA},
            "predictions": {"type": "array", "items": {"$ref": f"#/components/schemas/{row}"}},
        },
    }


_TENSOR = {
    "type": "object",
    "required": ["name", "shape", "datatype"],
    "properties": {
        "name": {"type": "string"},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
        "datatype": {"type": "string"},
        "parameters": {"type": "object"},
        "data": {"type": "array", "description": "flat or nested; left out where the binary extension carries it"},
    },
}
SCHEMAS: dict[str, Any] = {
    "Row": {
        **json_schema(ROW, may_lack=False),
        "description": "One image: a row of miil21k-predict. Its fields are explained in docs/predict.md.",
    },
    "AskedRow": {
        **json_schema(ASKED_ROW, may_lack=False),
        "description": "One image: the fields of a row that say what was asked.",
    },
    "EmbeddedRow": json_schema(EMBEDDED_ROW, may_lack=False),
    "Answer": _rows("Row"),
    "AskedAnswer": _rows("AskedRow"),
    "EmbeddedAnswer": _rows("EmbeddedRow"),
    "Error": {
        "type": "object",
        "required": ["schema", "error"],
        "properties": {"schema": {"const": ROW_SCHEMA}, "error": {"type": "string", "description": "one sentence"}},
    },
    "Tensor": _TENSOR,
    "InferAnswer": {
        "type": "object",
        "required": ["model_name", "model_version", "outputs"],
        "properties": {
            "id": {"type": "string"},
            "model_name": {"type": "string"},
            "model_version": {"type": "string"},
            "outputs": {"type": "array", "items": {"$ref": "#/components/schemas/Tensor"}},
        },
    },
}
SCHEMAS["EmbeddedRow"]["properties"]["embedding"] = {
    "type": ["array", "string"],
    "items": {"type": "number"},
    "description": "float32, as numbers, or as base64 of their little-endian bytes",
}
_INFER = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string"},
        "parameters": {"type": "object", "description": "as the query of /v1/predict; binary_data_output"},
        "inputs": {
            "type": "array",
            "minItems": 1,
            "maxItems": 1,
            "items": {"$ref": "#/components/schemas/Tensor"},
            "description": "`images`, UINT8 [B, height, width, 3], or `encoded_images`, BYTES [B], files (base64)",
        },
        "outputs": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name"],
                "properties": {"name": {"type": "string"}, "parameters": {"type": "object"}},
            },
        },
    },
}


_INFER_EXAMPLE = {
    "inputs": [{"name": "images", "shape": [1, 2, 1, 3], "datatype": "UINT8", "data": [255, 0, 0, 200, 0, 0]}],
    "outputs": [{"name": "row"}],
}


def endpoints(limits: Limits, usual: Asked) -> list[Endpoint]:
    """Return all endpoints of a server with these limits, which answers as `usual` where a request does not say."""
    size = (
        f"One image of at most {limits.max_bytes:,} bytes, or a form of at most {limits.max_images} images and "
        f"{limits.max_body:,} bytes. There is one row per image, in order; an image that cannot be read is a row of "
        "status error."
    )
    questions = _query(ASKING, required=() if usual.options.ask else ("ask",))
    questions[0]["example"] = "dog,vehicle"
    encoding = {
        "name": "encoding_format",
        "in": "query",
        "description": "how the vector is written: numbers, or base64 of float32 in little-endian order",
        "schema": {"type": "string", "enum": list(ENCODINGS)},
    }
    found = [
        _get("/", "page", "A page to drop a picture on", kind="text/html", open_=True),
        _images("/v1/predict", "predict", "Name what is in one image or several", size, _query(PARAMETERS), "Answer"),
        _images("/v1/ask", "ask", "Answer questions about one image or several", size, questions, "AskedAnswer"),
        _images("/v1/embed", "embed", "Return the network's features", size, [encoding], "EmbeddedAnswer", 501),
        _get("/v1/model", "model", "What answers: weights, label space, preprocessing, options"),
        _get(
            "/v1/concepts",
            "concepts",
            "Nouns that may be asked, and begin with these letters",
            parameters=[{"name": "like", "in": "query", "schema": {"type": "string"}, "description": "first letters"}],
        ),
        _get("/v2", "server_metadata", "KServe: what serves", open_=True),
        _get("/v2/health/live", "health_live", "KServe: whether the process lives", open_=True),
        _get("/v2/health/ready", "health_ready", "KServe: whether an image would be taken now", 503, open_=True),
        *_models("/v2/models/{model}"),
        *(end._replace(operation=None) for end in _models("/v2/models/{model}/versions/{version}")),
        _get("/health", "health", "Whether the process lives", open_=True),
        _get("/ready", "ready", "Whether an image would be taken now", 503, open_=True),
        _get("/metrics", "metrics", "Counts and times in Prometheus' text format", kind="text/plain"),
        _get("/openapi.json", "openapi", "This description", open_=True),
        _get("/docs", "docs", "This description for people", kind="text/html", open_=True),
    ]
    # A redirect to the other spelling would name a host and a path that a proxy may not have.
    return found + [end._replace(path=f"{end.path}/", operation=None) for end in found if end.images]


def _query(names: Iterable[str], required: Iterable[str] = ()) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "in": "query",
            "description": PARAMETERS[name].meaning,
            "schema": PARAMETERS[name].schema,
            **({"required": True} if name in required else {}),
        }
        for name in names
    ]


def _models(path: str) -> list[Endpoint]:
    model = {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}
    infer = _operation(
        "infer",
        "KServe: tensors in, tensors out",
        {200: ("Tensors.", {"$ref": "#/components/schemas/InferAnswer"})},
        (*_WORK, 404),
    )
    infer["description"] = (
        "Images of one batch. JSON, or JSON and bytes after it with the header Inference-Header-Content-Length."
    )
    infer["parameters"] = [model]
    infer["requestBody"] = {
        "required": True,
        "content": {"application/json": {"schema": _INFER, "example": _INFER_EXAMPLE}},
    }
    return [
        _get(path, "model_metadata", "KServe: inputs and outputs", 404, parameters=[model]),
        _get(
            f"{path}/ready", "model_ready", "KServe: whether an image would be taken now", 404, 503, parameters=[model]
        ),
        Endpoint("POST", f"{path}/infer", "infer", infer, images=True),
    ]


def _images(
    path: str, name: str, summary: str, words: str, parameters: list[dict[str, Any]], answer: str, *codes: int
) -> Endpoint:
    operation = _operation(
        name, summary, {200: ("One row per image.", {"$ref": f"#/components/schemas/{answer}"})}, (*_WORK, *codes)
    )
    operation |= {"description": words, "parameters": parameters, "requestBody": _IMAGES}
    return Endpoint("POST", path, name, operation, images=True)


def _get(
    path: str,
    name: str,
    summary: str,
    *codes: int,
    kind: str = "application/json",
    parameters: list[dict[str, Any]] | None = None,
    open_: bool = False,
) -> Endpoint:
    schema: dict[str, Any] = {"type": "object"} if kind == "application/json" else {"type": "string"}
    answers: dict[int, tuple[str, dict[str, Any]]] = {200: (f"{summary}.", schema)}
    if 503 in codes:  # these say so in a body of their own
        answers[503] = ("Not now.", schema)
    others = tuple(code for code in codes if code not in answers)
    operation = _operation(name, summary, answers, (*others, *(() if open_ else _GUARD)), kind)
    if parameters:
        operation["parameters"] = parameters
    return Endpoint("GET", path, name, operation, open=open_)


def _operation(
    name: str,
    summary: str,
    answers: dict[int, tuple[str, dict[str, Any]]],
    refusals: Iterable[int],
    kind: str = "application/json",
) -> dict[str, Any]:
    error = {"$ref": "#/components/schemas/Error"}
    responses = {
        str(code): {"description": words, "content": {kind: {"schema": schema}}}
        for code, (words, schema) in answers.items()
    }
    for code in sorted(refusals):
        responses[str(code)] = {"description": _WORDS[code], "content": {"application/json": {"schema": error}}}
    return {"operationId": name, "summary": summary, "responses": responses}
