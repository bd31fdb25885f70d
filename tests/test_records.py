"""Every way in which a JSON file can be wrong ends in one sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pytest

from miil21k.records import StrictJsonError, parse, read_json

if TYPE_CHECKING:
    from pathlib import Path


class Inner(NamedTuple):
    """A record in a record."""

    weight: float
    note: str | None = None


class Outer(NamedTuple):
    """A record."""

    name: str
    parts: tuple[Inner, ...] = ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 100_000, "nested deeper than 64 levels"),
        ("[" * 65 + "]" * 65, "nested deeper than 64 levels"),
        ('{"a":' * 65 + "1" + "}" * 65, "nested deeper than 64 levels"),
        ("1e400", "larger than any"),
        ("-1e400", "larger than any"),
        ('{"a": [1e999]}', "larger than any"),
        ("NaN", "the number NaN, which is no JSON"),
        ("[-Infinity]", "the number -Infinity"),
        ("9" * 5000, "a whole number of 5,000 digits"),
        ("0." + "9" * 5000, "a number of 5,002 digits"),
        ('{"a": 1, "b": 2, "a": 3}', "the key 'a' twice"),
        ("", "no JSON: Expecting value in line 1, column 1"),
        ('{"a": 1,\n "b" 2}', "in line 2, column 6"),
        ("[1] [2]", "no JSON: Extra data"),
        ('"\x00"', "no JSON"),
        (b"\xff\xfe{}", "no text in UTF-8"),
    ],
)
def test_what_is_no_strict_json_is_one_sentence(tmp_path: Path, text: str | bytes, words: str) -> None:
    with pytest.raises(StrictJsonError, match=words) as caught:
        parse(text)
    path = tmp_path / "x\x1b.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(StrictJsonError) as of_file:
        read_json(path)
    assert str(of_file.value) == f"'{tmp_path}/x\\x1b.json' is damaged: {caught.value.found}."
    assert "\n" not in str(of_file.value)


def test_what_is_strict_json_is_read() -> None:
    assert parse('\ufeff{"a": [1, 2.5, -1e-400, null, true, "\\u00e4"]}'.encode()) == {
        "a": [1, 2.5, 0, None, True, "ä"]
    }
    assert parse("[" * 64 + "]" * 64)
    assert parse("9" * 40) == int("9" * 40)


def test_a_file_that_is_too_long_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(" " * 1001, encoding="utf-8")
    with pytest.raises(StrictJsonError, match="larger than the 1,000 bytes"):
        read_json(path, max_bytes=1000)
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "none.json")


def test_a_record_says_where_it_does_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"name": "a", "parts": [{"weight": 1}, {"weight": 2, "note": "b"}]}', encoding="utf-8")
    assert read_json(path, Outer) == Outer("a", (Inner(1), Inner(2, "b")))
    for text, words in {
        '{"name": "a", "parts": [{"weight": 1}, {"weight": "2"}]}': "at 'parts[1].weight': expected float, found '2'",
        '{"name": "a", "\x1b\\u001bpart": 1}': "unknown key '\\\\x1b",
        '{"parts": []}': "missing key 'name'",
        "[]": "expected an object, found a list of 0",
    }.items():
        path.write_text(text.replace("\x1b", ""), encoding="utf-8")
        with pytest.raises(StrictJsonError, match=words.replace("[", r"\[").replace("]", r"\]")):
            read_json(path, Outer)
