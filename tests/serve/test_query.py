"""From the query of a request to the options of its answer."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from miil21k.cli.predict import configure
from miil21k.decode.rules import RULES
from miil21k.errors import UsageError
from miil21k.hierarchy.bin_lines import BinLine
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
        ("read", "concepts"),
        ("min_bits", "2.5"),
        ("level", "2"),
        ("levels", "1"),
        ("multi", "true"),
        ("under", "n2"),
        ("under", "domestic cat"),
        ("classes", "n3, tabby,"),
        ("exclude", "n4"),
        ("ask", "dog, dog.n.01"),
        ("min_node", "0.5"),
        ("bins", "label,concept\npet,dog\npet,cat"),
        ("rule", "min"),
        ("label_type", "path"),
        ("heat", "dog"),
    ]
    assert {name for name, _ in query} | {"hedge"} == set(PARAMETERS)
    options = PredictOptions(
        topk=3,
        threshold=0.25,
        hedge=None,
        reading="concepts",
        min_bits=2.5,
        max_depth=2,
        levels=True,
        multi=True,
        under=("n2", "domestic cat"),
        classes=("n3", "tabby"),
        exclude=("n4",),
        ask=("dog", "dog.n.01"),
        min_node=0.5,
        bins=[BinLine("pet", "dog", line=2), BinLine("pet", "cat", line=3)],
        rule="min",
    )
    assert asked_of(USUAL, query) == Asked(options, "path", "dog")
    assert asked_of(USUAL, [("hedge", "0.5"), ("no_hedge", "false")]).options.hedge == 0.5


def test_type_bounds_and_meaning_are_those_that_the_option_declares() -> None:
    schemas = {name: parameter.schema for name, parameter in PARAMETERS.items()}
    assert schemas["topk"] == {"type": "integer", "minimum": 1, "maximum": 999_999_999}
    assert schemas["level"] == {"type": "integer", "minimum": 0, "maximum": 999_999_999}
    assert schemas["threshold"] == {"type": "number", "minimum": 0, "maximum": 1}
    assert schemas["hedge"] == {"type": "number", "exclusiveMinimum": 0, "maximum": 1}
    assert schemas["levels"] == schemas["no_hedge"] == {"type": "boolean"}
    assert schemas["rule"] == {"type": "string", "enum": list(RULES)}
    assert PARAMETERS["topk"].meaning == "how many classes"
    assert PARAMETERS["no_hedge"].meaning == "follow the path down to a leaf, sure or not"


def test_a_list_of_the_query_names_no_file_of_the_server(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("n02084071\n")
    asked = asked_of(USUAL, [("classes", str(tmp_path / "secret.txt"))])
    assert asked.options.classes == (str(tmp_path / "secret.txt"),)
    assert "file" not in PARAMETERS["classes"].meaning


def test_the_page_names_every_parameter() -> None:
    page = (Path(__file__).parent.parent.parent / "docs" / "serve.md").read_text(encoding="utf-8")
    rows = "".join(re.findall(r"^\| (.*?) \|", page.partition("| parameter |")[2], re.MULTILINE))
    assert [name for name in PARAMETERS if f"`{name}" not in rows] == []


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
        ([("rule", "best")], "rule must be coherent or min or sibling or product, not 'best'"),
        ([("topk", "9" * 5000)], "topk is a whole number"),
        ([("hedge", "1.5")], "hedge lies above 0 and up to 1, not 1.5"),
        ([("hedge", "nan")], "hedge lies above 0"),
        ([("hedge", "high")], "hedge is a number, not 'high'"),
        ([("threshold", "2")], "threshold lies between 0 and 1"),
        ([("hedge", "0.9"), ("no_hedge", "1")], "exclude each other"),
        ([("levels", "perhaps")], "levels is true or false"),
        ([("under", " ")], "under is a wnid or a name"),
        ([("classes", ",")], "classes is a list"),
        ([("label_type", "emoji")], "label_type must be wnid or name or detailed or path, not 'emoji'"),
    ],
)
def test_what_makes_no_sense_is_one_sentence(query: list[tuple[str, str]], words: str) -> None:
    with pytest.raises(UsageError) as error:
        asked_of(USUAL, query)
    assert words in str(error.value)
