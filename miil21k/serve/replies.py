"""How the server answers: JSON, in one shape for all that is refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from miil21k.writers.rows import ROW_SCHEMA

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["RETRY", "SAFE", "error_reply", "json_bytes", "json_reply", "rows_reply"]

RETRY = {"Retry-After": "1"}  # seconds
SAFE = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}


def json_bytes(value: Any) -> bytes:
    """Return `value` as JSON in UTF-8; a lone surrogate is escaped."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace")


def json_reply(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return `value` as JSON, not to be kept by anyone."""
    return Response(json_bytes(value), status, {**SAFE, **(headers or {})}, "application/json")


def rows_reply(rows: list[dict[str, Any]]) -> Response:
    """Return the rows of some images."""
    return json_reply({"schema": ROW_SCHEMA, "predictions": rows})


def error_reply(status: int, sentence: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return one sentence that says why there is no answer."""
    return json_reply({"schema": ROW_SCHEMA, "error": sentence}, status, headers)
