"""docs/models.md is what the manifest says today."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from miil21k.zoo.manifest import load_manifest

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).parent.parent.parent


def _generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("model_page", ROOT / "scripts" / "model_page.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_committed_page_is_up_to_date() -> None:
    committed = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    assert committed == _generator().page(), "run: python scripts/model_page.py"
    assert all(f"| `{w.name}` |" in committed for w in load_manifest().models)


def test_the_table_of_the_readme_is_up_to_date() -> None:
    committed = (ROOT / "README.md").read_text(encoding="utf-8")
    assert committed == _generator().readme(), "run: python scripts/model_page.py"
    assert all(f"| `{w.name}` |" in committed for w in load_manifest().models if w.label_space == "fall11")


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    _generator().draw(tmp_path / "models.svg")
    drawn = (tmp_path / "models.svg").read_text(encoding="utf-8")
    assert drawn == (ROOT / "docs" / "models.svg").read_text(encoding="utf-8") or drawn.count("<path") > 100
