"""The server process: an address of its own, an orderly end on a signal."""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import uvicorn

from miil21k.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from starlette.applications import Starlette

__all__ = ["bound", "run_server", "url_of"]

_LAST_SECONDS = 60  # for what is under way when the end is asked for
_BACKLOG = 2048  # connections that the system keeps until they are accepted


def bound(host: str, port: int) -> socket.socket:
    """Return a socket with this address, on which nobody is heard yet; port 0 is any free one.

    Raises UsageError when the host is no address of this machine, or the port is in use or not ours to take.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise UsageError(f"The host '{host}' does not resolve ({error.strerror}): try --host 127.0.0.1.") from None
    reasons = []
    for family, kind, protocol, _, address in found:
        server = socket.socket(family, kind, protocol)
        if os.name != "nt":  # where the option would let two servers share a port
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind(address)
        except OSError as error:
            server.close()
            reasons.append(error)
        else:
            return server
    raise _not_to_be_had(host, port, reasons[0])


def _not_to_be_had(host: object, port: object, error: OSError) -> UsageError:
    return UsageError(f"Cannot listen on port {port} of '{host}' ({error.strerror}): choose another --port or --host.")


def url_of(server: socket.socket) -> str:
    """Return where the socket is reached from this machine."""
    host, port = server.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run_server(
    app: Starlette,
    listener: socket.socket,
    announce: Callable[[], None],
    ending: Callable[[], None],
    *,
    drain: float,
    verbose: bool,
) -> None:
    """Serve `app` on the socket until SIGTERM or SIGINT, and finish what is under way; announce: called when it can.

    ending: called at the signal. drain: seconds that a server goes on after SIGTERM, for clients and balancers to find
    out; a second signal ends them. verbose: log what the server does. Raises KeyboardInterrupt at the end when it was
    SIGINT, UsageError when another process has the port by now.
    """
    _log_like_the_package(verbose)
    host, port = listener.getsockname()[:2]
    try:
        listener.listen(_BACKLOG)
    except OSError as error:
        raise _not_to_be_had(host, port, error) from None
    config = uvicorn.Config(
        app,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=_LAST_SECONDS,
        backlog=_BACKLOG,
    )
    server = _Server(config, announce, ending, drain)
    server.run(sockets=[listener])
    if server.signal == signal.SIGINT:
        raise KeyboardInterrupt


def _log_like_the_package(verbose: bool) -> None:
    logger = logging.getLogger("uvicorn.error")
    logger.handlers = logging.getLogger("miil21k").handlers
    logger.setLevel(logging.INFO if verbose else logging.WARNING)
    logger.propagate = False
    if not verbose:
        logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it warns of every damaged body


class _Server(uvicorn.Server):
    """Ends on a signal without raising it again: the exit code is that of an orderly end."""

    signal: int | None = None

    def __init__(
        self, config: uvicorn.Config, announce: Callable[[], None], ending: Callable[[], None], drain: float
    ) -> None:
        super().__init__(config)
        self._announce, self._ending, self._drain = announce, ending, drain
        self._drained: float | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._announce()

    async def on_tick(self, counter: int) -> bool:
        if self._drained is not None and time.monotonic() >= self._drained:
            self.should_exit = True
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        first, self.signal = self.signal is None, sig
        self._ending()
        if first and sig == signal.SIGTERM:
            self._drained = time.monotonic() + self._drain
        else:
            super().handle_exit(sig, frame)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
