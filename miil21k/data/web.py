"""Images from the web, under limits."""

from __future__ import annotations

from miil21k.errors import DownloadError, ImageError

__all__ = ["MAX_DOWNLOAD", "fetch_image", "is_url"]

MAX_DOWNLOAD = 64 * 2**20  # bytes: far above any photograph, far below the memory of a small machine
TIMEOUT = 20.0  # seconds without a byte
DEADLINE = 120.0  # seconds for a whole image: 64 MiB at half a megabyte per second


def is_url(name: str) -> bool:
    """Return whether `name` is an http or https address."""
    return name.lower().startswith(("http://", "https://"))


def fetch_image(
    url: str,
    *,
    offline: bool = False,
    limit: int = MAX_DOWNLOAD,
    timeout: float = TIMEOUT,
    deadline: float = DEADLINE,
) -> bytes:
    """Return the body of an http or https URL.

    limit: most bytes that are accepted. timeout: seconds to wait for the connection and for each read. deadline:
    seconds for all of it. Redirects are followed as in `miil21k.web`.
    Raises ImageError, naming the URL and what happened.
    """
    if offline:
        raise ImageError(f"'{url}' was not fetched: the run is offline.")
    from miil21k.web import fetch

    try:
        return fetch(url, limit=limit, timeout=timeout, deadline=deadline)
    except DownloadError as error:
        raise ImageError(f"'{url}' {error}.") from None
