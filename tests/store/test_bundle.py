"""Bundles: what goes in comes out elsewhere without a network, and nothing but a bundle is installed."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from safetensors.numpy import save

from miil21k import __version__
from miil21k.calibrate.record import Calibration, load_calibration
from miil21k.errors import BundleError, ChecksumMismatch, ManifestError, Miil21kError, UnknownModel, UsageError
from miil21k.files import replace_file
from miil21k.hierarchy.load import load_label_space
from miil21k.records import to_json
from miil21k.store.bundle import calibration_path, create_bundle, install_bundle
from miil21k.store.cache import Cache
from miil21k.store.download import fetch_weights, obtain
from miil21k.zoo.manifest import SCHEMA_VERSION, find_weights

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from miil21k.zoo.schema import Weights

CONTENT = save({"head.weight": np.arange(5000, dtype=np.float32)})
DIGEST = hashlib.sha256(CONTENT).hexdigest()
WEIGHTS = f"weights/{DIGEST}"
ZEROS = f"weights/{'0' * 64}"
NOTHING = "Nothing was installed."
NO_TAR = "PATH is no bundle: it is not a plain tar"
SAME_VERSION = "use the same version of miil21k on both machines."
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


def _refused(path: Path, target: Path, kind: type[Miil21kError], message: str) -> None:
    """Install, and hold what is said to `message`, in which PATH stands for the bundle."""
    with pytest.raises(kind) as caught:
        install_bundle(path, cache_dir=target)
    assert str(caught.value).replace(str(path), "PATH") == message
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
    space, here = load_label_space("fall11"), tmp_path / "here"
    fitted = Calibration(space.name, space.sha256, "", "", "level_softmax", "coherent", "", (1.5,), (), (9, 9))
    create_bundle([row], tmp_path / "c.tar", calibrations={row.name: fitted}, cache_dir=here)
    install_bundle(tmp_path / "c.tar", cache_dir=tmp_path / "there")
    assert load_calibration(calibration_path(Cache.at(tmp_path / "there"), row.name)) == fitted
    for other in (replace(fitted, head="leaf_softmax"), replace(fitted, sha256="0" * 64)):
        with pytest.raises(UsageError, match=rf"is of a {other.head} head of 'fall11', '{row.name}' has a level_softm"):
            create_bundle([row], tmp_path / "d.tar", calibrations={row.name: other}, cache_dir=here)
    assert not (tmp_path / "d.tar").exists()


def test_a_file_that_changes_while_it_is_packed_makes_no_bundle(row: Weights, tmp_path: Path) -> None:
    cache = Cache.at(tmp_path)
    path = cache.file(row.sources[0])
    replace_file(path, CONTENT, parents=True)
    fetch_weights(row, cache_dir=tmp_path, offline=True)
    stat = path.stat()
    path.write_bytes(CONTENT[::-1])
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as a failing disk does it
    with pytest.raises(ChecksumMismatch, match=f"^{path} has changed since it was checked: run 'miil21k verify'\\.$"):
        create_bundle([row], tmp_path / "net.tar", cache_dir=tmp_path, offline=True)
    assert not (tmp_path / "net.tar").exists()


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "weights/../../outside", "notes.txt", "weights/abc"])
def test_members_of_other_names_are_refused(bundle: Path, tmp_path: Path, name: str) -> None:
    path = _write(tmp_path / "bad.tar", {**_members(bundle), name: b"x"})
    _refused(path, tmp_path / "there", BundleError, f"PATH holds '{name}', which no bundle holds. {NOTHING}")
    assert not (tmp_path / "outside").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
def test_links_devices_and_folders_are_refused(bundle: Path, tmp_path: Path, kind: bytes) -> None:
    info = tarfile.TarInfo(f"weights/{'0' * 64}")
    info.type, info.linkname = kind, "/etc/passwd"
    path = _write(tmp_path / "bad.tar", _members(bundle), info)
    _refused(path, tmp_path / "there", BundleError, f"PATH: '{ZEROS}' is no plain file. {NOTHING}")


def test_a_sparse_member_that_would_unpack_to_much_is_refused(bundle: Path, tmp_path: Path) -> None:
    info = tarfile.TarInfo(f"weights/{'0' * 64}")
    info.pax_headers = {"GNU.sparse.map": "0,0", "GNU.sparse.size": str(1 << 40), "GNU.sparse.numblocks": "1"}
    with tarfile.open(tmp_path / "bad.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in _members(bundle).items():
            plain = tarfile.TarInfo(name)
            plain.size = len(content)
            tar.addfile(plain, io.BytesIO(content))
        tar.addfile(info)
    _refused(tmp_path / "bad.tar", tmp_path / "there", BundleError, f"PATH: '{ZEROS}' is no plain file. {NOTHING}")


def test_a_compressed_tar_is_refused_unopened(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "bomb.tar").write_bytes(gzip.compress(bundle.read_bytes() + bytes(10_000_000)))
    _refused(tmp_path / "bomb.tar", tmp_path / "there", BundleError, f"{NO_TAR} (invalid header).")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", f"{NO_TAR} (empty file)."),
        (b"no tar at all", f"{NO_TAR} (truncated header)."),
        (b"\0" * 4096, "PATH is no bundle: it lacks bundle.json."),
    ],
)
def test_what_is_no_tar_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "bad.tar").write_bytes(content)
    _refused(tmp_path / "bad.tar", tmp_path / "there", BundleError, message)
    _refused(
        tmp_path / "absent.tar", tmp_path / "there", BundleError, "Cannot install PATH: No such file or directory."
    )


def test_a_cut_bundle_is_refused(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.tar").write_bytes(bundle.read_bytes()[:-15_000])
    _refused(tmp_path / "cut.tar", tmp_path / "there", BundleError, f"PATH is cut inside '{WEIGHTS}': copy it again.")


def test_a_flipped_byte_in_the_weights_is_refused(bundle: Path, tmp_path: Path) -> None:
    members = _members(bundle)
    members[WEIGHTS] = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])
    path = _write(tmp_path / "bad.tar", members)
    found = hashlib.sha256(members[WEIGHTS]).hexdigest()
    message = f"PATH: '{WEIGHTS}' has SHA-256 {found}, its index says {DIGEST}: copy the bundle again."
    _refused(path, tmp_path / "there", ChecksumMismatch, message)


def test_a_size_that_differs_from_the_index_is_refused(bundle: Path, tmp_path: Path) -> None:
    path = _write(tmp_path / "bad.tar", {**_members(bundle), WEIGHTS: CONTENT + bytes(1)})
    _refused(path, tmp_path / "there", BundleError, f"PATH: '{WEIGHTS}' has 20081 bytes, its index says 20080.")


def test_a_file_that_the_index_does_not_list_is_refused(bundle: Path, tmp_path: Path) -> None:
    path = _write(tmp_path / "bad.tar", {**_members(bundle), f"weights/{'0' * 64}": b"x"})
    _refused(path, tmp_path / "there", BundleError, f"PATH: its index and its content differ in {ZEROS}.")


def test_a_member_twice_is_refused(bundle: Path, tmp_path: Path) -> None:
    with tarfile.open(_write(tmp_path / "bad.tar", _members(bundle)), "a") as tar:
        tar.addfile(tarfile.TarInfo(WEIGHTS))
    _refused(tmp_path / "bad.tar", tmp_path / "there", BundleError, f"PATH holds '{WEIGHTS}' twice. {NOTHING}")


def test_a_row_that_breaks_the_schema_is_refused(bundle: Path, tmp_path: Path) -> None:
    members = _members(bundle)
    rows = json.loads(members["weights_manifest.json"])
    rows["models"][0]["licnce"] = rows["models"][0].pop("licence")
    members["weights_manifest.json"] = json.dumps(rows).encode()
    path = _write(tmp_path / "bad.tar", _sealed(members))
    with pytest.raises(ManifestError, match="unknown key 'licnce'"):
        install_bundle(path, cache_dir=tmp_path / "there")
    assert [p for p in (tmp_path / "there").rglob("*") if p.is_file()] == []


@pytest.mark.parametrize(
    ("key", "value", "kind", "message"),
    [
        (
            "name",
            "no_such.net",
            UnknownModel,
            f"PATH holds 'no_such.net', which this miil21k ({__version__}) does not know: upgrade.",
        ),
        ("label_space", "winter21", BundleError, f"label_space winter21 there and fall11 here: {SAME_VERSION}"),
        ("head", "sigmoid", BundleError, f"head sigmoid there and level_softmax here: {SAME_VERSION}"),
        ("num_classes", 7, BundleError, f"num_classes 7 there and 11221 here: {SAME_VERSION}"),
        ("arch", "resnet50", BundleError, f"arch resnet50 there and mobilenetv3_large_100 here: {SAME_VERSION}"),
    ],
)
def test_a_row_that_means_something_else_here_is_refused(
    bundle: Path, tmp_path: Path, key: str, value: str | int, kind: type[Miil21kError], message: str
) -> None:
    members = _members(bundle)
    rows = json.loads(members["weights_manifest.json"])
    rows["models"][0][key] = value
    members["weights_manifest.json"] = json.dumps(rows).encode()
    if key == "name":
        members = _with_index(members, lambda index: index["entries"][0].update(name=value))
    else:
        message = f"PATH: 'mobilenetv3_large_100.miil_in21k' has {message}"
    _refused(_write(tmp_path / "bad.tar", _sealed(members)), tmp_path / "there", kind, message)


def test_another_label_space_under_a_known_name_is_refused(bundle: Path, tmp_path: Path) -> None:
    members = _members(bundle)
    members["label_spaces/fall11.tsv"] = members["label_spaces/fall11.tsv"].replace(b"dog", b"cat")
    path = _write(tmp_path / "bad.tar", _sealed(members))
    message = f"PATH: its label space 'fall11' is not the one of this miil21k ({__version__}): "
    _refused(path, tmp_path / "there", BundleError, message + "use the same version on both machines.")


def test_a_calibration_of_weights_outside_the_bundle_is_refused(bundle: Path, tmp_path: Path) -> None:
    name = "calibration/tresnet_m.miil_in21k.json"
    path = _write(tmp_path / "bad.tar", _sealed({**_members(bundle), name: b"{}"}))
    _refused(path, tmp_path / "there", BundleError, f"PATH: '{name}' belongs to no weights of this bundle.")
    name = "calibration/mobilenetv3_large_100.miil_in21k.json"
    path = _write(tmp_path / "bad.tar", _sealed({**_members(bundle), name: b"[]"}))
    _refused(path, tmp_path / "there", BundleError, f"PATH: '{name}' is no calibration: expected a JSON object.")


def test_a_source_that_nobody_published_is_refused(bundle: Path, row: Weights, tmp_path: Path) -> None:
    members = _with_index(_members(bundle), lambda index: index["entries"][0]["source"].update(repo="evil/net"))
    path = _write(tmp_path / "bad.tar", members)
    message = f"PATH: hub:evil/net/model.safetensors is no source of '{row.name}' that this miil21k knows."
    _refused(path, tmp_path / "there", BundleError, message)


def test_bytes_that_are_no_checkpoint_are_refused(bundle: Path, row: Weights, tmp_path: Path) -> None:
    junk = b"<html>not weights</html>"
    digest = hashlib.sha256(junk).hexdigest()
    members = {k: v for k, v in _members(bundle).items() if k != WEIGHTS} | {f"weights/{digest}": junk}
    members = _with_index(_sealed(members), lambda index: index["entries"][0].update(member=f"weights/{digest}"))
    message = f"PATH: the file of {row.name} is damaged: no safetensors file: it begins with b'<html>no'."
    _refused(_write(tmp_path / "bad.tar", members), tmp_path / "there", BundleError, message)


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
    message = f"PATH: the file of {published.name} has SHA-256 {DIGEST}, published is {published.sources[0].sha256}. "
    _refused(path, tmp_path / "elsewhere", ChecksumMismatch, message + NOTHING)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"[" * 100_000, "bundle.json cannot be read: nested deeper than 64 levels."),
        (b"{}", "bundle.json cannot be read: missing key 'format'."),
        (b'{"format": 2}', "bundle.json cannot be read: missing key 'written_by'."),
        (b"\xff", "'bundle.json' is no UTF-8 text."),
    ],
)
def test_an_index_that_cannot_be_read_is_refused(bundle: Path, tmp_path: Path, text: bytes, message: str) -> None:
    path = _write(tmp_path / "bad.tar", {**_members(bundle), "bundle.json": text})
    _refused(path, tmp_path / "there", BundleError, f"PATH: {message}")


def test_an_index_of_another_format_or_that_contradicts_the_content_is_refused(bundle: Path, tmp_path: Path) -> None:
    whole = _members(bundle)

    def refused(members: Members, message: str) -> None:
        _refused(_write(tmp_path / "bad.tar", members), tmp_path / "there", BundleError, message)

    refused(_with_index(whole, lambda i: i.update(format=2)), "PATH has format 2; this miil21k reads 1.")
    twice = _with_index(whole, lambda i: i.update(members=[*i["members"], i["members"][0]]))
    refused(twice, "PATH: its index and its content differ in a name listed twice.")
    absent = {"name": ZEROS, "size": 1, "sha256": "0" * 64}
    refused(
        _with_index(whole, lambda i: i.update(members=[*i["members"], absent])),
        f"PATH: its index and its content differ in {ZEROS}.",
    )
    few = _with_index(whole, lambda i: i.update(members=[]))
    first = f"label_spaces/fall11.tsv, {WEIGHTS}, weights_manifest.json"
    refused(few, f"PATH: its index and its content differ in {first}.")
    others = {f"weights/{digit * 64}": b"x" for digit in "0123"}
    listed = ", ".join(f"weights/{digit * 64}" for digit in "012")
    refused({**whole, **others}, f"PATH: its index and its content differ in {listed}.")
    other_names = "PATH: its rows and its entries name different weights or files."
    refused(_with_index(whole, lambda i: i["entries"][0].update(name="x")), other_names)
    refused(_with_index(whole, lambda i: i["entries"][0].update(member=ZEROS)), other_names)
    refused(_with_index(whole, lambda i: i.update(entries=[])), other_names)
    space = "label_spaces/fall11.tsv"
    refused(
        _with_index(whole, lambda i: i["entries"][0].update(member=space)),
        f"PATH: '{space}' is not named by its digest.",
    )
    refused(
        {name: content for name, content in whole.items() if name != "weights_manifest.json"},
        "PATH is no bundle: it lacks weights_manifest.json.",
    )


def test_a_text_that_was_changed_is_refused_by_its_digest(bundle: Path, tmp_path: Path) -> None:
    members = _members(bundle)
    space = members["label_spaces/fall11.tsv"]
    members["label_spaces/fall11.tsv"] = space.replace(b"dog", b"cat")
    digests = [hashlib.sha256(text).hexdigest() for text in (members["label_spaces/fall11.tsv"], space)]
    message = "PATH: 'label_spaces/fall11.tsv' has SHA-256 {}, its index says {}: copy the bundle again."
    path = _write(tmp_path / "bad.tar", members)
    _refused(path, tmp_path / "there", ChecksumMismatch, message.format(*digests))


def test_a_bundle_for_which_the_disk_has_no_room_is_not_begun(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = [len(CONTENT) - 1]
    monkeypatch.setattr("miil21k.store.bundle.shutil.disk_usage", lambda _: SimpleNamespace(free=free[0]))
    root = Cache.at(tmp_path / "there").root
    message = f"PATH needs 20080 bytes, but {root} has only 20079 bytes free."
    _refused(bundle, tmp_path / "there", BundleError, message)
    free[0] += 1
    assert len(install_bundle(bundle, cache_dir=tmp_path / "there").entries) == 1


def test_the_index_says_who_wrote_it_and_what_is_in_it(bundle: Path, row: Weights) -> None:
    members = _members(bundle)
    assert list(members) == ["bundle.json", "weights_manifest.json", "label_spaces/fall11.tsv", WEIGHTS]
    assert json.loads(members["bundle.json"]) == {
        "format": 1,
        "written_by": __version__,
        "entries": [{"name": row.name, "member": WEIGHTS, "source": to_json(row.sources[0])}],
        "members": [
            {"name": name, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in members.items()
            if name != "bundle.json"
        ],
    }
    rows = json.loads(members["weights_manifest.json"])
    assert {key: rows[key] for key in rows if key != "models"} == {
        "schema_version": SCHEMA_VERSION,
        "unreleased": [],
        "resources": [],
    }
    with tarfile.open(bundle) as tar:
        assert {(info.mode, info.mtime, info.uid, info.uname) for info in tar} == {(0o644, 0, 0, "")}


def test_two_names_for_one_file_are_both_installed(bundle: Path, row: Weights, tmp_path: Path) -> None:
    other = find_weights("mixer_b16_224.miil_in21k")
    for weights in (row, other):
        replace_file(Cache.at(tmp_path / "here").file(weights.sources[0]), CONTENT, parents=True)
    create_bundle([row, other], tmp_path / "two.tar", cache_dir=tmp_path / "here", offline=True)
    assert (tmp_path / "two.tar").stat().st_size < bundle.stat().st_size + len(CONTENT)
    install_bundle(tmp_path / "two.tar", cache_dir=tmp_path / "there")
    for weights in (row, other):
        assert fetch_weights(weights, cache_dir=tmp_path / "there", offline=True).read_bytes() == CONTENT
