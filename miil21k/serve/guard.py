"""Lets those ask who have a key, and as often as they may."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from miil21k.serve.bodies import Body
from miil21k.serve.clients import client_of
from miil21k.serve.replies import error_reply

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import TypeAlias

    from starlette.requests import Request
    from starlette.responses import Response

    from miil21k.serve.bodies import Limits
    from miil21k.serve.clients import Keys, Limiter
    from miil21k.serve.endpoints import Endpoint
    from miil21k.serve.service import Service

    Handler: TypeAlias = Callable[[Request], Awaitable[Response]]

__all__ = ["Guard"]


class Guard:
    """Lets those ask who may, and counts what became of it."""

    def __init__(self, service: Service, limits: Limits, keys: Keys | None, limiter: Limiter | None) -> None:
        self._service, self._limits, self._keys, self._limiter = service, limits, keys, limiter

    async def answer(self, end: Endpoint, handler: Handler, request: Request) -> Response:
        """Return what `handler` does, or the reason why it is not asked."""
        if not end.images:
            return await self._guarded(end, handler, request)
        start = time.monotonic()
        code = 500
        try:
            found = await self._guarded(end, handler, request)
            code = found.status_code
        finally:
            labels = end.path.rstrip("/"), code
            self._service.metrics.requests.labels(*labels).inc()
            self._service.metrics.latency.labels(*labels).observe(time.monotonic() - start)
        return found

    async def _guarded(self, end: Endpoint, handler: Handler, request: Request) -> Response:
        refused = None if end.open else self._refusal(request)
        if refused is None:
            return await handler(request)
        body = Body(request, self._limits, self._service.buffer)
        await body.drain()
        return refused

    def _refusal(self, request: Request) -> Response | None:
        owner = None if self._keys is None else self._keys.owner(_key_of(request))
        client = owner or client_of(request.client.host if request.client else None)
        seconds = 0 if self._limiter is None else self._limiter.wait(client)
        if seconds:
            again = "a second" if seconds == 1 else f"{seconds} seconds"
            return error_reply(429, f"Too many requests: try again in {again}.", {"Retry-After": str(seconds)})
        if self._keys is not None and owner is None:
            sentence = "This server wants an API key, as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'."
            return error_reply(401, sentence, {"WWW-Authenticate": 'Bearer realm="miil21k"'})
        return None


def _key_of(request: Request) -> str:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else request.headers.get("x-api-key", "")
