"""The one HTTP client: http and https alone, one rule for redirects, and a deadline that nothing can put off.

A server that sends a byte now and then never runs into a time limit per read, so `deadline` bounds a whole request:
connecting, redirects, headers and body.
"""

from __future__ import annotations

import http.client
import io
import math
import time
import urllib.parse
import urllib.request
from contextlib import closing
from functools import cache, partial
from typing import TYPE_CHECKING, Any, cast
from urllib.error import HTTPError, URLError

from miil21k import __version__
from miil21k.errors import DownloadError

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

__all__ = ["Address", "fetch", "open_url", "what_failed"]

_BLOCK = 1 << 16


class Address(DownloadError):
    """An address, or one that it redirects to, that is not fetched; the message is the reason alone."""


def open_url(
    url: str,
    headers: Mapping[str, str] | None = None,
    *,
    timeout: float,
    deadline: float | None = None,
    response_only: bool = False,
    method: str = "GET",
) -> http.client.HTTPResponse:
    """Return the open response to a request; proxies are those of the environment.

    timeout: seconds to wait for the connection, and for each read. deadline: seconds for all of it, redirects and the
    last byte of the body too; None for no end. response_only: the deadline ends where the body begins, which may take
    hours.
    Redirects lead to http and https only, and never from https to http.
    Raises Address for what is no such address, HTTPError for a status from 400, URLError for what went wrong before
    the request was sent; OSError (TimeoutError for both limits) and HTTPException for what went wrong later.
    """
    _require_web(url)
    ends = None if deadline is None else time.monotonic() + deadline
    own = {"User-Agent": f"miil21k/{__version__}", "Accept-Encoding": "identity"}
    request = _Request(url, headers={**own, **(headers or {})}, method=method)
    request.ends = ends
    try:
        response = cast("http.client.HTTPResponse", _opener().open(request, timeout=timeout))
    except (http.client.InvalidURL, ValueError) as error:  # spaces, a port that is no number, a host that is no name
        raise Address(f"no address that can be asked: {error}") from None
    if response_only and isinstance(reader := getattr(response.fp, "raw", None), _TimedReader):
        reader.ends = math.inf
    return response


def fetch(url: str, *, limit: int, timeout: float, deadline: float) -> bytes:
    """Return the body that a URL answers with.

    limit: most bytes that are accepted; the other two as for `open_url`. Raises DownloadError with the reason alone,
    such as "answered 404 Not Found", to be put behind the name of the image or file.
    """
    try:
        with closing(open_url(url, timeout=timeout, deadline=deadline)) as answer:
            expected = answer.headers.get("Content-Length", "")
            body = bytearray()
            while len(body) <= limit and (block := answer.read1(_BLOCK)):
                body += block
    except HTTPError as error:
        error.close()
        raise DownloadError(f"answered {error.code} {error.reason}".rstrip()) from None
    except URLError as error:
        raise DownloadError(f"cannot be reached: {what_failed(error)}") from None
    except Address as error:
        raise DownloadError(f"is {error}") from None
    except (OSError, http.client.HTTPException) as error:
        raise DownloadError(f"cannot be fetched: {what_failed(error)}") from None
    if len(body) > limit:
        raise DownloadError(f"is larger than the limit of {limit:,} bytes")
    if expected.isdecimal() and len(expected) <= 20 and len(body) < int(expected):
        raise DownloadError(f"was cut off after {len(body):,} of {int(expected):,} bytes")
    return bytes(body)


def what_failed(error: BaseException) -> str:
    """Return in a few words why a connection or a read failed."""
    inner = error.reason if isinstance(error, URLError) and not isinstance(error, HTTPError) else error
    if isinstance(inner, TimeoutError):
        return str(inner) if isinstance(inner, _Late) else "timed out"
    if isinstance(inner, http.client.IncompleteRead):
        return "the connection was cut"
    return str(getattr(inner, "strerror", None) or inner) or type(inner).__name__


class _Late(TimeoutError):
    """The deadline of a request has passed."""

    def __init__(self) -> None:
        super().__init__("took longer than it may in all")


def _require_web(url: str) -> None:
    try:
        parts = urllib.parse.urlsplit(url)
        host = parts.hostname
    except ValueError as error:  # http://[::1
        raise Address(f"no address that can be asked: {error}") from None
    if parts.scheme not in ("http", "https") or not host:
        raise Address("no http or https address")


class _Request(urllib.request.Request):
    ends: float | None = None  # time.monotonic() of the deadline


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        try:
            _require_web(newurl)
            if req.type == "https" and urllib.parse.urlsplit(newurl).scheme == "http":
                raise Address("unprotected")
        except Address as error:
            fp.close()
            raise Address(f"redirected from {req.type} to '{newurl}', which is refused ({error})") from None
        following = super().redirect_request(req, fp, code, msg, headers, newurl)
        if following is None:
            return None
        timed = _Request(following.full_url, headers=dict(following.headers), unverifiable=True)
        timed.origin_req_host = following.origin_req_host
        timed.method = req.get_method()  # Python before 3.13 turns a HEAD into a GET here
        timed.ends = req.ends if isinstance(req, _Request) else None
        return timed


class _TimedReader(io.RawIOBase):
    """The bytes of a socket, until the deadline."""

    def __init__(self, sock: socket.socket, ends: float, timeout: float) -> None:
        self._sock, self.ends, self._timeout = sock, ends, timeout
        self._raw = sock.makefile("rb", buffering=0)  # keeps the socket open as long as the response is read

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        remaining = self.ends - time.monotonic()
        if remaining <= 0:
            raise _Late
        self._sock.settimeout(min(self._timeout, remaining))
        try:
            return self._raw.readinto(buffer)
        except TimeoutError:
            raise (_Late() if time.monotonic() >= self.ends else TimeoutError("timed out")) from None

    def close(self) -> None:
        self._raw.close()
        super().close()


class _TimedResponse(http.client.HTTPResponse):
    """A response whose status, headers and body all come before the deadline."""

    def __init__(self, sock: socket.socket, *args: Any, ends: float, timeout: float, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self.fp.close()
        self.fp = io.BufferedReader(_TimedReader(sock, ends, timeout))


def _connection(kind: type[http.client.HTTPConnection], ends: float | None, host: str, **options: Any) -> Any:
    if ends is None:
        return kind(host, **options)
    if (remaining := ends - time.monotonic()) <= 0:
        raise _Late
    given = options.get("timeout")
    timeout = float(given) if isinstance(given, (int, float)) else remaining
    made = kind(host, **{**options, "timeout": min(timeout, remaining)})
    made.response_class = partial(_TimedResponse, ends=ends, timeout=timeout)  # type: ignore[assignment]
    return made


class _Http(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        ends = getattr(req, "ends", None)
        return self.do_open(partial(_connection, http.client.HTTPConnection, ends), req)


class _Https(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        ends = getattr(req, "ends", None)
        return self.do_open(partial(_connection, http.client.HTTPSConnection, ends), req)


@cache
def _opener() -> urllib.request.OpenerDirector:
    """Return an opener that knows neither `file:` nor `ftp:` nor `data:`."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        _Http(),
        _Https(),
        urllib.request.HTTPDefaultErrorHandler(),
        _Redirects(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener
