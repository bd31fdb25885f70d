"""What a terminal would act on is written out, and every script stays as it is."""

from __future__ import annotations

import os

import pytest

from miil21k.text import did_you_mean, duration, near_names, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain.jpg", "plain.jpg"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("\x9b31m", "\\x9b31m"),
        ("a\nb\rc\td\x00\x7f", "a\\nb\\rc\\td\\x00\\x7f"),
        ("\u202egpj.exe\u2066", "\\u202egpj.exe\\u2066"),
        ("a\u2028b\ufeffc", "a\\u2028b\\ufeffc"),
        ("\U000e0041", "\\U000e0041"),
        (os.fsdecode(b"caf\xe9.jpg"), "caf\\xe9.jpg"),
        ("\ud800", "\\ud800"),
        ("犬\u3000柴.jpg", "犬\u3000柴.jpg"),
        (
            "可愛い e\u0301 \U0001f468\u200d\U0001f469\u200d\U0001f467",
            "可愛い e\u0301 \U0001f468\u200d\U0001f469\u200d\U0001f467",
        ),
    ],
)
def test_controls_are_written_out(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_a_line_from_elsewhere_never_begins_one_of_ours() -> None:
    assert printable("one\nerror: two\x07", lines=True) == "one\n  error: two\\x07"


def test_a_value_is_shown_as_its_text() -> None:
    assert printable(ValueError("a\x1bb")) == "a\\x1bb"


def test_the_nearest_name_is_offered_in_its_own_spelling() -> None:
    known = ["Predict", "prepare", "serve"]
    assert did_you_mean("predikt", known) == " Did you mean 'Predict'?"
    assert did_you_mean("xyz", known) == ""
    assert near_names("pre", ["prep", "pred", "tree"]) == ["prep", "pred"]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "1 second"), (119, "119 seconds"), (120, "2 minutes"), (7200, "2 hours"), (3e5, "3 days")],
)
def test_a_length_of_time_is_in_the_largest_unit_of_which_there_are_two(seconds: float, words: str) -> None:
    assert duration(seconds) == words
