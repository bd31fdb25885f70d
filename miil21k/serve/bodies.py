"""The body of a request as images, within limits; nothing is fetched from anywhere."""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote_to_bytes

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from miil21k.data.images import ImageInput
from miil21k.errors import Miil21kError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Coroutine

    from starlette.datastructures import FormData
    from starlette.requests import Request

    from miil21k.serve.options import ServeOptions

__all__ = ["Body", "Buffer", "Limits", "Refused", "limits_of"]

ReadT = TypeVar("ReadT")
_NAME = "image"  # of an image that came without a file name
# RFC 5987: filename*=utf-8''caf%C3%A9.jpg
_CODED_NAME = re.compile(rb";[ \t]*filename\*[ \t]*=[ \t]*([\w.-]+)'[\w-]*'([^;\s]+)", re.IGNORECASE)
_PLAIN_NAME = re.compile(rb";[ \t]*filename[ \t]*=", re.IGNORECASE)


@dataclass(frozen=True)
class Limits:
    """What one request may cost.

    max_bytes: of one image. max_images, max_body: images, and bytes of all that comes with them. seconds: to receive
    it. idle: seconds without a byte. answer: seconds from the last byte to the answer.
    """

    max_bytes: int
    max_images: int
    seconds: float
    max_body: int = 64 << 20
    idle: float = 10.0
    answer: float = 60.0


def limits_of(options: ServeOptions) -> Limits:
    """Return what a request may cost under these options."""
    return Limits(
        options.max_bytes,
        options.max_images,
        options.receive_timeout,
        options.max_body,
        options.idle_timeout,
        options.answer_timeout,
    )


class Refused(Miil21kError):
    """A request that is not answered; `status` is the code of the response."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class Buffer:
    """How many bytes of bodies may be here at a time, received and not yet answered, over all requests."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.held = 0

    def take(self, count: int) -> None:
        """Count bytes that came; raises Refused (503) when they are too many."""
        if self.held + count > self.capacity:
            raise Refused(503, f"The bodies that are being received fill {self.capacity:,} bytes: try again.")
        self.held += count

    def free(self, count: int) -> None:
        """Count bytes that are no longer here."""
        self.held -= count


