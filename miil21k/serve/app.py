"""The HTTP interface: routes, codes and headers around a `Service`."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Route

from miil21k.errors import Miil21kError, UsageError
from miil21k.serve.batching import QueueFull
from miil21k.serve.bodies import Body, Refused
from miil21k.serve.metrics import CONTENT_TYPE
from miil21k.serve.openapi import description, reference_page
from miil21k.serve.page import PAGE, PAGE_POLICY, STATIC_POLICY
from miil21k.serve.query import asked_of
from miil21k.writers.rows import ROW_SCHEMA

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping, Sequence

    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

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
    middleware = [Middleware(_Ending, service)]
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
    app = Starlette(
        routes=[
            Route("/", handlers.page),
            # A redirect to the other spelling would name a host and a path that a proxy may not have.
            Route("/v1/predict", handlers.predict, methods=["POST"]),
            Route("/v1/predict/", handlers.predict, methods=["POST"]),
            Route("/v1/model", handlers.model),
            Route("/v1/concepts", handlers.concepts),
            Route("/health", handlers.health),
            Route("/ready", handlers.ready),
            Route("/metrics", handlers.metrics),
            Route("/openapi.json", handlers.openapi),
            Route("/docs", handlers.docs),
        ],
        middleware=middleware,
        exception_handlers={HTTPException: handlers.http_error, Exception: _unexpected},
    )
    app.router.redirect_slashes = False
    return app


class _Ending:
    """Tells every client to come back on a new connection while the server ends, so that none is cut."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def told(message: Message) -> None:
            if message["type"] == "http.response.start" and self._service.ending:
                message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
            await send(message)

        await self._app(scope, receive, told)


class _Handlers:
    def __init__(self, service: Service, usual: Asked, limits: Limits) -> None:
        self._service, self._usual, self._limits = service, usual, limits
        self._description = description(limits)

    async def predict(self, request: Request) -> Response:
        """Answer the images of the body."""
        start = time.monotonic()
        body = Body(request, self._limits, self._service.buffer)
        response = _error(500, "The server failed; its log says why.")
        try:
            response = await self._predict(request, body)
        finally:
            body.close()
            metrics = self._service.metrics
            metrics.requests.labels(response.status_code).inc()
            metrics.latency.labels(response.status_code).observe(time.monotonic() - start)
        return response

    async def _predict(self, request: Request, body: Body) -> Response:
        service = self._service
        try:
            with service.batcher.places() as places:
                asked = asked_of(self._usual, request.query_params.multi_items())
                decoder = await service.decoder_of(asked)
                service.batcher.check(1)  # refused before its body is read, where that is known
                with service.batcher.expecting():
                    images = await body.images()
                    places.take(len(images))
                rows = await self._while_wanted(request, service.rows(images, decoder, asked, places))
        except asyncio.CancelledError:  # the end was asked for twice, or took too long
            return _error(503, "The server is stopping: ask another one.", _RETRY)
        except ClientDisconnect:
            return _error(499, "The client closed the connection.")  # nobody reads it
        except (Refused, QueueFull, UsageError) as error:
            await body.drain()
            status = error.status if isinstance(error, Refused) else 503 if isinstance(error, QueueFull) else 400
            return _error(status, str(error), _RETRY if status == 503 else None)
        except Miil21kError as error:
            log.error("%s", error)
            return _error(500, str(error))
        return _json({"schema": ROW_SCHEMA, "predictions": rows})

    async def _while_wanted(self, request: Request, rows: Coroutine[Any, Any, list[dict[str, Any]]]) -> Any:
        """Return what `rows` does; stop it, and free its places, when the client is gone or it takes too long.

        Raises ClientDisconnect, Refused (503).
        """
        work, gone = asyncio.ensure_future(rows), asyncio.ensure_future(_disconnected(request))
        try:
            done, _ = await asyncio.wait({work, gone}, timeout=self._limits.answer, return_when=asyncio.FIRST_COMPLETED)
            if work in done:
                return work.result()
            if gone in done:
                raise ClientDisconnect
            raise Refused(503, f"No answer within {self._limits.answer:g} seconds: the server has too much to do.")
        finally:
            for task in (work, gone):
                task.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)

    async def model(self, _request: Request) -> Response:
        """Say what answers."""
        return _json(self._service.description())

    async def concepts(self, request: Request) -> Response:
        """Say which nouns begin with the letters `like`."""
        found = await asyncio.to_thread(self._service.concepts, request.query_params.get("like", ""))
        return _json({"schema": ROW_SCHEMA, "concepts": found})

    async def health(self, _request: Request) -> Response:
        """Say that the process lives."""
        return _json({"status": "ok"})

    async def ready(self, _request: Request) -> Response:
        """Say whether an image would be taken now."""
        if self._service.ending:
            return _json({"status": "stopping"}, 503, _RETRY)
        if self._service.batcher.open:
            return _json({"status": "ready"})
        return _json({"status": "busy"}, 503, _RETRY)

    async def metrics(self, _request: Request) -> Response:
        """Say what was done."""
        return Response(self._service.metrics.text(), headers={**_SAFE, "Content-Type": CONTENT_TYPE})

    async def openapi(self, _request: Request) -> Response:
        """Describe this interface to programs."""
        return _json(self._description)

    async def docs(self, _request: Request) -> Response:
        """Describe this interface to people."""
        page = reference_page(self._description)
        return Response(page, media_type="text/html", headers={**_SAFE, "Content-Security-Policy": STATIC_POLICY})

    async def page(self, _request: Request) -> Response:
        """Show the page for people."""
        return Response(PAGE, media_type="text/html", headers={**_SAFE, "Content-Security-Policy": PAGE_POLICY})

    async def http_error(self, request: Request, error: Exception) -> Response:
        """Say why there is no such answer, when the body that came with the question is read."""
        assert isinstance(error, HTTPException)
        body = Body(request, self._limits, self._service.buffer)
        await body.drain()
        sentence = {
            404: f"There is nothing at '{request.url.path}': POST images to /v1/predict.",
            405: f"'{request.url.path}' does not answer {request.method}.",
        }.get(error.status_code, error.detail)
        return _error(error.status_code, sentence, error.headers)


def _json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    body = json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace")
    return Response(body, status, {**_SAFE, **(headers or {})}, "application/json")


def _error(status: int, sentence: str, headers: Mapping[str, str] | None = None) -> Response:
    return _json({"schema": ROW_SCHEMA, "error": sentence}, status, headers)


async def _disconnected(request: Request) -> None:
    """Return when the client of a request whose body was read has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _unexpected(_request: Request, _reason: Exception) -> Response:
    return _error(500, "The server failed; its log says why.")  # the traceback goes there
