"""What a notebook shows of a prediction is text, whatever a name holds; the table of pandas is that of the CSV."""

from __future__ import annotations

import sys
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from miil21k import to_pandas
from miil21k.errors import MissingExtra
from miil21k.predict.prediction import AskedConcept, Bin, BinAnswer, Given, Node, Origin, Prediction, Stop

ORIGIN = Origin("embedded", "in1k", "0" * 64, "none", "torch", "cpu", "fp32")
CAT, TIGER, TABBY = Node("n1", "cat", 0.913), Node("n2", "tiger cat", 0.388), Node("n3", "tabby", 0.343)
ANSWER = Prediction("cat.jpg", ORIGIN, None, (CAT,), Stop("hedge", 0.9, False, TIGER, TABBY), (TIGER, TABBY))
FAILED = Prediction("b.jpg", ORIGIN, error="'b.jpg' is not an image.")


class _Seen(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data + "\n"


def seen(prediction: Prediction) -> _Seen:
    found = _Seen()
    found.feed(prediction._repr_html_())
    found.close()
    return found


def test_a_notebook_shows_path_rivals_and_classes() -> None:
    found = seen(ANSWER)
    lines = found.text.splitlines()
    assert lines[:3] == ["cat.jpg", "cat 0.91", "Not sure enough below it: tiger cat 0.39, tabby 0.34"]
    assert lines[3:9] == ["n2", "tiger cat", "0.388", "n3", "tabby", "0.343"]
    assert lines[-1] == "embedded · in1k · torch · cpu · fp32"
    assert "width:47px" in ANSWER._repr_html_()  # 0.388 of 120


def test_no_name_becomes_markup() -> None:
    evil = "<script>alert(1)</script>&\udcff\x1b[31m.jpg"
    bad = Node("<b>", '"><img src=x>', 0.5)
    for prediction in (replace(ANSWER, input=evil, path=(bad,), topk=(bad,)), replace(FAILED, input=evil, error=evil)):
        found = seen(prediction)
        assert not {"script", "img"} & set(found.tags)
        assert found.text.splitlines()[0] == "<script>alert(1)</script>&\\xff\\x1b[31m.jpg"
        assert prediction._repr_html_().encode()


def test_the_table_has_the_columns_and_cells_of_the_csv() -> None:
    given = replace(ANSWER, given=Given("under cat", 0.25))
    table = to_pandas([given, FAILED])
    assert table["given_probability"].tolist()[0] == 0.25
    assert table["top2_probability"].tolist()[0] == 0.343
    assert table["status"].tolist() == ["ok", "error"]
    assert table["top1_wnid"].isna().tolist() == [False, True]
    names = list(table.columns)
    assert names[:2] == ["input", "status"]
    assert names[-2:] == ["top2_name", "top2_probability"]
    more = replace(
        ANSWER,
        asked=(AskedConcept("birds", "n4", "bird", 0.125),),
        bins=BinAnswer((), 0.9, (Bin("pet", 0.5), Bin("other", 0.5))),
    )
    table = to_pandas([FAILED, more])
    assert table["asked_birds"].tolist()[1] == 0.125
    assert list(table.columns)[-2:] == ["bin_pet", "bin_other"]
    assert table["bin_pet"].isna().tolist() == [True, False]
    assert len(to_pandas(ANSWER)) == 1
    assert to_pandas([]).empty


def test_without_pandas_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingExtra, match=r"miil21k\[pandas\]"):
        to_pandas([ANSWER])
