"""The HTTP interface: routes, codes and headers around a `Service`."""

from __future__ import annotations

import asyncio
import base64
import logging
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Route

from miil21k.errors import Miil21kError, UsageError
from miil21k.predict.prediction import Prediction
from miil21k.serve.batching import QueueFull
from miil21k.serve.bodies import Body, Refused
from miil21k.serve.endpoints import ASKED_ROW, ASKING, EMBEDDED_ROW, ENCODINGS, endpoints
from miil21k.serve.guard import Guard
from miil21k.serve.kserve import HEADER_LENGTH, VERSION, inference_of, model_metadata, response, server_metadata
from miil21k.serve.logs import REQUEST_ID, RequestLog
from miil21k.serve.metrics import CONTENT_TYPE
from miil21k.serve.openapi import description, reference_page
from miil21k.serve.page import PAGE, PAGE_POLICY, STATIC_POLICY
from miil21k.serve.query import asked_of
from miil21k.serve.replies import RETRY, SAFE, error_reply, json_bytes, json_reply, rows_reply
from miil21k.serve.service import Wanted, stacked
from miil21k.writers.labels import add_labels
from miil21k.writers.rows import ROW_SCHEMA, encode

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence
    from typing import TypeAlias

    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from miil21k.data.images import ImageInput
    from miil21k.serve.batching import Places
    from miil21k.serve.bodies import Limits
    from miil21k.serve.clients import Keys, Limiter
    from miil21k.serve.query import Asked
    from miil21k.serve.service import Found, Service

    Work: TypeAlias = Callable[[Request, Body, Places[Any, Found]], Awaitable[Response]]

__all__ = ["create_app"]

_PROBES = ("/health", "/ready", "/metrics", "/v2/health/live", "/v2/health/ready")
log = logging.getLogger("miil21k.serve")


