"""Images from the web, under limits."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from miil21k.errors import ImageError

if TYPE_CHECKING:
    from urllib.request import OpenerDirector

__all__ = ["MAX_DOWNLOAD", "fetch_image", "is_url"]

MAX_DOWNLOAD = 64 * 2**20  # bytes: far above any photograph, far below the memory of a small machine
TIMEOUT = 20.0  # seconds without a byte


def is_url(name: str) -> bool:
    """Return whether `name` is an http or https address."""
    return name.lower().startswith(("http://", "https://"))


def fetch_image(url: str, *, offline: bool = False, limit: int = MAX_DOWNLOAD, timeout: float = TIMEOUT) -> bytes:
    """Return the body of an http or https URL.

    limit: most bytes that are accepted. timeout: seconds to wait for the connection and for each read.
    Redirects are followed to http and https only. Raises ImageError, naming the URL and what happened.
    """
    if offline:
        raise ImageError(f"'{url}' was not fetched: the run is offline.")
    from http.client import HTTPException
    from urllib.error import HTTPError, URLError
    from urllib.request import Request

    from miil21k import __version__

    request = Request(url, headers={"User-Agent": f"miil21k/{__version__}"})  # noqa: S310 - the opener knows http only
    try:
        with _opener().open(request, timeout=timeout) as answer:
            body: bytes = answer.read(limit + 1)
            expected = answer.headers.get("Content-Length")
    except HTTPError as error:
        error.close()
        raise ImageError(f"'{url}' answered {error.code} {error.reason}.") from None
    except URLError as error:
        raise ImageError(f"'{url}' cannot be reached: {error.reason}.") from None
    except (OSError, HTTPException, ValueError) as error:
        raise ImageError(f"'{url}' cannot be fetched: {error or type(error).__name__}.") from None
    if len(body) > limit:
        raise ImageError(f"'{url}' is larger than the limit of {limit:,} bytes.")
    if expected is not None and len(body) < int(expected):
        raise ImageError(f"'{url}' was cut off after {len(body):,} of {int(expected):,} bytes.")
    return body


@cache
def _opener() -> OpenerDirector:
    from urllib import request
    from urllib.error import URLError

    class WebRedirects(request.HTTPRedirectHandler):
        """Refuses to be sent from the web to another scheme (`file:`, `ftp:`)."""

        def redirect_request(self, req, fp, code, msg, headers, newurl):  # type: ignore[no-untyped-def]
            from urllib.parse import urlsplit

            if urlsplit(newurl).scheme not in ("http", "https"):
                fp.close()
                raise URLError(f"redirected to '{newurl}', which is not http or https")
            return super().redirect_request(req, fp, code, msg, headers, newurl)

    opener = request.OpenerDirector()
    for handler in (
        request.ProxyHandler(),
        request.HTTPHandler(),
        request.HTTPSHandler(),
        request.HTTPDefaultErrorHandler(),
        WebRedirects(),
        request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener
