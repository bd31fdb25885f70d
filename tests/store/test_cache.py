"""Where files lie, and what is remembered of them."""

from __future__ import annotations

import hashlib
import json
import runpy
import sys
from pathlib import Path

import pytest
from hub_server import hub_source, mirror_source, row_with

from miil21k.errors import ChecksumMismatch
from miil21k.files import replace_file
from miil21k.store.cache import Cache, cached_path, is_offline

URL = "https://mirror.example/net.safetensors"
COMMIT = "f" * 40


@pytest.mark.parametrize(
    "names", [(), ("HF_HOME",), ("XDG_CACHE_HOME",), ("HF_HOME", "HF_HUB_CACHE"), ("HUGGINGFACE_HUB_CACHE", "HF_HOME")]
)
def test_the_hubs_cache_is_where_its_client_looks(
    names: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    for name in ("HF_HOME", "XDG_CACHE_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PLACE", str(tmp_path))
    for name in names:
        monkeypatch.setenv(name, f"$PLACE/{name}")
    client = runpy.run_path(str(constants.__file__))
    assert Cache.at().hub == Path(client["HF_HUB_CACHE"])


@pytest.mark.parametrize(
    ("variables", "root"),
    [
        ({"MIIL21K_CACHE": "own", "TORCH_HOME": "torch", "HF_HOME": "hf", "XDG_CACHE_HOME": "xdg"}, "own"),
        ({"TORCH_HOME": "torch", "HF_HOME": "hf", "XDG_CACHE_HOME": "xdg"}, "torch/miil21k"),
        ({"HF_HOME": "hf", "XDG_CACHE_HOME": "xdg"}, "hf/miil21k"),
        ({"XDG_CACHE_HOME": "xdg"}, "xdg/miil21k"),
        ({"HOME": "home"}, "home/.cache/miil21k"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_environment_names_the_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], root: str
) -> None:
    for name in ("MIIL21K_CACHE", "TORCH_HOME", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, str(tmp_path / value))
    assert Cache.at().root == tmp_path / root
    assert Cache.at(tmp_path / "given") == Cache(tmp_path / "given" / "miil21k", tmp_path / "given")


@pytest.mark.parametrize(
    ("flag", "variable", "offline"),
    [(None, "1", True), (None, "0", False), (None, "", False), (True, "", True), (False, "ON", True)],
)
def test_the_variable_of_the_hub_means_offline(
    monkeypatch: pytest.MonkeyPatch, flag: bool | None, variable: str, offline: bool
) -> None:
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", variable)
    assert is_offline(flag) is offline


def test_every_address_and_revision_has_a_key_of_its_own(tmp_path: Path) -> None:
    cache = Cache.at(tmp_path)
    keys = {
        cache.key(hub_source()),
        cache.key(hub_source("timm/other")),
        cache.key(hub_source(), "v1"),
        cache.key(hub_source(revision="v2")),
        cache.key(mirror_source(URL)),
        cache.key(mirror_source(f"{URL}?x=1")),
    }
    assert len(keys) == 6
    assert cache.key(hub_source(), "main") == cache.key(hub_source()), "main is the revision that nobody named"


def test_the_hubs_layout_is_read_through_its_own_client(tmp_path: Path) -> None:
    repo = tmp_path / "models--timm--net"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(COMMIT)
    snapshot = repo / "snapshots" / COMMIT / "model.safetensors"
    snapshot.parent.mkdir(parents=True)
    snapshot.write_bytes(b"weights")
    assert cached_path(row_with(hub_source()), cache_dir=tmp_path) == snapshot
    assert cached_path(row_with(hub_source()), cache_dir=tmp_path, revision=COMMIT) == snapshot
    assert cached_path(row_with(hub_source()), cache_dir=tmp_path, revision="v9") is None
    assert cached_path(row_with(mirror_source(URL)), cache_dir=tmp_path) is None


@pytest.mark.parametrize(("named", "revision"), [(None, None), ("v1", None), (None, "v1"), ("v0", "v1")])
def test_a_plain_file_of_the_hub_is_found_without_its_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str | None, revision: str | None
) -> None:
    repo = tmp_path / "models--timm--net"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / (revision or named or "main")).write_text(f"{COMMIT}\n")
    snapshot = repo / "snapshots" / COMMIT / "model.safetensors"
    snapshot.parent.mkdir(parents=True)
    snapshot.write_bytes(b"weights")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert cached_path(row_with(hub_source(revision=named)), cache_dir=tmp_path, revision=revision) == snapshot


def test_a_blob_named_by_its_digest_is_held_to_it(tmp_path: Path) -> None:
    repo = tmp_path / "models--timm--net"
    blob = repo / "blobs" / hashlib.sha256(b"weights").hexdigest()
    blob.parent.mkdir(parents=True)
    blob.write_bytes(b"weightz")
    link = repo / "snapshots" / COMMIT / "model.safetensors"
    link.parent.mkdir(parents=True)
    link.symlink_to(blob)
    cache = Cache.at(tmp_path)
    with pytest.raises(ChecksumMismatch, match=f"the Hub's own digest is {blob.name}"):
        cache.find(hub_source(), COMMIT)
    cache.forget(hub_source(), COMMIT)
    assert not link.is_symlink()
    assert not blob.exists()


def test_a_pin_is_reused_while_size_and_time_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, source = Cache.at(tmp_path), mirror_source(URL)
    path = cache.file(source)
    replace_file(path, b"weights", parents=True)
    first = cache.find(source)
    assert first is not None
    assert first.sha256 == hashlib.sha256(b"weights").hexdigest()
    monkeypatch.setattr("miil21k.store.cache.sha256_of", lambda path: pytest.fail("hashed again"))
    assert cache.find(source) == first


