"""How a server listens, what a request may cost, and when it answers: one frozen value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from miil21k.errors import UsageError
from miil21k.options import check, described, option

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["MAX_PIXELS", "ServeOptions"]

MAX_PIXELS = 50_000_000  # each thread that reads may hold one such picture: half a gigabyte
_MIB = 1 << 20


@described
@dataclass(frozen=True)
class ServeOptions:
    """How a server listens, what a request may cost, and when it answers."""

    host: str = option("127.0.0.1", "address to listen on; the default is this machine alone")
    port: int = option(
        8021, "port to listen on; 0 takes any free one (default: 8021)", metavar="N", least=0, most=65535
    )
    allow_origin: tuple[str, ...] = option(
        (),
        "let pages from there read answers, https://example.org or *, repeatable (default: none)",
        metavar="ORIGIN",
        repeats=True,
    )
    max_bytes: int = option(20 * _MIB, "bytes of one image (default: 20 MiB)", metavar="N", least=1)
    max_images: int = option(32, "images in one request", metavar="N", least=1)
    max_body: int = option(64 * _MIB, "bytes of one request (default: 64 MiB)", metavar="N", least=1)
    receive_buffer: int = option(
        512 * _MIB,
        "bytes of all bodies that are not yet answered; more are refused with 503 (default: 512 MiB)",
        metavar="N",
        least=1,
    )
    queue: int = option(
        256, "images that are read or wait for the network; more are refused with 503", metavar="N", least=1
    )
    receive_timeout: int = option(120, "seconds for the body of a request", metavar="S", least=1)
    idle_timeout: int = option(10, "seconds in which nothing comes of a body", metavar="S", least=1)
    answer_timeout: int = option(60, "seconds from the last byte to the answer, else 503", metavar="S", least=1)
    drain: int = option(
        3, "seconds after SIGTERM in which /ready says 503 and requests are still taken", metavar="S", least=0
    )
    api_keys: Path | None = option(
        None,
        "file of API keys, one a line, of which a request needs one; also the variable MIIL21K_API_KEYS, with commas",
        metavar="FILE",
    )
    max_rate: float | None = option(
        None, "requests per second of each client (key, else address), else 429", metavar="N", above=0, most=1_000_000
    )
    log_format: str = option(
        "text", "how messages and, with json, requests are logged", metavar="FORMAT", choices=("text", "json")
    )
    max_wait: float = option(
        5.0, "milliseconds that an image waits for others that are on their way", metavar="MS", least=0, most=60_000
    )
    index: str | None = option(
        None,
        "also show the gallery of this index at /gallery/; corrections are saved beside it (default model: its own)",
        metavar="INDEX",
    )

    def __post_init__(self) -> None:
        check(self)
        if self.index is not None and self.api_keys is not None:
            raise UsageError("--index makes a page for browsers, which send no key: serve it without --api-keys.")
        for larger, smaller in (("max_body", "max_bytes"), ("receive_buffer", "max_body"), ("queue", "max_images")):
            if getattr(self, larger) < getattr(self, smaller):
                spelt = (f"--{name.replace('_', '-')}" for name in (larger, smaller))
                raise UsageError("{} must be at least as large as {}.".format(*spelt))
