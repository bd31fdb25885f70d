"""The cache of proved exports: only whole ones of the right graph are found, and failures are remembered."""

from __future__ import annotations

import json
import logging
import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miil21k.runtime.export_cache import (
    Graph,
    ProvedExport,
    failure,
    find_proved,
    list_proved,
    note_failure,
    storing,
    verify_exports,
)
from miil21k.store.cache import Cache

if TYPE_CHECKING:
    from pathlib import Path

GRAPH = Graph("some.weights", "ab" * 32, (3, 224, 224), "cd" * 32, "onnx", "onnxruntime 1.31.0, x86 f00")


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache.at(tmp_path)


def store(cache: Cache, graph: Graph = GRAPH, content: bytes = b"graph") -> ProvedExport:
    with storing(cache, graph, {"seconds": 1.0}) as folder:
        (folder / "model.onnx").write_bytes(content)
        (folder / "model.onnx.data").write_bytes(bytes(1000))
    found = find_proved(cache, graph)
    assert found is not None
    return found


@given(st.sampled_from(Graph._fields))
def test_every_fact_of_the_graph_changes_its_key(name: str) -> None:
    value = getattr(GRAPH, name)
    other = (3, 256, 256) if name == "input_size" else value + 1 if isinstance(value, int) else value + "x"
    assert GRAPH._replace(**{name: other}).key != GRAPH.key
    assert GRAPH._replace().key == GRAPH.key


def test_every_file_of_an_export_is_on_the_disk(cache: Cache, synced: dict[int, int]) -> None:
    files = sorted(store(cache).folder.iterdir())
    assert [(path.name, synced.get(path.stat().st_ino)) for path in files] == [
        (path.name, path.stat().st_size) for path in files
    ]


def test_what_was_stored_is_found_and_listed(cache: Cache) -> None:
    assert find_proved(cache, GRAPH) is None
    found = store(cache)
    assert (found.graph, found.size, found.record["seconds"]) == (GRAPH, 1005, 1.0)
    assert found.model.read_bytes() == b"graph"
    assert find_proved(cache, GRAPH._replace(runtime="onnxruntime 1.32.0, x86 f00")) is None
    assert list(list_proved(cache)) == [found]


def test_a_later_one_replaces_it_and_an_exception_does_not(cache: Cache) -> None:
    store(cache)
    with pytest.raises(ZeroDivisionError), storing(cache, GRAPH, {}) as folder:
        (folder / "model.onnx").write_bytes(bytes(1 // 0))
    assert (found := find_proved(cache, GRAPH)) is not None
    assert found.model.read_bytes() == b"graph"
    assert store(cache, content=b"newer").model.read_bytes() == b"newer"
    assert [path.name for path in (cache.root / "exports").iterdir()] == [GRAPH.key]


def changed_byte(folder: Path) -> str:
    path = folder / "model.onnx.data"
    path.write_bytes(b"x" + bytes(999))
    os.utime(path, ns=(1, 1))
    return "model.onnx.data is not the file that was proved"


def cut(folder: Path) -> str:
    (folder / "model.onnx.data").write_bytes(bytes(10))
    return "model.onnx.data has 10 bytes instead of 1000"


def gone(folder: Path) -> str:
    (folder / "model.onnx").unlink()
    return "model.onnx is missing"


def no_record(folder: Path) -> str:
    (folder / "record.json").unlink()
    return "its record cannot be read"


def torn_record(folder: Path) -> str:
    (folder / "record.json").write_text('{"schema": 1, "graph"')
    return "its record cannot be read"


def foreign(folder: Path) -> str:
    record = json.loads((folder / "record.json").read_text())
    record["graph"]["weights_sha256"] = "ef" * 32
    (folder / "record.json").write_text(json.dumps(record))
    return "its record is of another folder"


@pytest.mark.parametrize("harm", [changed_byte, cut, gone, no_record, torn_record, foreign])
def test_what_is_damaged_or_foreign_is_left_out_and_said(harm, cache: Cache, caplog: pytest.LogCaptureFixture) -> None:
    expected = harm(store(cache).folder)
    with caplog.at_level(logging.WARNING):
        assert find_proved(cache, GRAPH) is None
    assert expected in caplog.text
    assert "is left out" in caplog.text
    assert store(cache).damage() is None, "another one takes its place"


def test_a_file_with_its_time_alone_changed_is_hashed_and_kept(cache: Cache) -> None:
    found = store(cache)
    os.utime(found.model, ns=(1, 1))
    assert find_proved(cache, GRAPH) == found


def test_verify_hashes_files_that_look_unchanged(cache: Cache) -> None:
    found = store(cache)
    path = found.folder / "model.onnx.data"
    stat = path.stat()
    path.write_bytes(b"x" + bytes(999))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert found.damage() is None
    assert found.damage(thorough=True) == "model.onnx.data is not the file that was proved: its SHA-256 is another one"
    assert [(f.path.name, f.status) for f in verify_exports(cache)] == [
        ("model.onnx", "ok"),
        ("model.onnx.data", "mismatch"),
    ]
    assert list(verify_exports(cache, "other.weights")) == []
    path.unlink()
    assert [f.sha256 for f in verify_exports(cache, GRAPH.name)][1] == "missing"


def test_a_failure_is_remembered_for_the_same_packages_until_it_succeeds(cache: Cache) -> None:
    assert failure(cache, GRAPH, {"torch": "2"}) is None
    note_failure(cache, GRAPH, "a bound was missed", {"torch": "2"})
    assert failure(cache, GRAPH, {"torch": "2"}) == "a bound was missed"
    assert failure(cache, GRAPH, {"torch": "3"}) is None
    assert failure(cache, GRAPH._replace(version=2), {"torch": "2"}) is None
    store(cache)
    assert failure(cache, GRAPH, {"torch": "2"}) is None
