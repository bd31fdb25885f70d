"""One file over HTTP, against a real server on the loopback that plays faults."""

from __future__ import annotations

import email.utils
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hub_server import Fault, HubServer

from miil21k.errors import DownloadError
from miil21k.store import http_download
from miil21k.store.http_download import Transfer, Unreachable, download_part, require_answer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONTENT = np.random.default_rng(0).bytes(1_000_000)


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_download, "_FIRST_WAIT", 0.01)


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


def _transfer(hub: HubServer, tmp_path: Path, **fields: object) -> Transfer:
    return Transfer(hub.mirror("/file.bin", CONTENT), tmp_path / "file.bin.part", **{"timeout": 2.0, **fields})


def test_a_file_comes_whole_in_one_request(hub: HubServer, tmp_path: Path) -> None:
    transfer = _transfer(hub, tmp_path, size=len(CONTENT))
    download_part(transfer)
    assert transfer.part.read_bytes() == CONTENT
    assert [p.name for p in tmp_path.iterdir()] == ["file.bin.part"], "no note is left behind"
    assert len(hub.requests) == 1
    assert hub.requests[0].headers["accept-encoding"] == "identity"


def test_a_cut_connection_is_resumed_from_the_byte_where_it_was_cut(hub: HubServer, tmp_path: Path) -> None:
    transfer = _transfer(hub, tmp_path)
    hub.faults["file.bin"] = [Fault(cut_after=300_000), Fault(cut_after=200_000)]
    download_part(transfer)
    assert transfer.part.read_bytes() == CONTENT
    assert [r.headers.get("range") for r in hub.requests] == [None, "bytes=300000-", "bytes=500000-"]
    assert hub.requests[1].headers["if-range"].startswith('"')


def test_a_server_without_ranges_sends_the_file_anew(hub: HubServer, tmp_path: Path) -> None:
    hub.ranges = False
    transfer = _transfer(hub, tmp_path)
    hub.faults["file.bin"] = [Fault(cut_after=300_000)]
    download_part(transfer)
    assert transfer.part.read_bytes() == CONTENT


def test_without_a_validator_nothing_is_resumed(hub: HubServer, tmp_path: Path) -> None:
    hub.etags = False
    transfer = _transfer(hub, tmp_path)
    hub.faults["file.bin"] = [Fault(cut_after=300_000)]
    download_part(transfer)
    assert transfer.part.read_bytes() == CONTENT
    assert [r.headers.get("range") for r in hub.requests] == [None, None]


