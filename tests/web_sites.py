"""Two sites on the loopback, one of them protected, that answer, redirect and refuse."""

from __future__ import annotations

import ssl
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Made for this test, for the name localhost; it guards nothing.
CERTIFICATE = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgagmksDOQ7A2It8X3
/Ak09xrGEYe0hu6dwR41zwYGLiShRANCAARGn7jLk7/VleCzqiFgSZdlYATUR//1
4G0Hn5y06H2g29Ov1SOHA9Yhe+kzS1DH1x/K/X34n0I/pKvuudSfxRcw
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBmjCCAUGgAwIBAgIUGnQTbywCZyg8V+Oiyz/J2Fepl74wCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyODAzMDg0NFoYDzIxMjYxMTA0
MDMwODQ0WjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAARGn7jLk7/VleCzqiFgSZdlYATUR//14G0Hn5y06H2g29Ov1SOHA9Yh
e+kzS1DH1x/K/X34n0I/pKvuudSfxRcwo28wbTAdBgNVHQ4EFgQUhcX4m9+2L/sJ
mKxwCwp4DneMbuAwHwYDVR0jBBgwFoAUhcX4m9+2L/sJmKxwCwp4DneMbuAwDwYD
VR0TAQH/BAUwAwEB/zAaBgNVHREEEzARgglsb2NhbGhvc3SHBH8AAAEwCgYIKoZI
zj0EAwIDRwAwRAIgSpgxIdcQ8kU5AXLsdNxmCxg5H8P4dLOvzxFGLXWgSQkCIEes
gZ+2Ph1cxXogR0VMifdDXMTaLULdwmoGwUzbvz24
-----END CERTIFICATE-----
"""


class _Site(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            self.end_headers()
            return
        self.send_response(404 if self.path == "/none" else 200)
        self.send_header("Content-Length", "abc" if self.path == "/odd" else "5")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(b"hello")

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def site(certificate: Path | None = None) -> Iterator[str]:
    """Yield the address of a site: `/to/URL` redirects there, `/none` is not found, all else is "hello".

    certificate: a file with its key; the site speaks https then, as localhost.
    """
    with ThreadingHTTPServer(("127.0.0.1", 0), _Site) as server:
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"https://localhost:{server.server_port}" if certificate else f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()
