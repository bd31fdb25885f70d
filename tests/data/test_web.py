"""Images from the web come under limits, and a fetch that fails says why."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from miil21k.data.web import fetch_image
from miil21k.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Iterator


class _Site(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            self.end_headers()
        elif self.path == "/short":
            self.send_response(200)
            self.send_header("Content-Length", "100")
            self.end_headers()
            self.wfile.write(b"x" * 10)
        elif self.path == "/big":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"x" * 5000)
        elif self.path == "/slow":
            threading.Event().wait(3)
        else:
            self.send_error(404)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Site) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_body_is_fetched_through_a_redirect(site: str) -> None:
    assert fetch_image(f"{site}/to/{site}/big") == b"x" * 5000


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/none", "answered 404"),
        ("/big", "larger than the limit of 4,999 bytes"),
        ("/short", "cut off after 10 of 100"),
        ("/to/file:///etc/hostname", "not allowed"),
        ("/to/ftp://127.0.0.1/x", "no http or https address"),
        ("/slow", "timed out"),
    ],
)
def test_a_fetch_that_fails_says_why(site: str, path: str, words: str) -> None:
    with pytest.raises(ImageError) as caught:
        fetch_image(site + path, limit=4999, timeout=1.0)
    assert words in str(caught.value)
    assert site + path in str(caught.value)


def test_an_image_is_not_fetched_unprotected_behind_a_protected_address(plain: str, protected: str) -> None:
    assert fetch_image(f"{plain}/to/{protected}/x") == b"hello"
    with pytest.raises(ImageError, match=r"redirected from https to 'http:.*', which is refused"):
        fetch_image(f"{protected}/to/{plain}/x")
