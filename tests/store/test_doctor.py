"""The examination: what is there, which hosts answer, and what to do."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from threading import Barrier
from types import SimpleNamespace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
import torch
from hub_server import Fault, HubServer

from miil21k import __version__
from miil21k.files import atomic, replace_file
from miil21k.store.cache import Cache
from miil21k.store.doctor import (
    _PACKAGES,
    _VARIABLES,
    Host,
    Place,
    _advice,
    _place,
    ask_hosts,
    checkpoint_hosts,
    examine,
)
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


CARRY = "carry weights over with 'miil21k bundle create NAME -o FILE.tar' and 'miil21k bundle install FILE.tar'."
INSTALL = "pip install 'miil21k[embedded]'."
WELL = Host("well.example", "https://well.example/x", 200, 5, None)
GONE = Host("gone.example", "https://gone.example/x", 404, 5, "Not Found")


def _advised(
    *places: Place, hosts: tuple[Host, ...] = (), cached: bool = True, offline: bool = False, **found: bool
) -> list[str]:
    here = {"embedded": True, "wordnet": True, **found}
    return list(_advice(places, hosts, ("x",) if cached else (), offline=offline, **here))


def test_nothing_is_advised_where_nothing_is_missing() -> None:
    plenty = Place("files of the Hub", "/cache", 10, 5 << 30, True)
    assert _advised(plenty, hosts=(WELL,)) == []
    assert _advised(offline=True) == []


def test_each_thing_that_is_missing_has_its_advice() -> None:
    assert _advised(offline=True, cached=False) == [
        f"The network is off limits and no weights are cached: unset HF_HUB_OFFLINE, or {CARRY}"
    ]
    assert _advised(cached=False) == []
    assert _advised(hosts=(GONE,)) == [
        f"No host gave a checkpoint: check network and proxy, set HF_ENDPOINT to a mirror, or {CARRY}"
    ]
    assert _advised(hosts=(GONE, WELL)) == ["gone.example gives nothing (404); all of its weights have other sources."]
    assert _advised(embedded=False) == [
        f"The embedded weights, which answer when nothing can be downloaded, are missing: {INSTALL}"
    ]
    assert _advised(wordnet=False) == [
        "WordNet 3.0 was not found; only 'miil21k tree build' needs it (apt install wordnet-base)."
    ]
    assert _advised(Place("x", "/cache", 0, 5 << 30, False)) == [
        "/cache cannot be written to: set MIIL21K_CACHE and HF_HOME, or pass --cache-dir."
    ]
    assert _advised(Place("x", "/cache", 0, (5 << 30) - 1, True)) == [
        "/cache has 5.0 GiB free; the largest checkpoint needs 4.2."
    ]
    assert len(_advised(Place("x", "/a", 0, 0, False), hosts=(GONE,), embedded=False, wordnet=False)) == 4


def test_a_host_that_alone_holds_weights_is_told_with_their_number() -> None:
    hosts = [{urlsplit(s.url or "").netloc for s in w.sources if s.kind == "url"} for w in load_manifest().models]
    alone = {
        host: sum(
            found == {host} and all(s.kind == "url" for s in w.sources)
            for found, w in zip(hosts, load_manifest().models, strict=True)
        )
        for host in set().union(*hosts)
    }
    host, count = max(alone.items(), key=lambda item: item[1])
    assert count > 0
    asked = Host(host, f"https://{host}/x", 403, 5, "Forbidden")
    assert _advised(hosts=(asked, WELL)) == [f"{host} gives nothing (403); {count} weights lie nowhere else."]


def test_a_folder_of_the_cache_counts_each_file_once_and_tells_what_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cache"
    free = {tmp_path: 7, folder: 8}
    monkeypatch.setattr("miil21k.store.doctor.shutil.disk_usage", lambda path: SimpleNamespace(free=free[path]))
    assert _place("files", folder / "x") == Place("files", str(folder / "x"), 0, 7, True)
    (folder / "blobs").mkdir(parents=True)
    (folder / "blobs/a").write_bytes(bytes(1000))
    (folder / "link").symlink_to(folder / "blobs/a")
    (folder / "b").write_bytes(bytes(24))
    assert _place("files", folder) == Place("files", str(folder), 1024, 8, True)


def test_what_is_set_and_installed_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in _VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HTTP_PROXY", "proxy.example:80")
    monkeypatch.setenv("HF_ENDPOINT", "")
    found = examine(offline=True, exports=("one line",))
    assert found.variables == {"HF_HOME": str(tmp_path / "hf"), "HTTP_PROXY": "proxy.example:80"}
    assert [(place.what, place.path) for place in found.places] == [
        ("files of mirrors and bundles", str(tmp_path / "hf/miil21k")),
        ("files of the Hub", str(tmp_path / "hf/hub")),
    ]
    assert list(found.versions) == ["python", "miil21k", *_PACKAGES]
    assert found.versions["python"] == platform.python_version()
    assert found.versions["miil21k"] == __version__
    assert found.system == f"{platform.platform()}, {os.cpu_count()} CPUs"
    assert (found.exports, found.leftovers, found.hosts) == (("one line",), (), ())
    assert found.devices[0] == f"cpu ({torch.get_num_threads()} threads)"
    left = tmp_path / "hf/hub/models--timm--net/blobs/abc.incomplete"
    left.parent.mkdir(parents=True)
    left.write_bytes(bytes(1 << 19))
    assert examine(offline=True).leftovers == (f"{left}, 0.5 MiB: the Hub's client goes on there",)


def test_without_a_network_and_without_weights_the_advice_is_to_change_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("miil21k.store.doctor.cached_path", lambda *_, **__: None)
    monkeypatch.setattr("miil21k.store.doctor.checkpoint_hosts", dict)
    offline = examine(tmp_path, offline=True)
    assert offline.advice[0].startswith("The network is off limits and no weights are cached")
    assert offline.advice[1].startswith("The embedded weights, which answer")
    assert (offline.cached, offline.embedded) == ((), False)
    assert examine(tmp_path).advice[0].startswith("The embedded weights")


def test_hosts_have_five_seconds_unless_told_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[dict[str, str], float]] = []
    monkeypatch.setattr("miil21k.store.doctor.checkpoint_hosts", lambda: {"a.example": "https://a.example/x"})
    monkeypatch.setattr("miil21k.store.doctor.ask_hosts", lambda *given: asked.append(given) or (WELL,))
    assert examine(tmp_path).hosts == (WELL,)
    assert examine(tmp_path, timeout=0.5).hosts == (WELL,)
    assert asked == [({"a.example": "https://a.example/x"}, 5.0), ({"a.example": "https://a.example/x"}, 0.5)]


def test_all_hosts_are_asked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    together = Barrier(40)

    def ask(host: str, url: str, timeout: float) -> Host:
        together.wait(20)  # passes when forty wait
        return Host(host, url, 200, 1, None)

    monkeypatch.setattr("miil21k.store.doctor._ask", ask)
    addresses = {f"{number}.example": f"https://{number}.example/x" for number in range(40)}
    assert [host.host for host in ask_hosts(addresses, 1.0)] == list(addresses)
    assert ask_hosts({}, 1.0) == ()