class Body:
    """The body of `request`; `images` reads it once, `close` frees what that left in memory and on disk."""

    def __init__(self, request: Request, limits: Limits, buffer: Buffer) -> None:
        self._request, self._limits, self._buffer = request, limits, buffer
        self._stream = request.stream()
        self._files: list[UploadFile] = []
        self._held = 0

    async def images(self) -> list[ImageInput]:
        """Return the images, at least one.

        Raises Refused: 400 for a body that is not what its type says or ends too early, 408 when it takes too long,
        413 when it is too large, 415 for another type, 503 when the buffer is full; ClientDisconnect when the client
        went away.
        """
        kind = self._request.headers.get("content-type", "application/octet-stream").partition(";")[0].strip().lower()
        if kind == "multipart/form-data":
            return await self._in_time(self._several())
        if kind == "application/octet-stream" or kind.startswith("image/"):
            content = await self._in_time(self._whole(self._limits.max_bytes))
            if not content:
                raise Refused(400, "The body is empty: send an image.")
            return [ImageInput(_NAME, content)]
        raise Refused(
            415, f"A body of type '{kind}' is no image: send image/*, application/octet-stream or multipart/form-data."
        )

    async def content(self) -> bytes:
        """Return all bytes of the body, whatever its type; raises as `images` does."""
        return await self._in_time(self._whole(self._limits.max_body))

    async def _in_time(self, reading: Coroutine[Any, Any, ReadT]) -> ReadT:
        if self._request.headers.get("content-encoding", "identity").lower() != "identity":
            reading.close()
            raise Refused(415, "The body is compressed: send it as it is.")
        try:
            return await asyncio.wait_for(reading, self._limits.seconds)
        except (asyncio.TimeoutError, TimeoutError):
            raise Refused(408, f"The body did not arrive within {self._limits.seconds:g} seconds.") from None

    async def _whole(self, most: int) -> bytes:
        body = bytearray()
        async for chunk in self._counted(most):
            body += chunk
        return bytes(body)

    async def _several(self) -> list[ImageInput]:
        limits = self._limits
        stream = self._counted(limits.max_body)
        parser = _Form(self._request.headers, stream, max_files=limits.max_images, max_fields=1)
        try:
            form = await parser.parse()
        except MultiPartException as error:
            if "Too many files" in error.message:
                raise Refused(413, f"There are more than {limits.max_images} images in one request.") from None
            raise Refused(400, f"The multipart body cannot be read: {error.message}") from None
        parts = form.multi_items()
        self._files = [value for _, value in parts if isinstance(value, UploadFile)]
        for name, value in parts:
            if not isinstance(value, UploadFile):
                raise Refused(400, f"The part '{name}' is no file; options belong into the query of the address.")
            if (value.size or 0) > limits.max_bytes:
                raise _too_large(f"'{value.filename or _NAME}'", limits.max_bytes)
        if not parts:
            raise Refused(400, "The multipart body holds no file.")
        return [ImageInput(file.filename or _NAME, file.file.read) for file in self._files]

    async def _counted(self, most: int) -> AsyncGenerator[bytes, None]:
        length = self._request.headers.get("content-length", "")
        if length.isdecimal() and int(length) > most:
            raise _too_large("The body", most)
        size = 0
        while True:
            try:
                chunk = await asyncio.wait_for(anext(self._stream), self._limits.idle)
            except StopAsyncIteration:
                return
            except (asyncio.TimeoutError, TimeoutError):
                raise Refused(408, f"Nothing came for {self._limits.idle:g} seconds.") from None
            size += len(chunk)
            if size > most:
                raise _too_large("The body", most)
            self._buffer.take(len(chunk))
            self._held += len(chunk)
            yield chunk

    async def drain(self) -> None:
        """Read and forget what is still to come of a body that was refused, within the limits.

        A client that is still sending would otherwise meet a closed connection instead of the reason.
        """
        if self._request.headers.get("expect", "").lower() == "100-continue":
            return  # it asked before sending
        with suppress(ClientDisconnect, asyncio.TimeoutError, TimeoutError):
            await asyncio.wait_for(self._forget(self._limits.max_body), self._limits.idle)

    async def _forget(self, most: int) -> None:
        async for chunk in self._stream:
            most -= len(chunk)
            if most < 0:
                return

    def close(self) -> None:
        """Free the files that hold the parts of a multipart body, and what the buffer counts for this one."""
        for file in self._files:
            file.file.close()
        self._buffer.free(self._held)
        self._held = 0


class _Form(MultiPartParser):
    """The parts of a multipart body; one that ends before its closing boundary cannot be read."""

    _ended = False

    async def parse(self) -> FormData:
        """Return the parts; raises MultiPartException."""
        self.stream = self._whole(self.stream)
        return await super().parse()

    async def _whole(self, stream: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        async for chunk in stream:
            yield chunk
        if not self._ended:
            raise MultiPartException("it ends before its closing boundary, so parts are missing.")

    def on_headers_finished(self) -> None:
        """Read the file name of RFC 5987 too, which some clients send alone."""
        part = self._current_part
        part.content_disposition = _with_plain_name(part.content_disposition or b"")
        super().on_headers_finished()

    def on_end(self) -> None:
        """Note that the body is whole."""
        self._ended = True


def _with_plain_name(disposition: bytes) -> bytes:
    """Return the header with `filename` where it has `filename*` alone; an unknown charset is read as it is."""
    coded = _CODED_NAME.search(disposition)
    if coded is None or _PLAIN_NAME.search(disposition):
        return disposition
    raw = unquote_to_bytes(coded[2])
    with suppress(LookupError):
        raw = raw.decode(coded[1].decode("ascii"), "replace").encode()
    quoted = raw.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
    return disposition + b'; filename="' + quoted + b'"'


def _too_large(what: str, most: int) -> Refused:
    return Refused(413, f"{what} has more than {most:,} bytes.")
