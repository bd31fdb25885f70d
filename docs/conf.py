"""The site of the documentation: `python -m sphinx -W --keep-going docs site`, from the pages of this folder.

Sphinx with MyST: the pages stay plain Markdown that a code host shows as well, links between them and to headings are
checked, and warnings are errors. Pages that are made from the code are written by `site_pages` while the site is built.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from site_pages import api, cards, commands, manifest_schema  # noqa: E402 - beside this file

from miil21k import __version__  # noqa: E402

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "miil21k"
author = "The miil21k authors"
version = release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_commands.md", "site_pages"]
myst_heading_anchors = 4
autodoc_member_order = "bysource"
python_maximum_signature_line_length = 88
html_theme = "furo"
html_title = f"miil21k {version}"
html_copy_source = False
html_static_path = ["static"]
html_css_files = ["site.css"]


def _write(path: str, text: str) -> None:
    """Write a page where it says something else, so that a second build reads what has changed only."""
    target = HERE / path
    target.parent.mkdir(exist_ok=True)
    if not target.exists() or target.read_text(encoding="utf-8") != text:
        target.write_text(text, encoding="utf-8")


_write("_commands.md", commands.commands())
_write("manifest.md", manifest_schema.page())
_write("weights_manifest.schema.json", json.dumps(manifest_schema.json_schema(), indent=2) + "\n")
for folder, written in (("api", api.pages()), ("cards", cards.cards())):
    for name, text in written.items():
        _write(f"{folder}/{name}", text)
    for left in {path.name for path in (HERE / folder).glob("*.md")} - set(written):
        (HERE / folder / left).unlink()

# Pages that lie outside this folder are shown by one here that includes them.
OUTSIDE = {
    "../BENCHMARKS.md": "benchmarks.md",
    "../CHANGELOG.md": "changelog.md",
    "../CONTRIBUTING.md": "contributing.md",
    "../SECURITY.md": "security.md",
    "../benchmarks/results/concept_reading.md": "concept_reading.md",
    "../benchmarks/results/reading_of_heads.md": "reading_of_heads.md",
    "../benchmarks/results/semantic_softmax.md": "semantic_softmax.md",
}


def _lead_inside(_app: object, page: str, content: list[str]) -> None:
    for outside, inside in OUTSIDE.items():
        content[0] = content[0].replace(f"]({outside}", f"]({inside}")
    if page == "models":
        for stem, name in cards.stems():
            content[0] = content[0].replace(f"\n| `{name}` |", f"\n| [`{name}`](cards/{stem}.md) |")


def _lead_inside_of_included(_app: object, _path: object, _parent: str, content: list[str]) -> None:
    """Do so for what is included, whose links start at the root."""
    for outside, inside in OUTSIDE.items():
        content[0] = content[0].replace(f"]({outside.removeprefix('../')}", f"](docs/{inside}")


def setup(app: Sphinx) -> None:
    """Let links to pages outside of this folder lead to those that include them."""
    app.connect("source-read", _lead_inside)
    app.connect("include-read", _lead_inside_of_included)
    api.setup(app)
