"""The schema of `weights_manifest.json`, from the classes that read it: as a page, and as JSON Schema."""

from __future__ import annotations

import inspect
import json
import re
import types
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

from miil21k.zoo import schema
from miil21k.zoo.manifest import SCHEMA_VERSION, find_weights
from miil21k.zoo.schema import Candidate, Manifest, Metric, Paper, Preprocess, Resource, Source, Unreleased, Weights

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["json_schema", "page"]

RECORDS = (Manifest, Weights, Preprocess, Source, Metric, Paper, Candidate, Unreleased, Resource)
SCALARS = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}
# Fields of a row that the manifest never writes: they come from weights that stand elsewhere.
ELSEWHERE = {"timm_config", "carded"}


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of the file: unknown keys are refused, as the reader refuses them."""
    definitions = {record.__name__: _object(record) for record in RECORDS}
    version = {"const": SCHEMA_VERSION}
    definitions["Manifest"]["properties"]["schema_version"] = version
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "weights_manifest.json of miil21k",
        "$ref": "#/$defs/Manifest",
        "$defs": definitions,
    }


def _hints(record: Any) -> dict[str, Any]:
    return get_type_hints(record, {**vars(schema), "Mapping": Mapping})


def _object(record: Any) -> dict[str, Any]:
    properties = {}
    for name, hint in _hints(record).items():
        properties[name] = _type(hint)
        if record._field_defaults.get(name) is not None and isinstance(record._field_defaults[name], str | bool):
            properties[name]["default"] = record._field_defaults[name]
    required = [name for name in record._fields if name not in record._field_defaults]
    return {
        "type": "object",
        "description": " ".join((inspect.getdoc(record) or "").split()),
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _type(hint: Any) -> dict[str, Any]:
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return {"enum": list(inner)}
    if origin in (Union, types.UnionType):
        return {"anyOf": [_type(one) for one in inner]}
    if origin is Mapping:
        return {"type": "object"} if inner[1] is Any else {"type": "object", "additionalProperties": _type(inner[1])}
    if origin is tuple:
        each = {"type": "array", "items": _type(inner[0])}
        return each if inner[-1] is ... else {**each, "minItems": len(inner), "maxItems": len(inner)}
    return {"type": SCALARS[hint]} if hint in SCALARS else {"$ref": f"#/$defs/{hint.__name__}"}


def page() -> str:
    """Return the page, in Markdown."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield "# The manifest of weights"
    yield "\n`weights_manifest.json` says which weights exist, where they lie and what was published about them."
    yield "Each row becomes a value that `find_weights` returns, a [model card](cards/index.md) and a line of"
    yield "[models](models.md). To add a model, add a row. This is the row of the embedded model:\n"
    yield f"```json\n{_short_lists(json.dumps(_row(), indent=2))}\n```"
    yield "\nA key that is unknown or missing, or a value of another type, is an error that names the row and the key."
    yield "An editor takes the same as [JSON Schema](weights_manifest.schema.json). Both are written from the classes"
    yield "that read the file."
    for record in RECORDS:
        yield f"\n## {record.__name__}\n"
        yield _prose(record)
        yield "\n| key | type | when left out |\n|---|---|---|"
        for name, hint in _hints(record).items():
            if name not in ELSEWHERE:
                yield f"| `{name}` | {_words(hint)} | {_left_out(record, name)} |"


def _row() -> dict[str, Any]:
    """Return the row of the embedded model as the file has it, without its second preprocessing and its notes."""
    row = find_weights("embedded")
    found = row.to_dict()
    kept = {name: found[name] for name in Weights._fields if found[name] != _plain(Weights._field_defaults.get(name))}
    kept["preprocessings"] = {"native": kept["preprocessings"]["native"]}
    kept["sources"] = [
        {name: value for name, value in source.items() if value != Source._field_defaults.get(name)}
        for source in kept["sources"]
    ]
    kept["papers"] = [{name: value for name, value in paper.items() if value is not None} for paper in kept["papers"]]
    del kept["notes"]
    return kept


def _short_lists(text: str) -> str:
    """Return JSON with lists of numbers on one line."""
    return re.sub(
        r"\[[\d.,\s]+\]", lambda found: " ".join(found[0].split()).replace("[ ", "[").replace(" ]", "]"), text
    )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else dict(value) if isinstance(value, Mapping) else value


def _prose(record: Any) -> str:
    """Return the docstring; each sentence that begins with the name of a field is an item of a list."""
    text = " ".join((inspect.getdoc(record) or "").split())
    first, _, rest = text.partition(". ")
    one = "|".join(record._fields)
    items = (item.strip() for item in re.split(rf"(?:(?<=\. )|^)(?=(?:{one})(?:, (?:{one}))*(?: |: ))", rest))
    said = [item for item in items if item and not item.startswith(tuple(ELSEWHERE))]
    listed = [re.sub(rf"^(?:{one})\b(?:, (?:{one})\b)*", _code_words, item) for item in said]
    return "\n".join([f"{first.rstrip('.')}.", "", *(f"- {item}" for item in listed)]).rstrip()


def _code_words(found: re.Match[str]) -> str:
    return ", ".join(f"`{name}`" for name in found[0].split(", "))


def _words(hint: Any) -> str:
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return ", ".join(f"`{word}`" for word in inner)
    if origin in (Union, types.UnionType):
        return " or ".join(_words(one) for one in inner)
    if origin is Mapping:
        return f"object of {_words(inner[1])}" if inner[1] is not Any else "object"
    if origin is tuple:
        return f"list of {_words(inner[0])}" if inner[-1] is ... else f"list of {len(inner)}: {_words(inner[0])}"
    return SCALARS[hint] if hint in SCALARS else f"[{hint.__name__}](#{hint.__name__.lower()})"


def _left_out(record: Any, name: str) -> str:
    if name not in record._field_defaults:
        return "it must be there"
    default = _plain(record._field_defaults[name])
    return "" if default is None or default in ([], {}) else f"`{json.dumps(default)}`"
