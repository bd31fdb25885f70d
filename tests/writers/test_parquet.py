"""Parquet holds the same rows as the JSON, nested, and can be resumed and appended to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest
from writers.rows import inputs, row

from miil21k.errors import MissingExtra, UsageError
from miil21k.writers.output import already_done
from miil21k.writers.parquet import ParquetFile, journal_path
from miil21k.writers.rows import Shape

if TYPE_CHECKING:
    from pathlib import Path

NAMES = ["a.jpg", "b.jpg", "c.jpg"]


def rows(*names: str) -> list[dict[str, object]]:
    return [row(name, "bad" if name == "b.jpg" else None) for name in names]


def write(file: ParquetFile, names: list[str], finish: bool = True) -> None:
    file.begin({"model": "embedded"})
    for r in rows(*names):
        file.write(r)
    if finish:
        file.finish()
        file.settle()
    else:
        file.abandon()


def test_rows_come_back_as_they_went_in(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    write(ParquetFile(path, Shape(), {}, "refuse"), NAMES)
    assert pq.read_table(path).to_pylist() == rows(*NAMES)
    assert [p.name for p in tmp_path.iterdir()] == ["x.parquet"]


def test_a_kill_is_repaired_by_resume(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    write(ParquetFile(path, Shape(), {}, "refuse"), NAMES[:2], finish=False)
    assert not path.exists()
    with journal_path(path).open("ab") as journal:
        journal.write(b'{"schema": 1, "inp')
    file = ParquetFile(path, Shape(), {}, "resume")
    now, start = already_done(file.rows(), inputs(NAMES), skips=False, chunk=1, path=path)
    assert (now.rows, now.failed) == (2, 1)
    file.keep(start.end)
    write(file, NAMES[2:])
    assert pq.read_table(path).to_pylist() == rows(*NAMES)
    assert ParquetFile(path, Shape(), {}, "resume").complete
    assert [done.input for done in ParquetFile(path, Shape(), {}, "resume").rows()] == NAMES


def test_append_keeps_what_the_file_holds(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    write(ParquetFile(path, Shape(), {}, "append"), NAMES[:1])
    write(ParquetFile(path, Shape(), {}, "append"), NAMES[1:])
    assert pq.read_table(path).to_pylist() == rows(*NAMES)
    with pytest.raises(UsageError, match="other columns"):
        ParquetFile(path, Shape(labels=True), {}, "append")


def test_the_old_file_stands_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    write(ParquetFile(path, Shape(), {}, "refuse"), NAMES)
    with pytest.raises(UsageError, match="--overwrite"):
        ParquetFile(path, Shape(), {}, "refuse")
    write(ParquetFile(path, Shape(), {}, "overwrite"), NAMES[:1], finish=False)
    assert pq.read_table(path).num_rows == 3


def test_an_empty_run_and_odd_names_are_written(tmp_path: Path) -> None:
    write(ParquetFile(tmp_path / "none.parquet", Shape(), {}, "refuse"), [])
    assert pq.read_table(tmp_path / "none.parquet").num_rows == 0
    write(ParquetFile(tmp_path / "odd.parquet", Shape(), {}, "refuse"), ["\udcff.jpg"])
    assert pq.read_table(tmp_path / "odd.parquet")["input"].to_pylist() == ["\\udcff.jpg"]


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(MissingExtra, match=r"miil21k\[parquet\]"):
        ParquetFile(tmp_path / "x.parquet", Shape(), {}, "refuse")
