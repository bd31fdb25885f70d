"""Every benchmark starts with what there is now: its own lines run only when somebody measures."""

from __future__ import annotations

import ast
import importlib
import re
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "benchmarks"
SCRIPTS = sorted(path for path in FOLDER.glob("*.py") if "__main__" in path.read_text(encoding="utf-8"))
# Packages whose distribution bears another name. torchvision comes with timm, turbojpeg is tried and gone without.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "skimage": "scikit-image",
    "torchvision": "timm",
    "sklearn": "scikit-learn",
}
TRIED = {"turbojpeg"}


def imports(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    plain = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    return plain | {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_every_script_says_what_it_takes(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in imports(path) & {"duckdb", "playwright.sync_api", "psutil", "usearch.index"}:
        pytest.importorskip(name, reason="the extra 'bench' is not installed")
    siblings = [other.stem for other in FOLDER.glob("*.py")]
    for name in siblings:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.setattr(sys, "argv", [path.name, "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(path), run_name="__main__")
    for name in siblings:
        sys.modules.pop(name, None)
    assert ended.value.code == 0
    assert "usage: " in capsys.readouterr().out


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_every_name_of_ours_that_a_script_imports_exists(path: Path) -> None:
    """Also those that functions import, and those in the code that a script hands to another process."""
    text = path.read_text(encoding="utf-8")
    lines = re.findall(r"from (miil21k[\w.]*) import (?:\(([^)]*)\)|([\w, ]+))", text)
    for module, several, line in lines:
        for name in re.findall(r"\w+", several or line):
            found = importlib.import_module(module)
            assert hasattr(found, name) or importlib.import_module(f"{module}.{name}"), f"{module}.{name}"


def test_the_extra_bench_brings_what_the_scripts_import() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    lists = dict(re.findall(r"^([a-z]+) = \[([^\]]*(?:\[[^\]]*\][^\]]*)*)\]$", project, re.MULTILINE))

    def brought(extra: str) -> set[str]:
        entries = re.findall(r'"([\w.-]+)(?:\[([\w,]+)\])?[^"]*"', lists[extra])
        inner = [name for package, extras in entries if package == "miil21k" for name in extras.split(",")]
        return {package for package, _ in entries}.union(*map(brought, inner))

    installed = {name.lower().replace("_", "-") for name in brought("bench") | brought("dependencies")}
    ours = {path.stem for path in FOLDER.glob("*.py")} | set(sys.stdlib_module_names) | {"miil21k"}
    wanted = {name.partition(".")[0] for path in FOLDER.glob("*.py") for name in imports(path)} - ours - TRIED
    assert {"skimage", "psutil", "ray"} <= wanted
    assert {DISTRIBUTIONS.get(name, name).lower() for name in wanted} <= installed
