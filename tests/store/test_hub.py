"""The Hub's client against the test server: that the server is one to it, and what its failures are called."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hub_server import COMMIT, Fault, HubServer, hub_source
from huggingface_hub import HfApi
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

from miil21k.errors import DownloadError
from miil21k.store.hub import DEFAULT_ENDPOINT, download_from_hub, endpoint, reason_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with HubServer() as server:
        monkeypatch.setenv("HF_ENDPOINT", f"{server.url}/")
        server.publish("timm/net", "model.safetensors", b"weights")
        yield server


def test_the_server_is_a_hub_to_its_own_client(hub: HubServer) -> None:
    info = HfApi(endpoint=hub.url).model_info("timm/net", revision="main")
    assert (info.id, info.sha) == ("timm/net", COMMIT)
    assert [s.rfilename for s in info.siblings] == ["model.safetensors"]


def test_the_endpoint_is_that_of_the_environment(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert endpoint() == hub.url
    monkeypatch.setenv("HF_ENDPOINT", "")
    assert endpoint() == DEFAULT_ENDPOINT


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (401, "HTTP 401 Unauthorized; a token may be needed: hf auth login"),
        (403, "HTTP 403 Forbidden; access must be requested on its page"),
        (410, "HTTP 410 Gone"),
    ],
)
def test_a_refusal_says_what_may_help(hub: HubServer, tmp_path: Path, status: int, reason: str) -> None:
    hub.head_faults["/resolve/"] = [Fault(status=status)]
    with pytest.raises(DownloadError) as caught:
        download_from_hub(hub_source(), None, tmp_path, progress=False)
    assert str(caught.value) == reason


class ReadTimeout(Exception):
    """Named as the exceptions of HTTP clients are."""


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ReadTimeout("read"), "timed out"),
        (OSError("It broke.\nIn several lines."), "It broke"),
        (OSError("  "), "OSError"),
    ],
)
def test_a_failure_without_a_status_is_named_in_one_line(error: Exception, reason: str) -> None:
    assert reason_of(error) == reason


def test_a_name_that_no_repository_can_have_is_a_failure_like_others(hub: HubServer, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="Repo id"):
        download_from_hub(hub_source("not/a/name"), None, tmp_path, progress=False)


def test_the_clients_progress_bars_are_left_as_they_were(
    hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    enable_progress_bars()
    assert download_from_hub(hub_source(), None, tmp_path / "a", progress=False).read_bytes() == b"weights"
    assert capsys.readouterr().err == ""
    assert not are_progress_bars_disabled()
    disable_progress_bars()
    download_from_hub(hub_source(), None, tmp_path / "b", progress=False)
    assert are_progress_bars_disabled(), "what the caller switched off stays off"
    enable_progress_bars()
