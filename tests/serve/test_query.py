"""From the query of a request to the options of its answer."""

from __future__ import annotations

import argparse

import pytest

from miil21k.cli.predict import configure
from miil21k.errors import UsageError
from miil21k.predict.options import PredictOptions
from miil21k.serve.query import PARAMETERS, Asked, asked_of

USUAL = Asked(PredictOptions(topk=7, hedge=0.8, under=("n1",)), "name")


def test_no_parameters_change_nothing() -> None:
    assert asked_of(USUAL, []) == USUAL


def test_every_parameter_changes_its_option_and_nothing_else() -> None:
    query = [
        ("topk", "3"),
        ("threshold", "0.25"),
        ("no_hedge", "true"),
        ("level", "2"),
        ("levels", "1"),
        ("under", "n2"),
        ("under", "domestic cat"),
        ("classes", "n3, tabby,"),
        ("exclude", "n4"),
        ("rule", "min"),
        ("label_type", "path"),
    ]
    assert {name for name, _ in query} | {"hedge"} == set(PARAMETERS)
    options = PredictOptions(
        topk=3,
        threshold=0.25,
        hedge=None,
        max_depth=2,
        levels=True,
        under=("n2", "domestic cat"),
        classes=("n3", "tabby"),
        exclude=("n4",),
        rule="min",
    )
    assert asked_of(USUAL, query) == Asked(options, "path")
    assert asked_of(USUAL, [("hedge", "0.5"), ("no_hedge", "false")]).options.hedge == 0.5


def test_the_names_are_those_of_the_command_line() -> None:
    parser = argparse.ArgumentParser()
    configure(parser)
    flags = {flag for action in parser._actions for flag in action.option_strings}
    assert {f"--{name.replace('_', '-')}" for name in PARAMETERS} <= flags


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ([("hegde", "1")], "Did you mean 'hedge'"),
        ([("calibration", "/etc/passwd")], "No parameter 'calibration'"),
        ([("include_removed_labels", "true")], "No parameter"),
        ([("topk", "3"), ("topk", "4")], "'topk' is given twice"),
        ([("topk", "many")], "topk is a whole number, not 'many'"),
        ([("topk", "-1")], "topk is a whole number"),
        ([("topk", "0")], "topk must be at least 1"),
        ([("rule", "best")], "rule is coherent, min, sibling, product, not 'best'"),
        ([("topk", "9" * 5000)], "topk is a whole number"),
        ([("hedge", "1.5")], "hedge lies above 0 and up to 1, not 1.5"),
        ([("hedge", "nan")], "hedge lies above 0"),
        ([("hedge", "high")], "hedge is a number between 0 and 1, not 'high'"),
        ([("threshold", "2")], "threshold lies between 0 and 1"),
        ([("hedge", "0.9"), ("no_hedge", "1")], "exclude each other"),
        ([("levels", "perhaps")], "levels is true or false"),
        ([("under", " ")], "under is a wnid or a name"),
        ([("classes", ",")], "classes is a list"),
        ([("label_type", "emoji")], "label_type is wnid, name, detailed, path"),
    ],
)
def test_what_makes_no_sense_is_one_sentence(query: list[tuple[str, str]], words: str) -> None:
    with pytest.raises(UsageError) as error:
        asked_of(USUAL, query)
    assert words in str(error.value)
