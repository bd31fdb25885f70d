"""Rows become bytes that other programs read, and whole rows are told from torn ones at every cut."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from writers.rows import row

from miil21k.errors import Miil21kError, UsageError
from miil21k.writers.formats import format_of
from miil21k.writers.layouts import JsonArray, JsonLines, Layout, Separated, utf8_text
from miil21k.writers.rows import Shape

LAYOUTS: dict[str, Layout] = {
    "jsonl": JsonLines(),
    "json": JsonArray(),
    "csv": Separated(",", Shape(3)),
    "tsv": Separated("\t", Shape(3)),
}
NAMES = st.lists(st.text(min_size=1, max_size=8).filter(lambda t: "\0" not in t), min_size=1, max_size=5)


def whole(layout: Layout, rows: list[dict[str, object]]) -> bytes:
    return layout.header + layout.separator.join(layout.encode(r) for r in rows) + layout.footer


class _Named(io.BytesIO):
    name = "rows"


@pytest.mark.parametrize("kind", LAYOUTS)
@given(names=NAMES, cut=st.floats(0, 1))
def test_a_file_cut_anywhere_gives_back_exactly_its_whole_rows(kind: str, names: list[str], cut: float) -> None:
    layout = LAYOUTS[kind]
    rows = [row(name, error="damaged\n,\"'\t" if number % 2 else None) for number, name in enumerate(names)]
    data = whole(layout, rows)
    start = len(layout.header)
    at = start + round(cut * (len(data) - start))
    found = list(layout.scan(_Named(data[:at]), start))
    expected, end = 0, start
    for number, r in enumerate(rows):
        end += len(layout.encode(r)) + (len(layout.separator) if number else 0)
        expected += end <= at
    assert len(found) == expected
    assert [utf8_text(f.input) for f in found] == [utf8_text(n) for n in names[:expected]]
    assert [f.ok for f in found] == [number % 2 == 0 for number in range(expected)]
    if found:
        assert data[: found[-1].end] == whole(layout, rows[:expected]).removesuffix(layout.footer)


def test_a_json_array_is_valid_when_it_is_complete() -> None:
    layout = JsonArray()
    assert json.loads(whole(layout, [row("a"), row("b")])) == [row("a"), row("b")]
    assert json.loads(whole(layout, [])) == []


def test_a_wide_line_has_the_documented_columns() -> None:
    layout = Separated(",", Shape(2))
    header, line = csv.reader(io.StringIO(whole(layout, [row('a,"b".jpg')]).decode(), newline=""))
    assert header == [
        *("input", "status", "error", "model", "label_space", "removed_labels", "wnid", "name"),
        *("path", "path_wnids", "path_probability", "stop"),
        *("top1_wnid", "top1_name", "top1_probability", "top2_wnid", "top2_name", "top2_probability"),
    ]
    cells = dict(zip(header, line, strict=True))
    assert cells["input"] == 'a,"b".jpg'
    assert cells["path"] == "animal > cat"
    assert (cells["name"], cells["path_probability"], cells["stop"]) == ("cat", "0.95", "hedge")
    assert (cells["top2_name"], cells["top2_probability"]) == ("Egyptian cat, big", "0.3")


def test_an_error_row_has_as_many_columns_and_no_answer() -> None:
    layout = Separated("\t", Shape(5))
    header, line = csv.reader(io.StringIO(whole(layout, [row("a", "bad")]).decode(), newline=""), delimiter="\t")
    cells = dict(zip(header, line, strict=True))
    assert (cells.pop("error"), cells.pop("status")) == ("bad", "error")
    assert {name for name, value in cells.items() if value} == {"input", "model", "label_space", "removed_labels"}


def test_a_file_name_that_is_no_utf8_survives_json_and_is_escaped_in_csv() -> None:
    name = b"\xff.jpg".decode("utf-8", "surrogateescape")
    assert json.loads(JsonLines().encode(row(name)))["input"] == name
    assert Separated(",", Shape(1)).encode(row(name)).startswith(b"\\udcff.jpg,ok,")


@pytest.mark.parametrize("kind", LAYOUTS)
def test_a_foreign_line_is_an_error_and_not_a_row(kind: str) -> None:
    layout = LAYOUTS[kind]
    data = layout.header + b'{"some": "thing"}\n' + b"x,y\n"
    with pytest.raises(Miil21kError, match="no prediction row"):
        list(layout.scan(_Named(data), len(layout.header)))


def test_the_extension_names_the_format() -> None:
    assert [format_of(Path(f"x.{e}")) for e in ("JSON", "ndjson", "csv", "tsv", "pq")] == [
        *("json", "jsonl", "csv", "tsv", "parquet")
    ]
    with pytest.raises(UsageError, match="names no format"):
        format_of(Path("rows.xls"))
