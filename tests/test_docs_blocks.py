"""Every block of code in README.md, docs/ and examples/ is run, or tests/docs_not_run.tsv says why it is not."""

from __future__ import annotations

import ast
import csv
import re
from typing import TYPE_CHECKING

import pytest
from docs_blocks import (
    ROOT,
    RUNS,
    SHOWN,
    blocks,
    commands,
    given,
    missing_of,
    pages,
    prepared,
    refused,
    run_command,
    run_python,
    words_of,
)

if TYPE_CHECKING:
    from pathlib import Path

PAGES = pages()
LIST = ROOT / "tests" / "docs_not_run.tsv"
with LIST.open(encoding="utf-8", newline="") as file:
    NOT_RUN = {
        (row["page"], row["first line"]): row["why"]
        for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
    }
SLOW = {"docs/tutorial_classes.md", "docs/tutorial_tree.md", "docs/tutorial_deploy.md"}  # they train and export
COOKBOOK = "docs/howto"  # its commands are run, and its text compared, by tests/examples
EVERY = [block for page in PAGES for block in blocks(page)]
RUN = [
    block
    for block in EVERY
    if block.language in RUNS and block.name not in NOT_RUN and not block.page.startswith(COOKBOOK)
]
by_page = [
    pytest.param(page, marks=pytest.mark.slow if page in SLOW else (), id=page)
    for page in dict.fromkeys(block.page for block in RUN)
]


def test_every_block_says_what_language_it_is() -> None:
    assert [block.name for block in EVERY if block.language not in RUNS + SHOWN] == []
    assert len(EVERY) > 100


def test_the_list_names_blocks_that_are_there_and_says_why() -> None:
    known = {block.name for block in EVERY if block.language in RUNS}
    assert [name for name in NOT_RUN if name not in known] == [], f"{LIST} names blocks that are gone"
    assert [name for name, why in NOT_RUN.items() if not why] == []
    others = [why.removeprefix("run by ") for why in NOT_RUN.values() if why.startswith("run by ")]
    assert [path for path in others if not (ROOT / path).exists()] == []


def test_every_command_of_the_cookbook_is_in_its_tests() -> None:
    tests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests" / "examples").glob("test_*.py"))
    starts = tuple(re.findall(r'(?:prints_what_the_page_shows|shown)\(\s*PAGE,\s*f?"([^"]+)"', tests))
    lines = [command.line for block in EVERY if block.page.startswith(COOKBOOK) for command in commands(block)]
    scripts = set(re.findall(r"\w+\.(?:py|sh)", tests))
    untested = (line for line in lines if not line.startswith(starts))
    assert [line for line in untested if not scripts & set(re.findall(r"\w+\.(?:py|sh)", line))] == []


@pytest.mark.parametrize("page", by_page)
def test_what_the_page_shows_happens(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(prepared(tmp_path))
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("MIIL21K_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("miil21k.runtime.export_cache.PACKAGES", ("not_installed_here",))
    values = given(page)
    for block in (block for block in RUN if block.page == page):
        if block.language == "python":
            run_python(block, values)
        else:
            for command in commands(block):
                run_command(command, capfd, apart=page in SLOW)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_are_taken_by_their_parsers_and_python_compiles(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(prepared(tmp_path))
    for block in blocks(page):
        if block.language == "python":
            ast.parse(block.code)
        elif block.language in RUNS:
            for command in commands(block):
                for words in words_of(command.line):
                    if "..." not in words:
                        assert refused(words) is None, f"{block.page}: {command.line}"


def test_a_block_of_a_console_is_read_as_commands_with_their_output() -> None:
    shown = ("a", "...", "c ... e")
    assert missing_of(shown, "x\na\nb\nc d e\n", "") is None
    assert missing_of(shown, "a\n", "c d e\n") is None
    assert missing_of(shown, "a\n", "c d\n") == "c ... e\n"
    assert missing_of(("a", "b"), "a\nx\nb\n") == "a\nb\n"
    assert list(words_of("echo 1 && miil21k tree show | head; miil21k-predict a > b # c")) == [
        ["miil21k", "tree", "show"],
        ["miil21k-predict", "a"],
    ]
    assert refused(["miil21k", "predict", "a.jpg", "--no-such-flag"]) == "unrecognized arguments: --no-such-flag"
    assert refused(["miil21k", "tree", "--help"]) is None
