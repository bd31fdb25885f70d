"""The HTTP interface: routes, codes and headers around a `Service`."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Route

from miil21k.errors import Miil21kError, UsageError
from miil21k.predict.prediction import ROW_SCHEMA
from miil21k.serve.batching import QueueFull
from miil21k.serve.bodies import Body, Refused
from miil21k.serve.metrics import CONTENT_TYPE
from miil21k.serve.page import PAGE, PAGE_POLICY
from miil21k.serve.query import asked_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from starlette.requests import Request

    from miil21k.serve.bodies import Limits
    from miil21k.serve.query import Asked
    from miil21k.serve.service import Service

__all__ = ["create_app"]

_RETRY = {"Retry-After": "1"}  # seconds
_SAFE = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
log = logging.getLogger("miil21k.serve")


def create_app(service: Service, usual: Asked, limits: Limits, *, allow_origin: Sequence[str] = ()) -> Starlette:
    """Return the ASGI application.

    usual: how a request without parameters is answered. allow_origin: the origins (`https://example.org`, or `*`)
    whose pages may read the answers; none by default.
    """
    handlers = _Handlers(service, usual, limits)
    middleware = []
    if allow_origin:
        middleware.append(
            Middleware(
                CORSMiddleware,
                allow_origins=list(allow_origin),
                allow_methods=["GET", "POST"],
                allow_headers=["Content-Type"],
                expose_headers=["Retry-After"],
            )
        )
    return Starlette(
        routes=[
            Route("/", handlers.page),
            Route("/v1/predict", handlers.predict, methods=["POST"]),
            Route("/v1/model", handlers.model),
            Route("/health", handlers.health),
            Route("/ready", handlers.ready),
            Route("/metrics", handlers.metrics),
        ],
        middleware=middleware,
        exception_handlers={HTTPException: _http_error, Exception: _unexpected},
    )


class _Handlers:
    def __init__(self, service: Service, usual: Asked, limits: Limits) -> None:
        self._service, self._usual, self._limits = service, usual, limits

    async def predict(self, request: Request) -> Response:
        """Answer the images of the body."""
        body = Body(request, self._limits)
        response = _error(500, "The server failed; its log says why.")
        try:
            response = await self._predict(request, body)
        finally:
            body.close()
            self._service.metrics.requests.labels(response.status_code).inc()
        return response

    async def _predict(self, request: Request, body: Body) -> Response:
        service = self._service
        try:
            with service.batcher.places() as places:
                places.take()
                asked = asked_of(self._usual, request.query_params.multi_items())
                answerer = await service.answerer_of(asked)
                images = await body.images()
                places.take(len(images) - 1)
                rows = await service.rows(images, answerer, asked, places)
        except asyncio.CancelledError:  # the end was asked for twice, or took too long
            return _error(503, "The server is stopping: ask another one.", _RETRY)
        except ClientDisconnect:
            return _error(499, "The client closed the connection.")  # nobody reads it
        except (Refused, QueueFull, UsageError) as error:
            await body.drain()
            if isinstance(error, QueueFull):
                return _error(503, str(error), _RETRY)
            return _error(error.status if isinstance(error, Refused) else 400, str(error))
        except Miil21kError as error:
            log.error("%s", error)
            return _error(500, str(error))
        return _json({"schema": ROW_SCHEMA, "predictions": rows})

    async def model(self, _request: Request) -> Response:
        """Say what answers."""
        return _json(self._service.description())

    async def health(self, _request: Request) -> Response:
        """Say that the process lives."""
        return _json({"status": "ok"})

    async def ready(self, _request: Request) -> Response:
        """Say whether an image would be taken now."""
        if self._service.batcher.open:
            return _json({"status": "ready"})
        return _json({"status": "busy"}, 503, _RETRY)

    async def metrics(self, _request: Request) -> Response:
        """Say what was done."""
        return Response(self._service.metrics.text(), headers={**_SAFE, "Content-Type": CONTENT_TYPE})

    async def page(self, _request: Request) -> Response:
        """Show the page for people."""
        return Response(PAGE, media_type="text/html", headers={**_SAFE, "Content-Security-Policy": PAGE_POLICY})


def _json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    body = json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace")
    return Response(body, status, {**_SAFE, **(headers or {})}, "application/json")


def _error(status: int, sentence: str, headers: Mapping[str, str] | None = None) -> Response:
    return _json({"schema": ROW_SCHEMA, "error": sentence}, status, headers)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    sentence = {
        404: f"There is nothing at '{request.url.path}': POST images to /v1/predict.",
        405: f"'{request.url.path}' does not answer {request.method}.",
    }.get(error.status_code, error.detail)
    return _error(error.status_code, sentence, error.headers)


async def _unexpected(_request: Request, _reason: Exception) -> Response:
    return _error(500, "The server failed; its log says why.")  # the traceback goes there
