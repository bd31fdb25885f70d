"""What the server logs: a line of text or of JSON for each request, which carries its id."""

from __future__ import annotations

import json
import logging
import re
import time
import uuid
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["REQUEST_ID", "JsonLog", "RequestLog"]

REQUEST_ID = "X-Request-ID"
_USABLE = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")
_request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
log = logging.getLogger(__name__)


class JsonLog(logging.Formatter):
    """A record as one JSON object in one line: time, level, logger, message, request_id, and what `fields` holds."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        found = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        request = _request_id.get()
        if request is not None:
            found["request_id"] = request
        found |= getattr(record, "fields", {})
        if record.exc_info:
            found["exception"] = self.formatException(record.exc_info)
        return json.dumps(found, default=str)


class RequestLog:
    """Gives every request an id, says it in the answer, and logs what became of the request.

    The id is that of the header X-Request-ID where a proxy gave one that can be used, else a new one. Neither query,
    headers nor bodies are logged: they may hold keys and what was asked. level: of the lines; quiet: paths, probes for
    instance, that are logged at the level of debugging.
    """

    def __init__(self, app: ASGIApp, level: int, quiet: Collection[str], clock: Callable[[], float]) -> None:
        self._app, self._level, self._quiet, self._clock = app, level, quiet, clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and log it when it is answered."""
        given = dict(scope["headers"]).get(REQUEST_ID.lower().encode(), b"")
        name = given if _USABLE.fullmatch(given) else uuid.uuid4().hex.encode()
        _request_id.set(name.decode())
        start, status = self._clock(), 500

        async def told(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (REQUEST_ID.lower().encode(), name)]
            await send(message)

        try:
            await self._app(scope, receive, told)
        finally:
            host, _ = scope.get("client") or ("unknown", 0)
            self._tell(host, scope["method"], scope["path"], status, self._clock() - start)

    def _tell(self, host: str, method: str, path: str, status: int, seconds: float) -> None:
        level = logging.DEBUG if path in self._quiet else self._level
        if not log.isEnabledFor(level):
            return
        fields = {"client": host, "method": method, "path": path, "status": status, "seconds": round(seconds, 6)}
        log.log(level, "%s %s %s %d %.3f s", host, method, path, status, seconds, extra={"fields": fields})
