"""The HTTP client: where redirects may lead, and that nothing outlasts its deadline."""

from __future__ import annotations

import socket
import threading
import time
from urllib.error import HTTPError

import pytest

from miil21k.errors import DownloadError
from miil21k.web import Address, fetch, open_url


def get(url: str) -> bytes:
    return fetch(url, limit=100, timeout=5, deadline=10)


def test_redirects_go_up_to_https_and_never_back(plain: str, protected: str) -> None:
    assert get(f"{plain}/to/{protected}/x") == b"hello"
    assert get(f"{protected}/to/{protected}/x") == b"hello"
    with pytest.raises(DownloadError, match=r"redirected from https to 'http://.*refused"):
        get(f"{protected}/to/{plain}/x")


def test_a_head_stays_a_head_behind_a_redirect(plain: str) -> None:
    with open_url(f"{plain}/to/{plain}/x", timeout=5, method="HEAD") as answer:
        assert (answer.status, answer.read()) == (200, b"")


def test_a_length_that_is_no_number_is_no_length(plain: str) -> None:
    assert get(f"{plain}/odd") == b"hello"


@pytest.mark.parametrize(
    "url",
    [
        "http://[::1",
        "http://",
        "http:///x",
        "file:///etc/hostname",
        "ftp://127.0.0.1/x",
        "data:,x",
        "http://127.0.0.1:port/",
        "http://127.0.0.1/a b",
        "http://127.0.0.1/a\nb",
        "http://a..b/",
        "http://127.0.0.1/\u00e4",
    ],
)
def test_what_is_no_web_address_is_refused_in_words(url: str) -> None:
    with pytest.raises(Address):
        open_url(url, timeout=1)
    with pytest.raises(DownloadError, match=r"is no .*address"):
        get(url)


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\n\r\n", b""], ids=["body", "headers"])
def test_a_server_that_drips_does_not_outlast_the_deadline(head: bytes) -> None:
    ended = threading.Event()

    def drip(server: socket.socket) -> None:
        client, _ = server.accept()
        with client:
            client.recv(4096)
            client.sendall(head)
            while not ended.wait(0.05):
                client.sendall(b"x")

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=drip, args=(server,))
        thread.start()
        start = time.monotonic()
        try:
            with pytest.raises(DownloadError, match="longer than it may in all"):
                fetch(f"http://127.0.0.1:{server.getsockname()[1]}", limit=1 << 20, timeout=5, deadline=0.4)
            assert 0.3 < time.monotonic() - start < 2
        finally:
            ended.set()
            thread.join()


def test_the_deadline_may_end_where_the_body_begins() -> None:
    def late(server: socket.socket) -> None:
        client, _ = server.accept()
        with client:
            client.recv(4096)
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n")
            time.sleep(0.5)
            client.sendall(b"late")

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=late, args=(server,))
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        with open_url(url, timeout=5, deadline=0.3, response_only=True) as answer:
            assert answer.read() == b"late"
        thread.join()


def test_a_status_reaches_who_asked(plain: str) -> None:
    with pytest.raises(HTTPError) as caught:
        open_url(f"{plain}/to/{plain}/none", timeout=5)
    with caught.value as error:
        assert error.code == 404
