"""What the server answers, as OpenAPI 3.1, and the same as a page without scripts."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from miil21k import __version__
from miil21k.serve.query import PARAMETERS
from miil21k.writers.rows import ROW, ROW_SCHEMA, json_schema

if TYPE_CHECKING:
    from miil21k.serve.bodies import Limits

__all__ = ["description", "reference_page"]

_ROW = {
    **json_schema(ROW, may_lack=False),
    "description": "One image: a row of miil21k-predict. Its fields are explained in docs/predict.md.",
}
_ERROR = {
    "type": "object",
    "required": ["schema", "error"],
    "properties": {"schema": {"const": ROW_SCHEMA}, "error": {"type": "string", "description": "one sentence"}},
}
_CODES = {
    "400": "A parameter or a multipart body makes no sense, or the body ends too early.",
    "408": "The body did not arrive in time.",
    "413": "An image, or the whole request, is too large, or holds too many images.",
    "415": "Another type, or a compressed body.",
    "500": "The network failed; the reason is in the log.",
    "503": "Too much is waiting, or the server is stopping; Retry-After says when to try again.",
}


def description(limits: Limits) -> dict[str, Any]:
    """Return the description of the interface of a server with these limits, as plain JSON values."""
    binary = {"schema": {"type": "string", "contentMediaType": "application/octet-stream"}}
    form = {
        "type": "object",
        "additionalProperties": {"type": "string", "contentMediaType": "application/octet-stream"},
        "description": "Files under any names.",
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "miil21k serve",
            "version": __version__,
            "description": "Images in, paths through WordNet out.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": {
            "/v1/predict": {
                "post": {
                    "operationId": "predict",
                    "summary": "Name what is in one image or several",
                    "description": (
                        f"One image of at most {limits.max_bytes:,} bytes, or a form of at most {limits.max_images} "
                        f"images and {limits.max_body:,} bytes. There is one row per image, in order; an image that "
                        "cannot be read is a row of status error."
                    ),
                    "parameters": [
                        {"name": name, "in": "query", "description": entry.meaning, "schema": entry.schema}
                        for name, entry in PARAMETERS.items()
                    ],
                    "requestBody": {
                        "required": True,
                        "content": {
                            "image/*": binary,
                            "application/octet-stream": binary,
                            "multipart/form-data": {"schema": form},
                        },
                    },
                    "responses": {
                        "200": _json_answer("One row per image.", {"$ref": "#/components/schemas/Answer"}),
                        **{
                            code: _json_answer(words, {"$ref": "#/components/schemas/Error"})
                            for code, words in _CODES.items()
                        },
                    },
                }
            },
            "/v1/model": _get("model", "What answers: weights, label space, preprocessing, options"),
            "/v1/concepts": {
                "get": {
                    "operationId": "concepts",
                    "summary": "Nouns that may be asked, and begin with these letters",
                    "parameters": [
                        {"name": "like", "in": "query", "schema": {"type": "string"}, "description": "first letters"}
                    ],
                    "responses": {"200": _json_answer("At most a dozen.", {"type": "object"})},
                }
            },
            "/health": _get("health", "Whether the process lives"),
            "/ready": _get("ready", "Whether an image would be taken now", "503"),
            "/metrics": {
                "get": {
                    "operationId": "metrics",
                    "summary": "Counts and times in Prometheus' text format",
                    "responses": {"200": {"description": "Metrics.", "content": {"text/plain": {}}}},
                }
            },
        },
        "components": {
            "schemas": {
                "Row": _ROW,
                "Answer": {
                    "type": "object",
                    "required": ["schema", "predictions"],
                    "properties": {
                        "schema": {"const": ROW_SCHEMA},
                        "predictions": {"type": "array", "items": {"$ref": "#/components/schemas/Row"}},
                    },
                },
                "Error": _ERROR,
            }
        },
    }


def _json_answer(words: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": words, "content": {"application/json": {"schema": schema}}}


def _get(name: str, summary: str, *codes: str) -> dict[str, Any]:
    answers = {code: _json_answer(f"{summary}.", {"type": "object"}) for code in ("200", *codes)}
    return {"get": {"operationId": name, "summary": summary, "responses": answers}}


_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color-scheme:light dark}"
    "code,pre{font:14px/1.45 ui-monospace,monospace}pre{overflow-x:auto;padding:.8rem;border:1px solid #8886;"
    "border-radius:.4rem}h2 code{font-size:1.15rem}"
    "table{border-collapse:collapse;display:block;overflow-x:auto}td,th{text-align:left;"
    "padding:.25rem 1rem .25rem 0;vertical-align:top;border-bottom:1px solid #8883}h2{margin-top:2.2rem}"
)


def reference_page(described: dict[str, Any]) -> str:
    """Return `described`, an OpenAPI description, as one HTML page that needs nothing from elsewhere."""
    info = described["info"]
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width,initial-scale=1'>",
        f"<title>{escape(info['title'])}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{escape(info['title'])} {escape(info['version'])}</h1><p>{escape(info['description'])} ",
        "For programs: <a href='openapi.json'>openapi.json</a>. To try it: <a href='.'>the page</a>.</p>",
        "<pre>curl -s --data-binary @cat.jpg -H 'Content-Type: image/jpeg' localhost:8021/v1/predict</pre>",
    ]
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            parts.append(f"<h2><code>{escape(method.upper())} {escape(path)}</code></h2>")
            parts.append(f"<p>{escape(operation['summary'])}. {escape(operation.get('description', ''))}</p>")
            parts.append(_table("parameter", [_parameter(entry) for entry in operation.get("parameters", ())]))
            answers = operation["responses"].items()
            parts.append(_table("code", [(code, "", answer["description"]) for code, answer in answers]))
    return "".join([*parts, "</body></html>"])


def _parameter(entry: dict[str, Any]) -> tuple[str, str, str]:
    schema = entry["schema"]
    kind = " | ".join(schema["enum"]) if "enum" in schema else schema["type"]
    return entry["name"], kind, entry["description"]


def _table(head: str, rows: list[tuple[str, str, str]]) -> str:
    if not rows:
        return ""
    cells = (f"<tr><td><code>{escape(a)}</code></td><td>{escape(b)}</td><td>{escape(c)}</td></tr>" for a, b, c in rows)
    return f"<table><tr><th>{head}</th><th></th><th></th></tr>{''.join(cells)}</table>"