def create_app(
    service: Service,
    usual: Asked,
    limits: Limits,
    *,
    allow_origin: Sequence[str] = (),
    keys: Keys | None = None,
    limiter: Limiter | None = None,
    log_level: int = logging.DEBUG,
    more: Sequence[Route] = (),
) -> Starlette:
    """Return the ASGI application.

    usual: how a request without parameters is answered. allow_origin: the origins (`https://example.org`, or `*`)
    whose pages may read the answers; none by default. keys: of which a request needs one; limiter: how often a client
    may ask. log_level: of the line for each request. more: what else is answered, to everyone.
    """
    found = endpoints(limits, usual)
    handlers = _Handlers(service, usual, limits, description(found, keys=keys is not None))
    guard = Guard(service, limits, keys, limiter)
    middleware = [Middleware(RequestLog, log_level, _PROBES, time.monotonic), Middleware(_Ending, service)]
    if allow_origin:
        middleware.append(
            Middleware(
                CORSMiddleware,
                allow_origins=list(allow_origin),
                allow_methods=["GET", "POST"],
                allow_headers=["Authorization", "Content-Type", "X-API-Key", REQUEST_ID],
                expose_headers=["Retry-After", REQUEST_ID],
            )
        )
    app = Starlette(
        routes=[
            *(
                Route(end.path, partial(guard.answer, end, getattr(handlers, end.handler)), methods=[end.method])
                for end in found
            ),
            *more,
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
    def __init__(self, service: Service, usual: Asked, limits: Limits, described: dict[str, Any]) -> None:
        self._service, self._usual, self._limits = service, usual, limits
        self._description = described
        self._model = service.predictor.origin.model

    async def predict(self, request: Request) -> Response:
        """Answer the images of the body."""
        return await self._answered(request, self._predict)

    async def ask(self, request: Request) -> Response:
        """Answer questions about the images of the body."""
        return await self._answered(request, self._ask)

    async def embed(self, request: Request) -> Response:
        """Give the embeddings of the images of the body."""
        return await self._answered(request, self._embed)

    async def infer(self, request: Request) -> Response:
        """Answer the tensors of the body with tensors."""
        return self._no_such_model(request) or await self._answered(request, self._infer)

    async def _answered(self, request: Request, work: Work) -> Response:
        """Return what `work` does with the body of the request, in some places; or why there is none."""
        body = Body(request, self._limits, self._service.buffer)
        try:
            with self._service.batcher.places() as places:
                return await work(request, body, places)
        except asyncio.CancelledError:  # the end was asked for twice, or took too long
            return error_reply(503, "The server is stopping: ask another one.", RETRY)
        except ClientDisconnect:
            return error_reply(499, "The client closed the connection.")  # nobody reads it
        except (Refused, QueueFull, UsageError) as error:
            await body.drain()
            status = error.status if isinstance(error, Refused) else 503 if isinstance(error, QueueFull) else 400
            return error_reply(status, str(error), RETRY if status == 503 else None)
        except Miil21kError as error:
            log.error("%s", error)
            return error_reply(500, str(error))
        finally:
            body.close()

    async def _predict(self, request: Request, body: Body, places: Places[Any, Found]) -> Response:
        asked = asked_of(self._usual, request.query_params.multi_items())
        wanted = await self._service.wanted_of(asked)
        found = await self._seen(request, body, places, wanted)
        return rows_reply([self._row(*pair, asked.label_type) for pair in found])

    async def _ask(self, request: Request, body: Body, places: Places[Any, Found]) -> Response:
        asked = asked_of(self._usual, request.query_params.multi_items(), ASKING)
        wanted = await self._service.wanted_of(asked._replace(options=replace(asked.options, multi=False)))
        if not asked.options.ask:
            raise UsageError("Nothing is asked: say it as /v1/ask?ask=dog,vehicle.")
        found = await self._seen(request, body, places, wanted)
        return rows_reply([encode(ASKED_ROW, self._prediction(image, one)) for image, one in found])

    async def _embed(self, request: Request, body: Body, places: Places[Any, Found]) -> Response:
        written = _encoding(request.query_params.multi_items())
        if self._service.no_embedding is not None:
            raise Refused(501, self._service.no_embedding)
        wanted = Wanted(self._usual.options, None, embedding=True)
        rows = []
        for image, one in await self._seen(request, body, places, wanted):
            row = encode(EMBEDDED_ROW, self._prediction(image, one))
            if written == "base64" and not isinstance(one, str) and one.embedding is not None:
                row["embedding"] = base64.b64encode(one.embedding.astype("<f4").tobytes()).decode()
            rows.append(row)
        return rows_reply(rows)

    async def _seen(
        self, request: Request, body: Body, places: Places[Any, Found], wanted: Wanted
    ) -> list[tuple[ImageInput, Found | str]]:
        """Return the images of the body, each with what was found in it."""
        self._service.batcher.check(1)  # refused before its body is read, where that is known
        with self._service.batcher.expecting():
            images = await body.images()
            places.take(len(images))
        found = await self._while_wanted(request, self._service.answers(images, wanted, places))
        return list(zip(images, found, strict=True))

    async def _infer(self, request: Request, body: Body, places: Places[Any, Found]) -> Response:
        service, loop = self._service, asyncio.get_running_loop()
        service.batcher.check(1)
        with service.batcher.expecting():
            content, header = await body.content(), request.headers.get(HEADER_LENGTH)
            known, most = tuple(service.tensors), self._limits.max_images
            sent = await loop.run_in_executor(service.readers, inference_of, content, header, known, most)
            asked = asked_of(self._usual, [*request.query_params.multi_items(), *sent.query])
            embed = service.no_embedding is None and ("embedding" in sent.outputs or not sent.outputs)
            wanted = await service.wanted_of(asked, embedding=embed, tensors=True)
            decoder = wanted.decoder
            assert decoder is not None
            for output, parameter, there in (("asked", "ask", decoder.asked), ("bins", "bins", decoder.bins)):
                if output in sent.outputs and not there:
                    raise Refused(400, f"There is no output '{output}' without the parameter '{parameter}'.")
            places.take(len(sent.images))
        found = await self._while_wanted(request, service.answers(sent.images, wanted, places))
        unread = next((one for one in found if isinstance(one, str)), None)
        if unread is not None:
            raise Refused(400, unread)
        read = [one for one in found if not isinstance(one, str)]
        bare = [one._replace(embedding=None) for one in read]  # it is a tensor of its own
        rows = [self._row(*pair, asked.label_type) for pair in zip(sent.images, bare, strict=True)]
        tensors = stacked(read, list(map(json_bytes, rows)))
        answer, length = await loop.run_in_executor(service.readers, response, sent, self._model, tensors)
        kind = "application/json" if length is None else "application/octet-stream"
        return Response(answer, 200, {**SAFE, **({} if length is None else {HEADER_LENGTH: str(length)})}, kind)

    def _prediction(self, image: ImageInput, found: Found | str) -> Prediction:
        origin = self._service.predictor.origin
        if isinstance(found, str):
            return Prediction(image.name, origin, error=found)
        answer = {} if found.answer is None else found.answer._asdict()
        return Prediction(image.name, origin, **answer, heat=found.heat, embedding=found.embedding)

    def _row(self, image: ImageInput, found: Found | str, label_type: str | None) -> dict[str, Any]:
        row = self._prediction(image, found).to_dict()
        return row if label_type is None else add_labels(row, self._service.predictor.space, label_type)

    async def _while_wanted(self, request: Request, rows: Coroutine[Any, Any, list[Found | str]]) -> list[Found | str]:
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

    def _no_such_model(self, request: Request) -> Response | None:
        named = request.path_params
        if named["model"] != self._model:
            return error_reply(404, f"There is no model '{named['model']}': this server has '{self._model}'.")
        if named.get("version", VERSION) != VERSION:
            return error_reply(
                404, f"There is no version '{named['version']}' of '{self._model}': it has version {VERSION}."
            )
        return None

    async def server_metadata(self, _request: Request) -> Response:
        """Say what serves, as KServe does."""
        return json_reply(server_metadata())

    async def model_metadata(self, request: Request) -> Response:
        """Say what goes in and comes out, as KServe does."""
        return self._no_such_model(request) or json_reply(model_metadata(self._model, self._service.tensors))

    async def model_ready(self, request: Request) -> Response:
        """Say whether the model would answer now, as KServe does."""
        return self._no_such_model(request) or self._readiness({"name": self._model, "ready": True})

    async def health_live(self, _request: Request) -> Response:
        """Say that the process lives, as KServe does."""
        return json_reply({"live": True})

    async def health_ready(self, _request: Request) -> Response:
        """Say whether an image would be taken now, as KServe does."""
        return self._readiness({"ready": True})

    async def model(self, _request: Request) -> Response:
        """Say what answers."""
        return json_reply(self._service.description())

    async def concepts(self, request: Request) -> Response:
        """Say which nouns begin with the letters `like`."""
        found = await asyncio.to_thread(self._service.concepts, request.query_params.get("like", ""))
        return json_reply({"schema": ROW_SCHEMA, "concepts": found})

    async def health(self, _request: Request) -> Response:
        """Say that the process lives."""
        return json_reply({"status": "ok"})

    async def ready(self, _request: Request) -> Response:
        """Say whether an image would be taken now."""
        return self._readiness({"status": "ready"})

    def _readiness(self, answer: dict[str, Any]) -> Response:
        if self._service.ending:
            return json_reply({"status": "stopping"}, 503, RETRY)
        if self._service.batcher.open:
            return json_reply(answer)
        return json_reply({"status": "busy"}, 503, RETRY)

    async def metrics(self, _request: Request) -> Response:
        """Say what was done."""
        return Response(self._service.metrics.text(), headers={**SAFE, "Content-Type": CONTENT_TYPE})

    async def openapi(self, _request: Request) -> Response:
        """Describe this interface to programs."""
        return json_reply(self._description)

    async def docs(self, _request: Request) -> Response:
        """Describe this interface to people."""
        page = reference_page(self._description)
        return Response(page, media_type="text/html", headers={**SAFE, "Content-Security-Policy": STATIC_POLICY})

    async def page(self, _request: Request) -> Response:
        """Show the page for people."""
        return Response(PAGE, media_type="text/html", headers={**SAFE, "Content-Security-Policy": PAGE_POLICY})

    async def http_error(self, request: Request, error: Exception) -> Response:
        """Say why there is no such answer, when the body that came with the question is read."""
        assert isinstance(error, HTTPException)
        body = Body(request, self._limits, self._service.buffer)
        await body.drain()
        sentence = {
            404: f"There is nothing at '{request.url.path}': POST images to /v1/predict.",
            405: f"'{request.url.path}' does not answer {request.method}.",
        }.get(error.status_code, error.detail)
        return error_reply(error.status_code, sentence, error.headers)


async def _disconnected(request: Request) -> None:
    """Return when the client of a request whose body was read has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _unexpected(_request: Request, _reason: Exception) -> Response:
    return error_reply(500, "The server failed; its log says why.")  # the traceback goes there


def _encoding(query: list[tuple[str, str]]) -> str:
    """Return how an embedding is to be written; raises UsageError."""
    for name, _ in query:
        if name != "encoding_format":
            raise UsageError(f"No parameter '{name}'. The parameter is: encoding_format.")
    if len(query) > 1:
        raise UsageError("The parameter 'encoding_format' is given twice.")
    written = query[0][1] if query else ENCODINGS[0]
    if written not in ENCODINGS:
        raise UsageError(f"encoding_format must be {' or '.join(ENCODINGS)}, not '{written}'.")
    return written
