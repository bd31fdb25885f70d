"""What the server answers, as OpenAPI 3.1, and the same as a page without scripts."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from miil21k import __version__
from miil21k.serve.endpoints import SCHEMAS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from miil21k.serve.endpoints import Endpoint

__all__ = ["description", "reference_page"]


def description(found: Iterable[Endpoint], *, keys: bool = False) -> dict[str, Any]:
    """Return the description of an interface of these endpoints, as plain JSON values. keys: clients need one."""
    paths: dict[str, dict[str, Any]] = {}
    for end in found:
        if end.operation is not None:
            secured: dict[str, Any] = {"security": [{"key": []}]} if keys and not end.open else {}
            paths.setdefault(end.path, {})[end.method.lower()] = {**end.operation, **secured}
    schemes = {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}} if keys else {}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "miil21k serve",
            "version": __version__,
            "description": "Images in, paths through WordNet out.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {"schemas": SCHEMAS, **schemes},
    }


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
    return entry["name"], kind, entry.get("description", "part of the path")


def _table(head: str, rows: list[tuple[str, str, str]]) -> str:
    if not rows:
        return ""
    cells = (f"<tr><td><code>{escape(a)}</code></td><td>{escape(b)}</td><td>{escape(c)}</td></tr>" for a, b, c in rows)
    return f"<table><tr><th>{head}</th><th></th><th></th></tr>{''.join(cells)}</table>"
