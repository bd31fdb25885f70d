"""Bundles: what goes in comes out elsewhere without a network, and nothing but a bundle is installed."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
from typing import TYPE_CHECKING

import numpy as np
import pytest
from safetensors.numpy import save

from miil21k.errors import BundleError, ChecksumMismatch, ManifestError, Miil21kError, UnknownModel, UsageError
from miil21k.files import replace_file
from miil21k.hierarchy.load import load_label_space
from miil21k.records import to_json
from miil21k.store.bundle import calibration_path, create_bundle, install_bundle
from miil21k.store.cache import Cache
from miil21k.store.download import fetch_weights, obtain
from miil21k.zoo.manifest import find_weights

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from miil21k.zoo.schema import Weights

CONTENT = save({"head.weight": np.arange(5000, dtype=np.float32)})
DIGEST = hashlib.sha256(CONTENT).hexdigest()
WEIGHTS = f"weights/{DIGEST}"
Members = dict[str, bytes]


@pytest.fixture
def row() -> Weights:
    return find_weights("mobilenetv3_large_100.miil_in21k")


@pytest.fixture
def bundle(row: Weights, tmp_path: Path) -> Path:
    """A bundle of one small file that stands for the weights of `row`, whose digest nobody published."""
    assert (row.sources[0].kind, row.sources[0].sha256) == ("hub", None)
    cache = tmp_path / "here"
    replace_file(Cache.at(cache).file(row.sources[0]), CONTENT, parents=True)
    create_bundle([row], tmp_path / "net.tar", cache_dir=cache, offline=True)
    return tmp_path / "net.tar"


def _members(path: Path) -> Members:
    with tarfile.open(path) as tar:
        return {info.name: tar.extractfile(info).read() for info in tar}


def _write(path: Path, members: Members, *extra: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for info in extra:
            tar.addfile(info)
    return path


def _with_index(members: Members, change: Callable[[dict[str, object]], object]) -> Members:
    index = json.loads(members["bundle.json"])
    change(index)
    return {**members, "bundle.json": json.dumps(index).encode()}


def _sealed(members: Members) -> Members:
    """Return the members with an index whose sizes and digests are right again: only the content lies."""
    sizes = [
        {"name": n, "size": len(c), "sha256": hashlib.sha256(c).hexdigest()}
        for n, c in members.items()
        if n != "bundle.json"
    ]
    return _with_index(members, lambda index: index.update(members=sizes))


def _refused(path: Path, target: Path, kind: type[Miil21kError], match: str) -> None:
    with pytest.raises(kind, match=match) as caught:
        install_bundle(path, cache_dir=target)
    assert "\n" not in str(caught.value)
    assert [p for p in target.rglob("*") if p.is_file()] == []


def test_installed_weights_are_found_offline(bundle: Path, row: Weights, tmp_path: Path) -> None:
    target = tmp_path / "there"
    index = install_bundle(bundle, cache_dir=target)
    assert [entry.name for entry in index.entries] == [row.name]
    found = obtain(row, cache_dir=target, offline=True)
    assert (found.path.read_bytes(), found.sha256) == (CONTENT, DIGEST)
    assert Cache.at(target).expected(row.sources[0]) == (DIGEST, "pinned")
    assert list(Cache.at(target).root.glob("staged-*")) == []


def test_a_bundle_holds_rows_and_label_space_and_is_the_same_every_time(bundle: Path, row: Weights) -> None:
    members = _members(bundle)
    assert set(members) == {"bundle.json", "weights_manifest.json", "label_spaces/fall11.tsv", WEIGHTS}
    assert members["label_spaces/fall11.tsv"].decode() == load_label_space("fall11").to_text()
    assert json.loads(members["weights_manifest.json"])["models"][0]["licence"] == row.licence
    again = bundle.with_name("again.tar")
    create_bundle([row], again, cache_dir=bundle.parent / "here", offline=True)
    assert again.read_bytes() == bundle.read_bytes()
    assert not list(bundle.parent.glob(".*")), "no unfinished file is left behind"


def test_a_calibration_travels_along(row: Weights, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "fitted.json").write_text('{"temperature": 1.5}')
    create_bundle(
        [row], tmp_path / "c.tar", calibrations={row.name: tmp_path / "fitted.json"}, cache_dir=tmp_path / "here"
    )
    install_bundle(tmp_path / "c.tar", cache_dir=tmp_path / "there")
    assert calibration_path(Cache.at(tmp_path / "there"), row.name).read_text() == '{"temperature": 1.5}'
    (tmp_path / "fitted.json").write_text("[1.5]")
    with pytest.raises(UsageError, match=r"fitted\.json is no calibration"):
        create_bundle(
            [row], tmp_path / "d.tar", calibrations={row.name: tmp_path / "fitted.json"}, cache_dir=tmp_path / "here"
        )
    assert not (tmp_path / "d.tar").exists()


def test_a_file_that_changes_while_it_is_packed_makes_no_bundle(row: Weights, tmp_path: Path) -> None:
    cache = Cache.at(tmp_path)
    path = cache.file(row.sources[0])
    replace_file(path, CONTENT, parents=True)
    fetch_weights(row, cache_dir=tmp_path, offline=True)
    stat = path.stat()
    path.write_bytes(CONTENT[::-1])
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as a failing disk does it
    with pytest.raises(ChecksumMismatch, match="has changed since"):
        create_bundle([row], tmp_path / "net.tar", cache_dir=tmp_path, offline=True)
    assert not (tmp_path / "net.tar").exists()


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "weights/../../outside", "notes.txt", "weights/abc"])
def test_members_of_other_names_are_refused(bundle: Path, tmp_path: Path, name: str) -> None:
    path = _write(tmp_path / "bad.tar", {**_members(bundle), name: b"x"})
    _refused(path, tmp_path / "there", BundleError, "which no bundle holds")
    assert not (tmp_path / "outside").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
def test_links_devices_and_folders_are_refused(bundle: Path, tmp_path: Path, kind: bytes) -> None:
    info = tarfile.TarInfo(f"weights/{'0' * 64}")
    info.type, info.linkname = kind, "/etc/passwd"
    path = _write(tmp_path / "bad.tar", _members(bundle), info)
    _refused(path, tmp_path / "there", BundleError, "is no plain file|which no bundle holds")


def test_a_sparse_member_that_would_unpack_to_much_is_refused(bundle: Path, tmp_path: Path) -> None:
    info = tarfile.TarInfo(f"weights/{'0' * 64}")
    info.pax_headers = {"GNU.sparse.map": "0,0", "GNU.sparse.size": str(1 << 40), "GNU.sparse.numblocks": "1"}
    with tarfile.open(tmp_path / "bad.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in _members(bundle).items():
            plain = tarfile.TarInfo(name)
            plain.size = len(content)
            tar.addfile(plain, io.BytesIO(content))
        tar.addfile(info)
    _refused(tmp_path / "bad.tar", tmp_path / "there", BundleError, "is no plain file")


def test_a_compressed_tar_is_refused_unopened(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "bomb.tar").write_bytes(gzip.compress(bundle.read_bytes() + bytes(10_000_000)))
    _refused(tmp_path / "bomb.tar", tmp_path / "there", BundleError, "not a plain tar")


@pytest.mark.parametrize("content", [b"", b"no tar at all", b"\0" * 4096])
def test_what_is_no_tar_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.tar").write_bytes(content)
    _refused(tmp_path / "bad.tar", tmp_path / "there", BundleError, "is no bundle")
    _refused(tmp_path / "absent.tar", tmp_path / "there", BundleError, "No such file")


def test_a_cut_bundle_is_refused(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.tar").write_bytes(bundle.read_bytes()[:-15_000])
    _refused(tmp_path / "cut.tar", tmp_path / "there", BundleError, "is cut inside 'weights")


def test_a_flipped_byte_in_the_weights_is_refused(bundle: Path, tmp_path: Path) -> None:
    members = _members(bundle)
    members[WEIGHTS] = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])
    path = _write(tmp_path / "bad.tar", members)
    _refused(path, tmp_path / "there", ChecksumMismatch, f"its index says {DIGEST}")


def test_a_size_that_differs_from_the_index_is_refused(bundle: Path, tmp_path: Path) -> None:
    path = _write(tmp_path / "bad.tar", {**_members(bundle), WEIGHTS: CONTENT + bytes(1)})
    _refused(path, tmp_path / "there", BundleError, f"has {len(CONTENT) + 1} bytes, its index says {len(CONTENT)}")


def test_a_file_that_the_index_does_not_list_is_refused(bundle: Path, tmp_path: Path) -> None:
    path = _write(tmp_path / "bad.tar", {**_members(bundle), f"weights/{'0' * 64}": b"x"})
    _refused(path, tmp_path / "there", BundleError, "index and its content differ in weights/000")


def test_a_member_twice_is_refused(bundle: Path, tmp_path: Path) -> None:
    with tarfile.open(_write(tmp_path / "bad.tar", _members(bundle)), "a") as tar:
        tar.addfile(tarfile.TarInfo(WEIGHTS))
    _refused(tmp_path / "bad.tar", tmp_path / "there", BundleError, f"holds '{WEIGHTS}' twice")


def test_a_row_that_breaks_the_schema_is_refused(bundle: Path, tmp_path: Path) -> None:
    members = _members(bundle)
    rows = json.loads(members["weights_manifest.json"])
    rows["models"][0]["licnce"] = rows["models"][0].pop("licence")
    members["weights_manifest.json"] = json.dumps(rows).encode()
    path = _write(tmp_path / "bad.tar", _sealed(members))
    _refused(path, tmp_path / "there", ManifestError, "unknown key 'licnce'")


@pytest.mark.parametrize(
    ("key", "value", "kind", "match"),
    [
        ("name", "no_such.net", UnknownModel, "does not know: upgrade"),
        ("label_space", "winter21", BundleError, "has label_space winter21 there and fall11 here"),
        ("head", "sigmoid", BundleError, "has head sigmoid there"),
    ],
)
def test_a_row_that_means_something_else_here_is_refused(
    bundle: Path, tmp_path: Path, key: str, value: str, kind: type[Miil21kError], match: str
) -> None:
    members = _members(bundle)
    rows = json.loads(members["weights_manifest.json"])
    rows["models"][0][key] = value
    members["weights_manifest.json"] = json.dumps(rows).encode()
    if key == "name":
        members = _with_index(members, lambda index: index["entries"][0].update(name=value))
    _refused(_write(tmp_path / "bad.tar", _sealed(members)), tmp_path / "there", kind, match)


def test_another_label_space_under_a_known_name_is_refused(bundle: Path, tmp_path: Path) -> None:
    members = _members(bundle)
    members["label_spaces/fall11.tsv"] = members["label_spaces/fall11.tsv"].replace(b"dog", b"cat")
    path = _write(tmp_path / "bad.tar", _sealed(members))
    _refused(path, tmp_path / "there", BundleError, "'fall11' is not the one of this miil21k")


def test_a_calibration_of_weights_outside_the_bundle_is_refused(bundle: Path, tmp_path: Path) -> None:
    members = _sealed({**_members(bundle), "calibration/tresnet_m.miil_in21k.json": b"{}"})
    path = _write(tmp_path / "bad.tar", members)
    _refused(path, tmp_path / "there", BundleError, "belongs to no weights of this bundle")


def test_a_source_that_nobody_published_is_refused(bundle: Path, tmp_path: Path) -> None:
    members = _with_index(_members(bundle), lambda index: index["entries"][0]["source"].update(repo="evil/net"))
    path = _write(tmp_path / "bad.tar", members)
    _refused(path, tmp_path / "there", BundleError, "hub:evil/net/model.safetensors is no source of")


def test_bytes_that_are_no_checkpoint_are_refused(bundle: Path, tmp_path: Path) -> None:
    junk = b"<html>not weights</html>"
    digest = hashlib.sha256(junk).hexdigest()
    members = {k: v for k, v in _members(bundle).items() if k != WEIGHTS} | {f"weights/{digest}": junk}
    members = _with_index(_sealed(members), lambda index: index["entries"][0].update(member=f"weights/{digest}"))
    _refused(_write(tmp_path / "bad.tar", members), tmp_path / "there", BundleError, "no safetensors file")


def test_a_digest_that_this_machine_has_pinned_or_knows_is_kept(bundle: Path, row: Weights, tmp_path: Path) -> None:
    cache = Cache.at(tmp_path / "there")
    own = cache.file(row.sources[0])
    other = save({"head.weight": np.zeros(3, dtype=np.float32)})
    replace_file(own, other, parents=True)
    fetch_weights(row, cache_dir=tmp_path / "there", offline=True)
    with pytest.raises(ChecksumMismatch, match=f"has SHA-256 {DIGEST}, pinned is"):
        install_bundle(bundle, cache_dir=tmp_path / "there")
    assert own.read_bytes() == other
    published = find_weights("tresnet_m_21k")
    renamed = _with_index(
        _members(bundle),
        lambda index: index["entries"][0].update(name=published.name, source=published.sources[0]._asdict()),
    )
    renamed["weights_manifest.json"] = json.dumps(
        {"schema_version": 2, "models": [to_json(published)], "unreleased": [], "resources": []}
    ).encode()
    path = _write(tmp_path / "bad.tar", _sealed(renamed))
    _refused(path, tmp_path / "elsewhere", ChecksumMismatch, f"published is {published.sources[0].sha256}")


@pytest.mark.parametrize("text", [b"[" * 100_000, b"{}", b'{"format": 2}', b"\xff"])
def test_an_index_that_cannot_be_read_is_refused(bundle: Path, tmp_path: Path, text: bytes) -> None:
    path = _write(tmp_path / "bad.tar", {**_members(bundle), "bundle.json": text})
    _refused(path, tmp_path / "there", BundleError, r"bundle\.json")


def test_two_names_for_one_file_are_both_installed(bundle: Path, row: Weights, tmp_path: Path) -> None:
    other = find_weights("mixer_b16_224.miil_in21k")
    for weights in (row, other):
        replace_file(Cache.at(tmp_path / "here").file(weights.sources[0]), CONTENT, parents=True)
    create_bundle([row, other], tmp_path / "two.tar", cache_dir=tmp_path / "here", offline=True)
    assert (tmp_path / "two.tar").stat().st_size < bundle.stat().st_size + len(CONTENT)
    install_bundle(tmp_path / "two.tar", cache_dir=tmp_path / "there")
    for weights in (row, other):
        assert fetch_weights(weights, cache_dir=tmp_path / "there", offline=True).read_bytes() == CONTENT
