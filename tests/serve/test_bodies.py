"""What a body may be, and how much of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("starlette", reason="the extra 'serve' is not installed")

from starlette.requests import Request

from miil21k.serve.bodies import Body, Buffer, Limits, Refused

if TYPE_CHECKING:
    from miil21k.data.images import ImageInput

LIMITS = Limits(max_bytes=100, max_images=3, seconds=60, max_body=70_000)
FORM = "multipart/form-data; boundary=XX"


def part(name: str, content: bytes, file: str | None = None) -> bytes:
    file_name = "" if file is None else f'; filename="{file}"'
    return f'--XX\r\nContent-Disposition: form-data; name="{name}"{file_name}\r\n\r\n'.encode() + content + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--XX--\r\n"


class Sender:
    """A client that sends chunks, and then the end of the body, or nothing more."""

    def __init__(self, chunks: list[bytes], *, ends: bool = True) -> None:
        self.left = [*chunks, *([b""] if ends else [])]

    async def __call__(self) -> dict[str, Any]:
        if not self.left:
            await asyncio.Event().wait()  # forever
        await asyncio.sleep(0)
        chunk = self.left.pop(0)
        return {"type": "http.request", "body": chunk, "more_body": bool(self.left) or chunk != b""}


def read(
    sender: Sender,
    kind: str | None = "image/png",
    limits: Limits = LIMITS,
    buffer: Buffer | None = None,
    **headers: str,
) -> list[tuple[str, bytes]]:
    named = {**({} if kind is None else {"content-type": kind}), **headers}
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in named.items()]
    request = Request({"type": "http", "method": "POST", "headers": raw}, sender)

    def content(image: ImageInput) -> bytes:
        found = image.source() if callable(image.source) else image.source
        assert isinstance(found, bytes)
        return found

    async def images() -> list[tuple[str, bytes]]:
        body = Body(request, limits, buffer or Buffer(1 << 20))
        try:
            return [(image.name, content(image)) for image in await body.images()]
        except Refused:
            await body.drain()
            raise
        finally:
            body.close()

    return asyncio.run(images())


@pytest.mark.parametrize("kind", ["image/jpeg", "IMAGE/PNG", "application/octet-stream", None])
def test_a_body_is_one_image(kind: str | None) -> None:
    assert read(Sender([b"a" * 60, b"b" * 40]), kind) == [("image", b"a" * 60 + b"b" * 40)]


def test_the_files_of_a_form_come_in_order_with_their_names() -> None:
    body = form(part("x", b"one", "ä <b>.jpg"), part("x", b"", "empty.png"), part("y", b"three", ""))
    whole = read(Sender([body]), FORM)
    assert whole == [("ä <b>.jpg", b"one"), ("empty.png", b""), ("image", b"three")]
    assert read(Sender([body[at : at + 1] for at in range(len(body))]), FORM) == whole


def test_a_form_that_is_cut_anywhere_is_refused_and_never_answered_in_part() -> None:
    """Its first parts are whole at most of these places; an answer of fewer rows would lose the last picture."""
    body = form(part("x", b"one", "a.jpg"), part("y", b"second", "b.jpg"))
    end = len(body) - len(b"\r\n")  # the closing boundary is whole without its line end
    for at in range(end):
        with pytest.raises(Refused) as error:
            read(Sender([body[:at]] if at else []), FORM)
        assert error.value.status == 400, at
    assert [name for name, _ in read(Sender([body[:end]]), FORM)] == ["a.jpg", "b.jpg"]


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("filename*=UTF-8''caf%C3%A9%20%22a%22.jpg", 'café "a".jpg'),
        ("filename*=iso-8859-1'fr'caf%E9.jpg", "café.jpg"),
        ("filename*=no-such'' %41.jpg", None),
        ("filename=\"plain.jpg\"; filename*=UTF-8''coded.jpg", "plain.jpg"),
        ("FileName*=utf-8'en'%E2%82%AC.png", "€.png"),
    ],
)
def test_a_file_name_of_rfc_5987_is_read(header: str, name: str | None) -> None:
    body = f'--XX\r\nContent-Disposition: form-data; name="f"; {header}\r\n\r\n1\r\n--XX--\r\n'.encode("latin-1")
    if name is None:
        with pytest.raises(Refused, match="'f' is no file"):
            read(Sender([body]), FORM)
    else:
        assert read(Sender([body]), FORM) == [(name, b"1")]


def test_bodies_that_are_here_at_a_time_are_bounded_and_freed() -> None:
    buffer = Buffer(150)
    assert read(Sender([b"x" * 100]), buffer=buffer) == [("image", b"x" * 100)]
    assert buffer.held == 0
    buffer.take(60)
    with pytest.raises(Refused, match="fill 150 bytes") as error:
        read(Sender([b"x" * 100]), buffer=buffer)
    assert (error.value.status, buffer.held) == (503, 60)


REFUSALS = [
    pytest.param([b"a" * 60, b"b" * 41], "image/png", 413, "The body has more than 100 bytes", id="bytes"),
    pytest.param([form(part("a", b"1" * 101, "a"))], FORM, 413, "'a' has more than 100 bytes", id="bytes of a part"),
    pytest.param([form(*[part("a", b"1", "a")] * 4)], FORM, 413, "more than 3 images", id="images"),
    pytest.param([b"--XX\r\n" + b"1" * 70_000], FORM, 413, "The body has more than", id="a form without an end"),
    pytest.param([form(part("topk", b"3"))], FORM, 400, "'topk' is no file", id="a field"),
    pytest.param([form(part("a", b"3"), part("b", b"3"))], FORM, 400, "cannot be read", id="fields"),
    pytest.param([form()], FORM, 400, "", id="no part"),
    pytest.param([b"hello"], FORM, 400, "cannot be read", id="no form"),
    pytest.param([b"hello"], "multipart/form-data", 400, "boundary", id="no boundary"),
    pytest.param([b"{}"], "application/json", 415, "'application/json' is no image", id="json"),
    pytest.param([b"a=b"], "application/x-www-form-urlencoded", 415, "send image/*", id="curl -d"),
]


@pytest.mark.parametrize(("chunks", "kind", "status", "words"), REFUSALS)
def test_what_is_refused_is_refused_with_a_reason_and_read_to_its_end(
    chunks: list[bytes], kind: str, status: int, words: str
) -> None:
    sender = Sender([*chunks, b"more"])
    with pytest.raises(Refused) as error:
        read(sender, kind)
    assert error.value.status == status
    assert words in str(error.value)
    assert sender.left in ([], [b"more", b""])  # the latter where more is left than an accepted body would hold


def test_a_length_that_is_too_large_is_refused_before_anything_is_read() -> None:
    sender = Sender([b"x"])
    with pytest.raises(Refused, match="more than 100 bytes"):
        read(sender, content_length="101", expect="100-continue")
    assert len(sender.left) == 2


def test_a_compressed_body_is_refused() -> None:
    with pytest.raises(Refused, match="compressed") as error:
        read(Sender([b"x"]), content_encoding="gzip")
    assert error.value.status == 415


@pytest.mark.parametrize(("kind", "start"), [("image/png", b"x"), (FORM, part("a", b"1", "a"))])
def test_a_client_that_stalls_is_given_up_long_before_the_time_for_a_slow_one(kind: str, start: bytes) -> None:
    with pytest.raises(Refused, match=r"Nothing came for 0\.01 seconds") as error:
        read(Sender([start], ends=False), kind, Limits(100, 3, 60, idle=0.01))
    assert error.value.status == 408


@pytest.mark.parametrize(("kind", "start"), [("image/png", b"x"), (FORM, part("a", b"1", "a"))])
def test_a_body_that_stops_coming_is_given_up(kind: str, start: bytes) -> None:
    with pytest.raises(Refused, match=r"within 0\.01 seconds") as error:
        read(Sender([start], ends=False), kind, Limits(100, 3, 0.01))
    assert error.value.status == 408
