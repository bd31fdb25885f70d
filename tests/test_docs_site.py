"""The site of the documentation is built without a warning: every page in its place, every link leads somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

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
