"""What README.md shows is what happens."""

from __future__ import annotations

import contextlib
import io
import os
import re
from pathlib import Path

import pytest

from miil21k.cli.main import predict_main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COLUMNS", "80")
    # As after the installation that the page shows: without the packages that make an export, torch answers.
    monkeypatch.setattr("miil21k.runtime.export_cache.PACKAGES", ("not_installed_here",))


def _block_after(text: str, language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", README.split(text, 1)[1], re.DOTALL)
    assert found is not None
    return found[1]


def test_the_first_command_prints_what_is_shown(tmp_path: Path) -> None:
    command = _block_after("Paste this into a fresh clone", "bash").split(" && ")[2]
    assert command.startswith(".venv/bin/miil21k-predict ")
    words = command.replace("pictures", os.fspath(tmp_path)).split()[1:]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert predict_main(words) == 0
    shown = [line.rstrip() for line in printed.getvalue().strip().splitlines()]
    assert shown == _block_after("Paste this into a fresh clone", "text").strip().splitlines()
    assert len(list(tmp_path.glob("*.png"))) == 1


def test_the_six_lines_of_python_print_what_is_shown() -> None:
    printed = io.StringIO()
    code = _block_after("In Python:", "python")
    assert len([line for line in code.splitlines() if line]) == 5
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), {})
    assert printed.getvalue() == _block_after("In Python:", "text")


def test_every_page_that_is_linked_exists() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert len(links) >= 8
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []
