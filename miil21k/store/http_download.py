"""One file over HTTP: resumed after a cut or a kill, retried while that makes sense, bounded in time and size."""

from __future__ import annotations

import email.utils
import http.client
import json
import os
import random
import shutil
import ssl
import time
import urllib.error
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from miil21k.errors import DownloadError
from miil21k.records import read_json
from miil21k.web import open_url, what_failed

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Transfer", "Unreachable", "download_part", "require_answer", "timeout_seconds"]

# The largest published checkpoint has 4.43 GB; a server that sends more than this sends something else.
MAX_BYTES = 16 << 30
_ATTEMPTS = 4  # in a row without a new byte
_MAX_ATTEMPTS = 40  # in all
_FIRST_WAIT = 0.5
_MAX_WAIT = 60.0
_SLOWEST = 256  # bytes per second over one timeout; slower counts as a stall
_BLOCK = 1 << 18
_RETRIED = {408, 425, 429, 500, 502, 503, 504}


class Unreachable(DownloadError):
    """No connection to the host came about: what else lies there need not be tried."""


class _Retry(Exception):
    """This attempt failed in a way that another one may not; `wait` is what the server asked for, in seconds."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


def timeout_seconds() -> float:
    """Return how long a silent server is waited for: $HF_HUB_DOWNLOAD_TIMEOUT as for the Hub, else 10 seconds."""
    try:
        return float(os.environ.get("HF_HUB_DOWNLOAD_TIMEOUT") or 10)
    except ValueError:
        return 10.0


@dataclass
class Transfer:
    """The state of one download: the unfinished file beside its target, and what the server said of it.

    size: the exact number of bytes where it is known; else the server's word is taken, up to MAX_BYTES.
    """

    url: str
    part: Path
    size: int | None = None
    progress: bool = False
    timeout: float = field(default_factory=timeout_seconds)

    @property
    def note(self) -> Path:
        """Where the server's validator is kept, without which an unfinished file cannot be resumed."""
        return self.part.with_name(self.part.name + ".json")

    def have(self) -> int:
        """Return the number of bytes that are there already."""
        return self.part.stat().st_size if self.part.exists() else 0

    def validator(self) -> str | None:
        """Return the ETag or date of the unfinished file, when it came from this URL."""
        try:
            note = read_json(self.note)
            return str(note["validator"]) if note["url"] == self.url else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def discard(self) -> None:
        """Remove the unfinished file and the note beside it."""
        self.part.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)


def download_part(transfer: Transfer) -> None:
    """Complete `transfer.part`; what is there already is kept when the server vouches for it.

    Raises DownloadError with the reason alone (status, timeout, size): the caller knows which file it is about.
    """
    transfer.part.parent.mkdir(parents=True, exist_ok=True)
    idle = 0
    for _ in range(_MAX_ATTEMPTS):
        before = transfer.have()
        try:
            _attempt(transfer)
        except _Retry as failure:
            idle = 0 if transfer.have() > before else idle + 1
            if idle >= _ATTEMPTS:
                raise DownloadError(f"{failure}, {_ATTEMPTS} times in a row") from None
            _wait(failure, idle)
        else:
            transfer.note.unlink(missing_ok=True)
            return
    raise DownloadError(f"gave up after {_MAX_ATTEMPTS} attempts")


def _wait(failure: _Retry, idle: int) -> None:
    if failure.wait is not None and failure.wait > _MAX_WAIT:
        raise DownloadError(f"{failure}, and asks to wait {failure.wait:.0f} s")
    own = _FIRST_WAIT * 2**idle * random.uniform(0.8, 1.2)  # noqa: S311 - spreads retries, guards nothing
    time.sleep(own if failure.wait is None else failure.wait)


def _attempt(transfer: Transfer) -> None:
    headers = {}
    have, validator = transfer.have(), transfer.validator()
    if have and validator:
        headers = {"Range": f"bytes={have}-", "If-Range": validator}
    try:
        with closing(_open(transfer, headers)) as response:
            _receive(transfer, response, have if response.status == 206 else 0)
    except urllib.error.HTTPError as error:
        with error:
            _refused(transfer, error)
    except urllib.error.URLError as error:
        raise Unreachable(what_failed(error)) from None  # urllib wraps what happens before the request is sent
    except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
        raise _Retry(what_failed(error)) from None


def _open(transfer: Transfer, headers: dict[str, str]) -> http.client.HTTPResponse:
    wait = transfer.timeout
    return open_url(transfer.url, headers, timeout=wait, deadline=4 * wait, response_only=True)


