"""The site of the documentation is built without a warning: every page in its place, every link leads somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest

from miil21k.zoo.manifest import load_manifest

pytest.importorskip("sphinx", reason="the extra 'docs' is not installed")
pytest.importorskip("myst_parser", reason="the extra 'docs' is not installed")
pytest.importorskip("furo", reason="the extra 'docs' is not installed")

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-d", str(tmp_path / "cache")]
    subprocess.run([*words, str(ROOT / "docs"), str(tmp_path / "site")], check=True)

    start = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert "Paste this into a fresh clone" in start
    commands = (tmp_path / "site" / "commands.html").read_text(encoding="utf-8")
    assert len(re.findall(r"<h2>miil21k [a-z]+", commands)) >= 20
    api = (tmp_path / "site" / "api" / "predict.html").read_text(encoding="utf-8")
    assert 'id="miil21k.Predictor.stream"' in api
    assert re.search(r'href="#miil21k\.Prediction"[^>]*><span class="pre">Prediction</span></a>', api)
    assert len(list((tmp_path / "site" / "cards").glob("*.html"))) == len(load_manifest().models) + 1
    assert broken_links(tmp_path / "site") == []


def broken_links(site: Path) -> list[str]:
    """Return the links inside the site that lead to no file, or to no place in it."""
    pages = {path: path.read_text(encoding="utf-8") for path in site.rglob("*.html")}
    places = {path.resolve(): set(re.findall(r'\bid="([^"]+)"', text)) for path, text in pages.items()}
    found = []
    for page, text in pages.items():
        for link in re.findall(r'\b(?:href|src)="([^"]+)"', text):
            path, _, place = (unquote(part) for part in link.partition("#"))
            target = (page.parent / path.partition("?")[0] if path else page).resolve()
            inside = not re.match(r"[a-z]+:|//", link)
            if inside and (not target.exists() or (place and place not in places.get(target, {place}))):
                found.append(f"{page.relative_to(site)}: {link}")
    return found


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<p id="here"><a href="#here"><a href="#there"><a href="b.html"><a href="https://x">'
    )
    assert broken_links(tmp_path) == ["a.html: #there", "a.html: b.html"]