@pytest.mark.parametrize("modified", [None, "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_a_weak_validator_guards_no_range(hub: HubServer, tmp_path: Path, modified: str | None) -> None:
    hub.weak, hub.modified = True, modified
    transfer = _transfer(hub, tmp_path)
    hub.faults["file.bin"] = [Fault(cut_after=300_000)]
    download_part(transfer)
    assert transfer.part.read_bytes() == CONTENT
    asked = [(r.headers.get("range"), r.headers.get("if-range")) for r in hub.requests]
    assert asked == [(None, None), ("bytes=300000-", modified) if modified else (None, None)]


def test_a_part_is_on_the_disk_before_it_counts_as_complete(
    hub: HubServer, tmp_path: Path, synced: dict[int, int]
) -> None:
    transfer = _transfer(hub, tmp_path)
    download_part(transfer)
    assert synced[transfer.part.stat().st_ino] == len(CONTENT)


def test_a_file_that_changed_on_the_server_is_not_glued_to_the_old_half(hub: HubServer, tmp_path: Path) -> None:
    transfer = _transfer(hub, tmp_path)
    hub.faults["file.bin"] = [Fault(cut_after=300_000)]
    with pytest.raises(http_download._Retry, match="cut after 300000 of 1000000"):
        http_download._attempt(transfer)
    hub.files["/file.bin"] = CONTENT[::-1]
    download_part(transfer)
    assert transfer.part.read_bytes() == CONTENT[::-1]


def test_a_part_of_another_address_is_not_resumed(hub: HubServer, tmp_path: Path) -> None:
    transfer = _transfer(hub, tmp_path)
    hub.faults["file.bin"] = [Fault(cut_after=300_000)]
    with pytest.raises(http_download._Retry):
        http_download._attempt(transfer)
    other = Transfer(hub.mirror("/other.bin", CONTENT), transfer.part, timeout=2.0)
    download_part(other)
    assert other.part.read_bytes() == CONTENT
    assert "range" not in hub.requests[-1].headers, "equal ETags of two servers promise nothing"


def test_a_part_longer_than_the_file_is_thrown_away(hub: HubServer, tmp_path: Path) -> None:
    transfer = _transfer(hub, tmp_path)
    hub.faults["file.bin"] = [Fault(cut_after=300_000)]
    with pytest.raises(http_download._Retry):
        http_download._attempt(transfer)
    with transfer.part.open("ab") as file:
        file.write(bytes(len(CONTENT)))
    download_part(transfer)
    assert transfer.part.read_bytes() == CONTENT


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_refusal_is_final_and_named(hub: HubServer, tmp_path: Path, status: int) -> None:
    transfer = _transfer(hub, tmp_path)
    hub.faults["file.bin"] = [Fault(status=status)]
    with pytest.raises(DownloadError, match=f"HTTP {status} "):
        download_part(transfer)
    assert len(hub.requests) == 1


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(hub: HubServer, tmp_path: Path, status: int) -> None:
    transfer = _transfer(hub, tmp_path)
    hub.faults["file.bin"] = [Fault(status=status)] * 2
    download_part(transfer)
    assert len(hub.requests) == 3


def test_a_server_that_stays_busy_is_given_up(hub: HubServer, tmp_path: Path) -> None:
    transfer = _transfer(hub, tmp_path)
    hub.sticky = True
    hub.faults["file.bin"] = [Fault(status=503)]
    with pytest.raises(DownloadError, match=r"HTTP 503 Service Unavailable, 4 times in a row"):
        download_part(transfer)
    assert len(hub.requests) == 4


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_obeyed(hub: HubServer, tmp_path: Path, form: str) -> None:
    transfer = _transfer(hub, tmp_path)
    value = "1" if form == "seconds" else email.utils.formatdate(time.time() + 2, usegmt=True)
    hub.faults["file.bin"] = [Fault(status=429, headers=(("Retry-After", value),))]
    start = time.monotonic()
    download_part(transfer)
    assert time.monotonic() - start >= 0.9


def test_an_hour_of_retry_after_is_not_waited_for(hub: HubServer, tmp_path: Path) -> None:
    transfer = _transfer(hub, tmp_path)
    hub.faults["file.bin"] = [Fault(status=429, headers=(("Retry-After", "3600"),))]
    with pytest.raises(DownloadError, match="asks to wait 3600 s"):
        download_part(transfer)


def test_a_silent_server_times_out(hub: HubServer, tmp_path: Path) -> None:
    transfer = _transfer(hub, tmp_path, timeout=0.2)
    hub.sticky = True
    hub.faults["file.bin"] = [Fault(silent=0.6)]
    with pytest.raises(DownloadError, match="timed out, 4 times in a row"):
        download_part(transfer)


def test_a_body_that_drips_counts_as_a_stall(hub: HubServer, tmp_path: Path) -> None:
    transfer = _transfer(hub, tmp_path, timeout=1.0)
    hub.faults["file.bin"] = [Fault(pause=0.05, block=1)]  # it would take 14 hours
    download_part(transfer)  # the second attempt has no fault
    assert transfer.part.read_bytes() == CONTENT
    assert len(hub.requests) == 2


def test_a_size_that_was_published_is_held_against_the_server(hub: HubServer, tmp_path: Path) -> None:
    transfer = _transfer(hub, tmp_path, size=len(CONTENT) + 1)
    with pytest.raises(DownloadError, match="has 1000000 bytes there, published are 1000001"):
        download_part(transfer)


def test_a_body_without_a_length_stops_at_the_published_size(hub: HubServer, tmp_path: Path) -> None:
    transfer = _transfer(hub, tmp_path, size=1000)
    hub.faults["file.bin"] = [Fault(chunked=True)]
    with pytest.raises(DownloadError, match="sends more than the 1000 bytes"):
        download_part(transfer)
    assert not transfer.part.exists()


def test_a_file_larger_than_any_checkpoint_is_refused(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_download, "MAX_BYTES", 999_999)
    with pytest.raises(DownloadError, match="1000000 bytes, more than any checkpoint"):
        download_part(_transfer(hub, tmp_path))


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://127.0.0.1/x", "/etc/hostname"])
def test_only_http_addresses_are_opened(tmp_path: Path, url: str) -> None:
    with pytest.raises(DownloadError, match="no http or https address"):
        download_part(Transfer(url, tmp_path / "x.part"))


def test_a_redirect_to_a_file_of_this_machine_is_refused(hub: HubServer, tmp_path: Path) -> None:
    transfer = _transfer(hub, tmp_path)
    hub.faults["file.bin"] = [Fault(status=302, headers=(("Location", "ftp://127.0.0.1/etc/hostname"),))]
    with pytest.raises(DownloadError, match=r"to 'ftp:.*', which is refused"):
        download_part(transfer)


def test_a_redirect_to_an_unprotected_server_is_refused(plain: str, protected: str, tmp_path: Path) -> None:
    download_part(Transfer(f"{protected}/to/{protected}/x", tmp_path / "x.part"))
    assert (tmp_path / "x.part").read_bytes() == b"hello"
    with pytest.raises(DownloadError, match=r"from https to 'http:.*', which is refused"):
        download_part(Transfer(f"{protected}/to/{plain}/x", tmp_path / "y.part"))
    assert not (tmp_path / "y.part").exists()


def test_a_port_where_nobody_listens_is_given_up_at_once(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_download, "_wait", lambda *_: pytest.fail("asked again"))
    url = hub.url
    hub.__exit__(None, None, None)
    with pytest.raises(Unreachable, match="refused"):
        download_part(Transfer(f"{url}/file.bin", tmp_path / "x.part"))
    with pytest.raises(Unreachable, match="refused"):
        require_answer(url)
    hub.__enter__()  # for the fixture's exit


def test_a_host_that_answers_anything_is_reachable_and_a_silent_one_is_not(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_answer(hub.url)  # 404: there is nothing at the root
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "0.2")
    hub.head_faults["/"] = [Fault(silent=0.6)]
    with pytest.raises(Unreachable, match="timed out"):
        require_answer(hub.url)


def test_an_encoding_that_was_not_asked_for_is_refused(hub: HubServer, tmp_path: Path) -> None:
    transfer = _transfer(hub, tmp_path)
    hub.faults["file.bin"] = [Fault(extra=(("Content-Encoding", "gzip"),))]
    with pytest.raises(DownloadError, match="sent the encoding 'gzip', which was not asked for"):
        download_part(transfer)
    hub.faults["file.bin"] = [Fault(extra=(("Content-Encoding", "identity"),))]
    download_part(transfer)
    assert transfer.part.read_bytes() == CONTENT


@pytest.mark.parametrize("span", ["0-999999", "299999-999999", ""])
def test_another_range_than_the_one_asked_for_is_refused(hub: HubServer, tmp_path: Path, span: str) -> None:
    transfer = _transfer(hub, tmp_path)
    hub.faults["file.bin"] = [Fault(cut_after=300_000), Fault(extra=(("Content-Range", f"bytes {span}/1000000"),))]
    with pytest.raises(DownloadError, match=f"answered bytes from 300000 with the range '{span}'"):
        download_part(transfer)


def test_a_range_that_tells_no_total_is_taken(hub: HubServer, tmp_path: Path) -> None:
    transfer = _transfer(hub, tmp_path)
    hub.faults["file.bin"] = [Fault(cut_after=300_000), Fault(extra=(("Content-Range", "bytes 300000-999999/*"),))]
    download_part(transfer)
    assert transfer.part.read_bytes() == CONTENT


def test_a_body_without_a_length_that_ends_early_is_no_whole_file(hub: HubServer, tmp_path: Path) -> None:
    transfer = _transfer(hub, tmp_path, size=len(CONTENT) + 1)
    hub.faults["file.bin"] = [Fault(chunked=True)]
    with pytest.raises(DownloadError, match="the file has 1000000 bytes, published are 1000001"):
        download_part(transfer)


def test_a_file_that_the_disk_has_no_room_for_is_not_begun(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []
    free = [len(CONTENT) - 1]

    def disk_usage(folder: Path) -> Any:
        asked.append(folder)
        return SimpleNamespace(free=free[0])

    monkeypatch.setattr(http_download.shutil, "disk_usage", disk_usage)
    transfer = _transfer(hub, tmp_path)
    with pytest.raises(DownloadError, match=f"1000000 bytes are to come, but {tmp_path} has only 999999 bytes free"):
        download_part(transfer)
    assert not transfer.part.exists()
    free[0] += 1
    download_part(transfer)
    assert asked == [tmp_path, tmp_path]
    transfer.part.write_bytes(b"")
    free[0] = 0
    hub.faults["file.bin"] = [Fault(chunked=True)]
    download_part(transfer)  # who tells no length is not held against the disk
    assert transfer.part.read_bytes() == CONTENT


def test_the_rest_of_a_file_is_all_that_must_find_room(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transfer = _transfer(hub, tmp_path)
    hub.faults["file.bin"] = [Fault(cut_after=300_000)]
    with pytest.raises(http_download._Retry):
        http_download._attempt(transfer)
    monkeypatch.setattr(http_download.shutil, "disk_usage", lambda _: SimpleNamespace(free=700_000))
    download_part(transfer)
    assert transfer.part.read_bytes() == CONTENT


@pytest.mark.parametrize(("value", "seconds"), [(None, 10.0), ("", 10.0), ("2.5", 2.5), ("soon", 10.0)])
def test_the_wait_for_a_silent_server_is_that_of_the_hub(
    monkeypatch: pytest.MonkeyPatch, value: str | None, seconds: float
) -> None:
    monkeypatch.delenv("HF_HUB_DOWNLOAD_TIMEOUT", raising=False)
    if value is not None:
        monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", value)
    assert http_download.timeout_seconds() == seconds


def test_a_file_that_comes_in_crumbs_is_given_up_in_the_end(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_download, "_FIRST_WAIT", 0.0)
    monkeypatch.setattr(http_download, "_MAX_ATTEMPTS", 6)
    transfer = _transfer(hub, tmp_path)
    hub.sticky = True
    hub.faults["file.bin"] = [Fault(cut_after=1000)]
    with pytest.raises(DownloadError, match="gave up after 6 attempts"):
        download_part(transfer)
    assert len(hub.requests) == 6
    assert transfer.part.read_bytes() == CONTENT[:6000]  # each attempt kept what the one before it had


@pytest.mark.parametrize("note", ["{", "[]", '{"url": 1}', '{"validator": "\\"x\\""}'])
def test_a_note_that_is_damaged_resumes_nothing(hub: HubServer, tmp_path: Path, note: str) -> None:
    transfer = _transfer(hub, tmp_path)
    transfer.part.write_bytes(b"x" * 1000)
    transfer.note.write_text(note, encoding="utf-8")
    download_part(transfer)
    assert transfer.part.read_bytes() == CONTENT
    assert "range" not in hub.requests[0].headers


def test_a_slow_body_that_keeps_coming_is_no_stall(hub: HubServer, tmp_path: Path) -> None:
    transfer = _transfer(hub, tmp_path, timeout=1.0)
    hub.faults["file.bin"] = [Fault(pause=0.1, block=80_000)]  # 1.3 seconds in all
    download_part(transfer)
    assert transfer.part.read_bytes() == CONTENT
    assert len(hub.requests) == 1