def require_answer(url: str) -> None:
    """Return once the host of `url` answers a HEAD, with whatever status.

    The Hub's client retries for minutes where nobody answers, so it is asked only after this. A certificate that
    is not trusted here is left to the client, which has its own list. Raises Unreachable.
    """
    try:
        open_url(url, timeout=timeout_seconds(), deadline=2 * timeout_seconds(), method="HEAD").close()
    except urllib.error.HTTPError as error:
        error.close()
    except urllib.error.URLError as error:
        if not isinstance(error.reason, ssl.SSLError):
            raise Unreachable(what_failed(error)) from None
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(what_failed(error)) from None


def _refused(transfer: Transfer, error: urllib.error.HTTPError) -> None:
    """Turn an HTTP status into the end of this source or into another attempt."""
    reason = f"HTTP {error.code} {error.reason}".strip()
    if error.code == 416:
        transfer.discard()  # what is there is longer than the file: begin again
        raise _Retry(reason, wait=0)
    if error.code in _RETRIED:
        raise _Retry(reason, _retry_after(error.headers.get("Retry-After")))
    raise DownloadError(reason)


def _retry_after(value: str | None) -> float | None:
    """Return the seconds that a Retry-After header asks for (a number or a date), or None."""
    if value is None:
        return None
    if value.strip().isdigit():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return None


def _receive(transfer: Transfer, response: http.client.HTTPResponse, start: int) -> None:
    if (encoding := response.headers.get("Content-Encoding", "identity")) != "identity":
        raise DownloadError(f"the server sent the encoding '{encoding}', which was not asked for")
    total = _total(response, start)
    if transfer.size is not None and total not in (None, transfer.size):
        raise DownloadError(f"the file has {total} bytes there, published are {transfer.size}")
    limit = transfer.size or total or MAX_BYTES
    if limit > MAX_BYTES:
        raise DownloadError(f"the file has {limit} bytes, more than any checkpoint")
    _require_room(transfer, limit - start if total or transfer.size else 0)
    if start == 0:
        _write_note(transfer, response)
    with transfer.part.open("ab" if start else "wb") as file:
        done = _copy(transfer, response, file, start, limit)
        file.flush()
        os.fsync(file.fileno())
    if total is not None and done < total:
        raise _Retry(f"the connection was cut after {done} of {total} bytes")
    if transfer.size is not None and done != transfer.size:
        raise DownloadError(f"the file has {done} bytes, published are {transfer.size}")


def _total(response: http.client.HTTPResponse, start: int) -> int | None:
    """Return the size of the whole file, or None where the server does not say."""
    if response.status == 206:
        span, _, total = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
        if span.partition("-")[0] != str(start):
            raise DownloadError(f"the server answered bytes from {start} with the range '{span}'")
        return int(total) if total.isdigit() else None
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdigit() else None


def _require_room(transfer: Transfer, needed: int) -> None:
    free = shutil.disk_usage(transfer.part.parent).free
    if needed > free:
        raise DownloadError(f"{needed} bytes are to come, but {transfer.part.parent} has only {free} bytes free")


def _write_note(transfer: Transfer, response: http.client.HTTPResponse) -> None:
    etag = response.headers.get("ETag", "")
    # A weak ETag does not promise equal bytes, so it cannot guard a range.
    validator = response.headers.get("Last-Modified") if not etag or etag.startswith("W/") else etag
    transfer.discard()
    if validator:
        transfer.note.write_text(json.dumps({"url": transfer.url, "validator": validator}), encoding="utf-8")


def _copy(transfer: Transfer, response: http.client.HTTPResponse, file: Any, start: int, limit: int) -> int:
    """Write the body to `file`; returns the size of the file then."""
    from tqdm import tqdm

    done, since, count = start, time.monotonic(), 0
    name = transfer.part.name.removesuffix(".part")
    with tqdm(
        total=limit if limit != MAX_BYTES else None,
        initial=start,
        desc=name,
        unit="B",
        unit_scale=True,
        disable=not transfer.progress,
    ) as bar:
        while block := response.read1(_BLOCK):
            done, count = done + len(block), count + len(block)
            if done > limit:
                transfer.discard()
                raise DownloadError(f"the server sends more than the {limit} bytes of the file")
            file.write(block)
            bar.update(len(block))
            now = time.monotonic()
            if now - since > transfer.timeout:
                if count < _SLOWEST * (now - since):
                    raise _Retry(f"only {count} bytes came in {now - since:.0f} s")
                since, count = now, 0
    return done
