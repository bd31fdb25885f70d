"""The examination: what is there, which hosts answer, and what to do."""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from hub_server import Fault, HubServer

from miil21k.files import atomic, replace_file
from miil21k.store.cache import Cache
from miil21k.store.doctor import Host, _advice, ask_hosts, checkpoint_hosts, examine
from miil21k.zoo.manifest import find_weights, load_manifest

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _online(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


def test_versions_devices_and_places_are_those_of_this_machine(tmp_path: Path) -> None:
    source = find_weights("mobilenetv3_large_100.miil_in21k").sources[0]
    replace_file(Cache.at(tmp_path).file(source), bytes(1000), parents=True)
    found = examine(tmp_path, offline=True)
    assert found.versions["torch"] == importlib.metadata.version("torch")
    assert found.versions["huggingface_hub"] == importlib.metadata.version("huggingface_hub")
    assert found.devices[0].startswith("cpu")
    assert (found.places[0].used, found.places[0].writable) == (1000, True)
    assert found.cached == ("mobilenetv3_large_100.miil_in21k", "embedded")
    assert (found.offline, found.hosts) == (True, ())


def test_the_endpoint_is_asked_for_a_real_file_and_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    source = find_weights("mobilenetv3_large_100.miil_in21k").sources[0]
    with HubServer() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        host, url = next(iter(checkpoint_hosts().items()))
        assert url == f"{hub.url}/{source.repo}/resolve/main/{source.file}"
        hub.publish(source.repo, source.file, b"weights")
        (answer,) = ask_hosts({host: url}, timeout=5.0)
        assert (answer.host, answer.status, answer.reason) == (host, 200, None)
        assert 0 <= answer.milliseconds < 5000
        assert [r.method for r in hub.requests] == ["HEAD", "HEAD"], "no body is asked for behind the redirect"
        hub.head_faults["/resolve/"] = [Fault(status=403), Fault(silent=0.6)]
        assert ask_hosts({host: url}, timeout=5.0)[0].status == 403
        assert ask_hosts({host: url}, timeout=0.2)[0].reason == "timed out"
    (answer,) = ask_hosts({host: url}, timeout=5.0)
    assert (answer.status, answer.milliseconds, answer.reason) == (None, None, "Connection refused")


def test_hosts_that_give_nothing_become_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with HubServer() as hub, HubServer() as bucket:
        addresses = {"hub.example": f"{hub.url}/file", "bucket.example": f"{bucket.url}/file"}
        # The hosts of the manifest are real ones, which tests leave alone.
        monkeypatch.setattr("miil21k.store.doctor.checkpoint_hosts", lambda: addresses)
        hub.mirror("/file", b"weights")
        advice = examine(tmp_path).advice
        assert advice[0].startswith("bucket.example gives nothing (404)")
        hub.files.clear()
        assert examine(tmp_path).advice[0].startswith("No host gave a checkpoint")


def test_what_a_kill_left_is_listed_and_what_is_being_written_is_not(tmp_path: Path) -> None:
    cache = Cache.at(tmp_path)
    part = cache.file(find_weights("tresnet_m_21k").sources[-1])
    replace_file(part.with_name(f"{part.name}.part"), bytes(1 << 20), parents=True)
    left = cache.root / "converted" / ".abc.0123abcd.part.safetensors"
    left.parent.mkdir()
    left.write_bytes(bytes(3 << 20))
    with atomic(cache.root / "converted" / "other.safetensors") as written:
        found = examine(tmp_path, offline=True).leftovers
        written.touch()
    assert found == (
        f"{left}, 3.0 MiB: the next fetch, conversion or export removes it",
        f"{part}.part, 1.0 MiB: the next fetch of it goes on there",
    )
    assert left.exists(), "doctor only looks"


def test_a_password_in_a_proxys_address_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://ann:secret@proxy.example:8080")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = examine(tmp_path)
    assert found.offline
    assert found.variables["HTTPS_PROXY"] == "http://proxy.example:8080"
    assert "secret" not in str(found)


def test_each_host_of_the_manifest_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://mirror.example/hub/")
    addresses = checkpoint_hosts()
    assert next(iter(addresses)) == "mirror.example"
    assert addresses["mirror.example"].startswith("http://mirror.example/hub/timm/")
    sources = [s for w in load_manifest().models for s in w.sources if s.kind == "url"]
    assert set(addresses) == {"mirror.example", *(urlsplit(s.url).netloc for s in sources)}


def test_wordnet_counts_when_it_is_version_3_0(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def found() -> bool:
        return examine(tmp_path, offline=True).wordnet

    monkeypatch.setattr("miil21k.hierarchy.wordnet.WORDNET_FOLDERS", (tmp_path,))
    monkeypatch.setattr("nltk.data.path", [])
    assert not found()
    (tmp_path / "data.noun").write_text("  1 This software and database is WordNet 3.1 Copyright 2011\n")
    assert not found()
    (tmp_path / "data.noun").write_text("  1 This software and database is WordNet 3.0 Copyright 2006\n")
    assert found()


@pytest.mark.parametrize(("status", "gives"), [(200, True), (302, True), (399, True), (400, False), (404, False)])
def test_a_host_that_answers_400_or_more_gives_nothing(status: int, gives: bool) -> None:
    def advice(*hosts: Host) -> str:
        return "\n".join(_advice((), hosts, ("x",), offline=False, embedded=True, wordnet=True))

    asked = Host("odd.example", "https://odd.example/x", status, 5, None)
    well = Host("well.example", "https://well.example/x", 200, 5, None)
    assert ("No host gave a checkpoint" in advice(asked)) is not gives
    assert (f"odd.example gives nothing ({status})" in advice(asked, well)) is not gives
    silent = Host("odd.example", "https://odd.example/x", None, None, "timed out")
    assert "odd.example gives nothing (timed out); all of its weights have other sources." in advice(silent, well)