@pytest.mark.parametrize("content", ["", "[]", "{", '{"sha256": "0"}'])
def test_a_pin_that_cannot_be_read_counts_as_none(tmp_path: Path, content: str) -> None:
    cache, source = Cache.at(tmp_path), mirror_source(URL)
    replace_file(cache.file(source), b"weights", parents=True)
    assert cache.find(source) is not None
    pin = next((cache.root / "pins").iterdir())
    pin.write_text(content)
    assert cache.pin(source) is None
    assert cache.find(source) is not None


def test_a_prefix_narrows_to_the_digest_that_was_pinned(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"weights").hexdigest()
    cache, source = Cache.at(tmp_path), mirror_source(URL, sha256_prefix=digest[:8])
    assert cache.expected(source) == (digest[:8], "published prefix")
    replace_file(cache.file(source), b"weights", parents=True)
    cache.find(source)
    assert cache.expected(source) == (digest, "pinned")
    assert cache.expected(mirror_source(URL, sha256="0" * 64)) == ("0" * 64, "published"), "the manifest comes first"


def test_what_is_recorded_of_one_revision_holds_for_that_revision(tmp_path: Path) -> None:
    cache, source, path = Cache.at(tmp_path), hub_source(), tmp_path / "model.safetensors"
    replace_file(path, b"weights")
    recorded, actual = "ab" * 32, hashlib.sha256(b"weights").hexdigest()
    cache.write_pin(source, path, recorded, COMMIT)  # reading the file again would tell another digest
    assert cache.check(source, path, COMMIT).sha256 == recorded
    assert cache.check(source, path).sha256 == actual
    assert cache.check(source, path, COMMIT[::-1].replace("f", "e")).sha256 == actual


def test_a_source_is_kept_under_the_first_32_digits_of_its_address(tmp_path: Path) -> None:
    cache, source = Cache.at(tmp_path), mirror_source(URL)
    key = hashlib.sha256(URL.encode()).hexdigest()[:32]
    assert cache.file(source) == tmp_path / "miil21k" / "files" / key / "net.safetensors"
    assert cache.lock(source) == tmp_path / "miil21k" / "locks" / f"{key}.lock"
    deep = hub_source(file="onnx/model.onnx")
    address = "hub:timm/net/onnx/model.onnx@main"
    assert cache.file(deep).relative_to(cache.root).as_posix() == (
        f"files/{hashlib.sha256(address.encode()).hexdigest()[:32]}/model.onnx"
    )
    replace_file(cache.file(source), b"weights", parents=True)
    cache.find(source)
    stat = cache.file(source).stat()
    assert json.loads((cache.root / "pins" / f"{key}.json").read_text()) == {
        "source": URL,
        "sha256": hashlib.sha256(b"weights").hexdigest(),
        "path": str(cache.file(source)),
        "size": 7,
        "mtime_ns": stat.st_mtime_ns,
    }
    made = cache.root / "converted" / "x.safetensors"
    replace_file(made, b"made", parents=True)
    cache.pin_derived(made, "ab" * 32)
    pin = cache.derived_pin(made)
    assert pin is not None
    assert (pin.source, pin.sha256, pin.path) == ("made here: x.safetensors", "ab" * 32, str(made))


def test_to_forget_a_source_removes_its_files_its_part_and_its_pin_alone(tmp_path: Path) -> None:
    cache, source, other = Cache.at(tmp_path), mirror_source(URL), mirror_source(f"{URL}?x=1")
    for kept in (source, other):
        replace_file(cache.file(kept), b"weights", parents=True)
        cache.find(kept)
    part = cache.file(source).with_name("net.safetensors.part")
    part.write_bytes(b"x")
    cache.forget(source, keep=cache.file(source))
    assert cache.file(source).exists()
    assert not part.exists()
    assert cache.pin(source) is not None
    cache.forget(source)
    assert not cache.file(source).exists()
    assert cache.pin(source) is None
    assert cache.pin(other) is not None
    assert cache.file(other).exists()
    cache.forget(source)  # nothing is there any more


def test_a_sweep_looks_into_every_folder_that_is_written_to(tmp_path: Path) -> None:
    cache = Cache.at(tmp_path)
    left = [
        cache.root / folder / f".{number}.0123abcd.part.json" for number, folder in enumerate(("", "pins", "files/ab"))
    ]
    for path in left:
        replace_file(path, b"x", parents=True)
    other = cache.root / "pins" / "whole.json"
    other.write_text("{}")
    assert sorted(cache.sweep(remove=False)) == sorted(left)
    assert all(path.exists() for path in left)
    assert sorted(cache.sweep()) == sorted(left)
    assert not any(path.exists() for path in left)
    assert other.exists()


def test_a_mismatch_names_file_source_both_digests_and_the_way_out(tmp_path: Path) -> None:
    cache, source = Cache.at(tmp_path), mirror_source(URL, sha256="0" * 64)
    path = cache.file(source)
    replace_file(path, b"weights", parents=True)
    with pytest.raises(ChecksumMismatch) as caught:
        cache.find(source)
    digest = hashlib.sha256(b"weights").hexdigest()
    assert str(caught.value) == (
        f"{path} is not the file of {URL}: its SHA-256 is {digest}, published is {'0' * 64}. Fetch it anew with "
        "'miil21k fetch --force', or pass a file you trust with --checkpoint."
    )


@pytest.mark.parametrize("word", ["1", "on", "Yes", "TRUE"])
def test_both_variables_mean_offline_in_any_case(monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    assert is_offline(None) is is_offline(False) is False
    monkeypatch.setenv("TRANSFORMERS_OFFLINE", word)
    assert is_offline(None) is True
