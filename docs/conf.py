"""The site of the documentation: `python -m sphinx -W --keep-going docs site`, from the pages of this folder.

Sphinx with MyST: the pages stay plain Markdown that a code host shows as well, links between them and to headings are
checked, and warnings are errors.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from miil21k import __version__
from miil21k.cli.main import PARTS, VERBS, verb_parser

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sphinx.application import Sphinx

project = "miil21k"
author = "The miil21k authors"
version = release = __version__
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_commands.md"]
myst_heading_anchors = 4
html_theme = "furo"
html_title = f"miil21k {version}"
html_copy_source = False


def _sections() -> Iterator[str]:
    """Yield one section per verb and per part of a verb, as `--help` prints it."""
    os.environ["COLUMNS"] = "100"
    for verb in VERBS:
        yield from _section(verb_parser(verb, f"miil21k {verb}"))
        for part in PARTS.get(verb, ()):
            yield from _section(verb_parser(f"{verb}_{part}", f"miil21k {verb} {part}"))


def _section(parser: argparse.ArgumentParser) -> Iterator[str]:
    yield f"## {parser.prog}\n\n```text\n{parser.format_help()}```\n"
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from _section(below)


Path(__file__).with_name("_commands.md").write_text("\n".join(_sections()), encoding="utf-8")

# Pages that lie outside this folder are shown by one here that includes them.
OUTSIDE = {
    "../BENCHMARKS.md": "benchmarks.md",
    "../CHANGELOG.md": "changelog.md",
    "../CONTRIBUTING.md": "contributing.md",
    "../benchmarks/results/concept_reading.md": "concept_reading.md",
    "../benchmarks/results/reading_of_heads.md": "reading_of_heads.md",
    "../benchmarks/results/semantic_softmax.md": "semantic_softmax.md",
}


def _lead_inside(_app: object, _page: str, content: list[str]) -> None:
    for outside, inside in OUTSIDE.items():
        content[0] = content[0].replace(f"]({outside}", f"]({inside}")


def _lead_inside_of_included(_app: object, _path: object, _parent: str, content: list[str]) -> None:
    """Do so for what is included, whose links start at the root."""
    for outside, inside in OUTSIDE.items():
        content[0] = content[0].replace(f"]({outside.removeprefix('../')}", f"](docs/{inside}")


def setup(app: Sphinx) -> None:
    """Let links to pages outside of this folder lead to those that include them."""
    app.connect("source-read", _lead_inside)
    app.connect("include-read", _lead_inside_of_included)
