"""One file from the Hugging Face Hub, through its own client, into its own cache."""

from __future__ import annotations

import http.client
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from miil21k import __version__
from miil21k.environment import silence_telemetry
from miil21k.errors import DownloadError
from miil21k.store.http_download import require_answer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from miil21k.zoo.schema import Source

__all__ = ["DEFAULT_ENDPOINT", "download_from_hub", "endpoint", "progress_bars", "reason_of"]

silence_telemetry()

DEFAULT_ENDPOINT = "https://huggingface.co"


def endpoint() -> str:
    """Return the address of the Hub: $HF_ENDPOINT, else the public one."""
    return (os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/")


def download_from_hub(source: Source, revision: str | None, hub_cache: Path, progress: bool) -> Path:
    """Return the file in `hub_cache`, downloaded where it was not there yet.

    Tokens, timeouts and proxies are those of the client. Raises DownloadError with the reason alone, and
    Unreachable when the Hub does not answer.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    assert source.repo is not None
    require_answer(endpoint())
    try:
        with progress_bars(progress):
            return Path(
                hf_hub_download(
                    source.repo,
                    source.file,
                    revision=revision or source.revision,
                    cache_dir=str(hub_cache),
                    endpoint=endpoint(),
                    library_name="miil21k",
                    library_version=__version__,
                )
            )
    except LocalEntryNotFoundError as error:
        raise DownloadError(reason_of(error.__cause__ or error)) from None
    except Exception as error:
        # Its HTTP library (httpx or requests, by version) and its Xet transfer raise errors without a common base;
        # each of them means that this source gave nothing.
        raise DownloadError(reason_of(error)) from error


@contextmanager
def progress_bars(shown: bool) -> Iterator[None]:
    """Show or hide the client's progress bars, which are switched for the whole process, and switch them back."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if shown or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def reason_of(error: BaseException) -> str:
    """Return the status that the Hub answered with, or the first line of what the client says."""
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    if status is not None:
        meaning = http.client.responses.get(status, "")
        hint = {401: "a token may be needed: hf auth login", 403: "access must be requested on its page"}.get(status)
        return f"HTTP {status} {meaning}".strip() + (f"; {hint}" if hint else "")
    if "timeout" in type(error).__name__.lower():
        return "timed out"
    return (str(error).strip() or type(error).__name__).partition("\n")[0].rstrip(".")
