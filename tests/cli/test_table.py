"""What a file name, a label space or an error brings along does not reach the terminal as a command."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from miil21k.cli.table import Table, given_sentence, shortened, stop_sentence
from miil21k.predict.prediction import AskedConcept, Bin, BinAnswer, Given, LevelLabel, Node, Origin, Prediction, Stop

if TYPE_CHECKING:
    from pathlib import Path

EVIL = "a\x1b]0;owned\x07\u202eb"
ORIGIN = Origin(EVIL, EVIL, "0" * 64, "none", "onnx", "cpu", "float32")
NODE = Node("n1", EVIL, 0.75)
ANSWERED = Prediction(
    EVIL,
    ORIGIN,
    path=(NODE, NODE),
    stop=Stop("hedge", 0.9, False, NODE, NODE),
    topk=(NODE,),
    levels=(LevelLabel(0, NODE, True),),
    given=Given(EVIL, 0.5),
    asked=(AskedConcept(EVIL, "n2", EVIL, 0.25),),
    concepts=(NODE,),
    bins=BinAnswer((Bin(EVIL, 0.95),), 0.9, (Bin(EVIL, 0.95), Bin("other", 0.05))),
)
FAILED = Prediction(EVIL, ORIGIN, error=f"'{EVIL}' is not an image.")


@pytest.mark.parametrize("prediction", [ANSWERED, ANSWERED.__class__(EVIL, ORIGIN, stop=ANSWERED.stop), FAILED])
@pytest.mark.parametrize("single", [True, False])
@pytest.mark.parametrize("label", [None, lambda wnid: EVIL])
def test_the_terminal_gets_text_alone(prediction: Prediction, single: bool, label: object) -> None:
    table = Table(single=single, colour=False, label=label, width=100)
    text = table.text(prediction)
    assert all(c.isprintable() or c == "\n" for c in text)
    assert "\\x1b]0;owned\\x07" in text


def test_a_sentence_names_the_level_that_decided_and_the_restriction() -> None:
    cat = Node("n2", "cat", 0.4)
    assert stop_sentence(Stop("hedge", 0.9, False, cat, None, 0.9), ()) == "Nothing is 0.9 sure: cat 0.40."
    assert stop_sentence(Stop("hedge", 0.9, True, cat, None, 0.592), (cat,)) == (
        "Nothing below it is 0.592 sure, which 0.9 right answers take: cat 0.40."
    )
    assert given_sentence(Given("under bird", 0.0021)) == (
        "Given the restriction (under bird), whose own probability is 0.002."
    )


def test_what_was_asked_stands_below_the_answer() -> None:
    cat, bird = Node("n2", "cat", 0.8), AskedConcept("birds", "n3", "bird", 0.0021)
    prediction = Prediction("a.jpg", ORIGIN, path=(cat,), asked=(bird,), concepts=(cat,), stop=ANSWERED.stop)
    line, asked, concepts = Table(single=False, colour=False, width=80).text(prediction).splitlines()
    assert line.split() == ["a.jpg", "0.80", "cat"]
    assert (asked.strip(), concepts.strip()) == ("birds (bird) 0.002", "cat 0.800")
    card = Table(single=True, colour=False, width=80).text(prediction)
    assert "n3         birds (bird)  0.002" in card
    assert "concepts, the most informative first\n  n2         cat  0.800" in card


def test_the_answer_in_own_labels_stands_below_the_other() -> None:
    labels = tuple(Bin(f"label {number}", number / 100) for number in range(30))
    bins = BinAnswer((labels[2], labels[1]), 0.9, labels)
    prediction = Prediction("a.jpg", ORIGIN, path=(Node("n2", "cat", 0.8),), bins=bins, stop=ANSWERED.stop)
    _, line = Table(single=False, colour=False, width=80).text(prediction).splitlines()
    assert line.strip() == "in your labels: label 2 > label 1 0.010"
    card = Table(single=True, colour=False, width=80).text(prediction)
    shown = [line.split()[1] for line in card.splitlines() if line.strip().startswith("label ")]
    assert shown == ["1", "2", *map(str, range(20, 30))]  # the path, and the ten most probable ones of 28
    none = replace(prediction, bins=bins._replace(path=()))
    assert "in your labels: none is 0.9 sure" in Table(single=True, colour=False, width=80).text(none)


def test_an_error_of_any_verb_is_text_alone(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "miil21k", "tree", "show", "x\x1b[31m\nmiil21k: all is well"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert "x\\x1b[31m\n  miil21k: all is well" in done.stderr


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("animal > cat", "animal > cat        "),
        ("animal > domestic animal > cat", "animal > …imal > cat"),
        ("animal > domestic animal > domestic cat > tiger cat", "animal … > tiger cat"),
        ("a > an answer of many words", "…nswer of many words"),
        ("no path but a long sentence", "no path but a long …"),
    ],
)
def test_a_path_that_is_too_long_keeps_its_end(text: str, shown: str) -> None:
    assert shortened(text, 20) == shown
