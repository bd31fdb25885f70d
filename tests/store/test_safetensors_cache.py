"""Old formats become safetensors once, named by the digest that they came from."""

from __future__ import annotations

import hashlib
import os
import pickle
from typing import TYPE_CHECKING

import pytest
import torch
from hub_server import HubServer, mirror_source, row_with

from miil21k.errors import CheckpointError
from miil21k.store.cache import Cache
from miil21k.store.safetensors_cache import fetch_safetensors
from miil21k.store.verify import verify_conversions
from miil21k.zoo import checkpoint
from miil21k.zoo.checkpoint import read_state_dict

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class _RunsCode:
    def __reduce__(self) -> tuple[object, ...]:
        return print, ("code from a checkpoint ran",)


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


def _pth(tmp_path: Path, content: object) -> bytes:
    torch.save(content, tmp_path / "written.pth")
    return (tmp_path / "written.pth").read_bytes()


def test_a_wrapped_pth_is_converted_once_with_equal_tensors(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    tensors = {"a": whole, "view": whole[:, 1], "tied": whole, "half": torch.ones(2, dtype=torch.bfloat16)}
    content = _pth(tmp_path, {"state_dict": tensors, "epoch": 3})
    row = row_with(mirror_source(hub.mirror("/m/net.pth", content), format="pth"))
    found = fetch_safetensors(row, cache_dir=tmp_path)
    path = found.path
    assert (found.sha256, found.source) == (hashlib.sha256(content).hexdigest(), row.sources[0])
    assert path.name == f"{found.sha256}.v2.safetensors"
    loaded = read_state_dict(path)
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[k], tensors[k]) and loaded[k].dtype == tensors[k].dtype for k in tensors)
    monkeypatch.setattr(checkpoint, "read_state_dict", lambda path: pytest.fail("converted again"))
    assert fetch_safetensors(row, cache_dir=tmp_path, offline=True).path == path


@pytest.mark.parametrize("keep_time", [False, True], ids=["new time", "old time, other size"])
def test_four_changed_bytes_of_a_conversion_are_noticed_and_it_is_made_anew(
    hub: HubServer, tmp_path: Path, caplog: pytest.LogCaptureFixture, keep_time: bool
) -> None:
    content = _pth(tmp_path, {"a": torch.arange(1000.0)})
    row = row_with(mirror_source(hub.mirror("/m/net.pth", content), format="pth"))
    path = fetch_safetensors(row, cache_dir=tmp_path).path
    good, stat = path.read_bytes(), path.stat()
    assert [f.status for f in verify_conversions(Cache.at(tmp_path))] == ["ok"]
    path.write_bytes(good[:-8] + b"\x01\x02\x03\x04" + good[-4:] if not keep_time else good + b"more")
    if keep_time:
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert [f.status for f in verify_conversions(Cache.at(tmp_path))] == ["mismatch"]
    with caplog.at_level("WARNING", "miil21k.store"):
        assert fetch_safetensors(row, cache_dir=tmp_path, offline=True).path.read_bytes() == good
    assert "was changed since it was converted" in caplog.text
    assert [f.status for f in verify_conversions(Cache.at(tmp_path))] == ["ok"]


def test_a_conversion_that_was_only_touched_is_kept_and_one_without_a_pin_is_not(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = _pth(tmp_path, {"a": torch.arange(1000.0)})
    row = row_with(mirror_source(hub.mirror("/m/net.pth", content), format="pth"))
    path = fetch_safetensors(row, cache_dir=tmp_path).path
    os.utime(path, ns=(1, 1))
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "read_state_dict", lambda path: pytest.fail("converted again"))
        assert fetch_safetensors(row, cache_dir=tmp_path).path == path
    good = path.read_bytes()
    for pin in (Cache.at(tmp_path).root / "pins").iterdir():
        if b"made here" in pin.read_bytes():
            pin.unlink()
    path.write_bytes(good[:-4] + b"\x01\x02\x03\x04")
    assert [f.status for f in verify_conversions(Cache.at(tmp_path))] == ["unpinned"]
    assert fetch_safetensors(row, cache_dir=tmp_path).path.read_bytes() == good


def test_code_in_a_checkpoint_does_not_run_and_nothing_is_converted(
    hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = row_with(mirror_source(hub.mirror("/m/net.pth", pickle.dumps(_RunsCode())), format="pth"))
    with pytest.raises(CheckpointError):
        fetch_safetensors(row, cache_dir=tmp_path)
    assert capsys.readouterr().out == ""
    assert not (Cache.at(tmp_path).root / "converted").exists()


def test_where_nothing_can_be_written_the_file_itself_is_used(hub: HubServer, tmp_path: Path) -> None:
    content = _pth(tmp_path, {"a": torch.ones(3)})
    row = row_with(mirror_source(hub.mirror("/m/net.pth", content), format="pth"))
    (tmp_path / "miil21k").mkdir()
    (tmp_path / "miil21k" / "converted").write_bytes(b"")  # a file where the folder should be
    assert fetch_safetensors(row, cache_dir=tmp_path).path.read_bytes() == content
