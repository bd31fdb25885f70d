"""The body of a request as images, within limits; nothing is fetched from anywhere."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from miil21k.data.images import ImageInput
from miil21k.errors import Miil21kError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from starlette.requests import Request

__all__ = ["Body", "Limits", "Refused"]

_FRAMING = 64 << 10  # bytes for the headers and boundaries of a multipart body
_NAME = "image"  # of an image that came without a file name


@dataclass(frozen=True)
class Limits:
    """max_bytes: of one image. max_images: of one request. seconds: to receive one request."""

    max_bytes: int
    max_images: int
    seconds: float


class Refused(Miil21kError):
    """A request that is not answered; `status` is the code of the response."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class Body:
    """The body of `request`; `images` reads it once, `close` frees what that left on disk."""

    def __init__(self, request: Request, limits: Limits) -> None:
        self._request, self._limits = request, limits
        self._stream = request.stream()
        self._files: list[UploadFile] = []

    async def images(self) -> list[ImageInput]:
        """Return the images, at least one.

        Raises Refused: 400 for a body that is not what its type says, 408 when it takes too long, 413 when it is too
        large, 415 for another type; ClientDisconnect when the client went away.
        """
        headers = self._request.headers
        kind = headers.get("content-type", "application/octet-stream").partition(";")[0].strip().lower()
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise Refused(415, "The body is compressed: send the image file as it is.")
        try:
            if kind == "multipart/form-data":
                return await asyncio.wait_for(self._several(), self._limits.seconds)
            if kind == "application/octet-stream" or kind.startswith("image/"):
                return await asyncio.wait_for(self._one(), self._limits.seconds)
        except (asyncio.TimeoutError, TimeoutError):
            raise Refused(408, f"The body did not arrive within {self._limits.seconds:g} seconds.") from None
        raise Refused(
            415, f"A body of type '{kind}' is no image: send image/*, application/octet-stream or multipart/form-data."
        )

    async def _one(self) -> list[ImageInput]:
        body = bytearray()
        async for chunk in self._counted(self._limits.max_bytes):
            body += chunk
        return [ImageInput(_NAME, bytes(body))]

    async def _several(self) -> list[ImageInput]:
        limits = self._limits
        stream = self._counted(limits.max_bytes * limits.max_images + _FRAMING)
        parser = MultiPartParser(self._request.headers, stream, max_files=limits.max_images, max_fields=1)
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
        async for chunk in self._stream:
            size += len(chunk)
            if size > most:
                raise _too_large("The body", most)
            yield chunk

    async def drain(self) -> None:
        """Read and forget what is still to come of a body that was refused, within the limits.

        A client that is still sending would otherwise meet a closed connection instead of the reason.
        """
        if self._request.headers.get("expect", "").lower() == "100-continue":
            return  # it asked before sending
        with suppress(ClientDisconnect, asyncio.TimeoutError, TimeoutError):
            await asyncio.wait_for(self._forget(self._limits.max_bytes * self._limits.max_images), self._limits.seconds)

    async def _forget(self, most: int) -> None:
        async for chunk in self._stream:
            most -= len(chunk)
            if most < 0:
                return

    def close(self) -> None:
        """Free the files that hold the parts of a multipart body."""
        for file in self._files:
            file.file.close()


def _too_large(what: str, most: int) -> Refused:
    return Refused(413, f"{what} has more than {most:,} bytes.")
