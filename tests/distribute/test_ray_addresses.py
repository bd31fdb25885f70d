"""Which cluster is joined, and what is said of one that cannot be; nothing is started here."""

from __future__ import annotations

import importlib.util
import socket
import time
from typing import TYPE_CHECKING

import pytest

from miil21k.distribute.ray_engine import RayEngine, _Head
from miil21k.errors import ClusterError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

services = pytest.importorskip("ray._private.services")


@pytest.fixture(autouse=True)
def nothing_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return where Ray notes the cluster of this machine."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr(services, "find_gcs_addresses", set)
    (tmp_path / "ray").mkdir()
    return tmp_path / "ray" / "ray_current_cluster"


@pytest.fixture
def closed_port() -> Iterator[int]:
    with socket.socket() as bound:  # bound, so that nobody else takes it, but not listened at
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.mark.parametrize("address", ["head", "head:x", "http://head:6379", "head:6379/x", "a b:1", "::1:6379"])
def test_what_is_no_address_is_wrong_use(address: str) -> None:
    with pytest.raises(UsageError, match=r"is no address of a Ray cluster: auto, local, HOST:PORT or ray://HOST:PORT"):
        RayEngine(address)


def test_no_cluster_on_this_machine_is_one_sentence() -> None:
    with pytest.raises(ClusterError, match=r"No Ray cluster runs on this machine \(--address auto\): start one with"):
        RayEngine("auto")
    assert ClusterError.exit_code == 3


def test_a_note_of_a_cluster_that_has_ended_is_not_waited_for(nothing_here: Path, closed_port: int) -> None:
    nothing_here.write_text(f"127.0.0.2:{closed_port}")
    begun = time.monotonic()
    with pytest.raises(
        ClusterError,
        match=r"Connection refused\. The cluster, the last one that was started here, has ended, or cannot",
    ):
        RayEngine("auto")
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("variable", [False, True])
def test_an_address_where_nothing_answers_is_one_sentence_at_once(
    closed_port: int, variable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"127.0.0.1:{closed_port}"
    if variable:  # what the user has told Ray counts
        monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(
        ClusterError, match=rf"No Ray cluster at '{address}': Connection refused\. The cluster has ended"
    ):
        RayEngine(None if variable else address)


@pytest.mark.skipif(importlib.util.find_spec("grpc") is not None, reason="the client of Ray is installed")
def test_an_address_of_the_client_says_what_is_not_installed(closed_port: int) -> None:
    with pytest.raises(
        ClusterError, match=r"needs the client of Ray, which is not installed: pip install 'ray\[client\]'"
    ):
        RayEngine(f"ray://127.0.0.1:{closed_port}")


def test_a_head_may_be_away_for_a_while_but_not_longer(closed_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    head = _Head(f"127.0.0.1:{closed_port}")
    for clock[0] in (1.0, 15.0, 29.0):
        head.look()
    clock[0] = 33.0
    with pytest.raises(
        ClusterError, match=r"has not answered for 33 seconds \(Connection refused\), so the cluster is"
    ):
        head.look()
    assert head.gone
    with socket.create_server(("127.0.0.1", 0)) as listening:
        clock[0] = 0.0
        head = _Head(f"127.0.0.1:{listening.getsockname()[1]}")
        for clock[0] in (20.0, 50.0, 100.0):
            head.look()


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("The current node timed out during startup.\nMore.", "The current node timed out during startup"),
        ("", "Exception"),
    ],
)
def test_a_cluster_that_does_not_start_here_is_one_sentence(
    said: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    def late(**_: object) -> None:
        raise Exception(said)  # what Ray raises on a machine that is too busy

    monkeypatch.setattr(ray, "init", late)
    with pytest.raises(ClusterError, match=rf"^Ray cannot be started on this machine: {told}\.$"):
        RayEngine("local")
