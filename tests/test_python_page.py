"""docs/python.md shows what its examples print, and every public name with the first sentence of its docstring."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

import miil21k

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")


def written(*, slow: bool) -> str:
    spec = importlib.util.spec_from_file_location("python_page", ROOT / "scripts" / "python_page.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: str = module.page(slow=slow)
    return found


def test_the_page_is_what_its_examples_print() -> None:
    assert written(slow=False) == PAGE, "python scripts/python_page.py writes it anew"


@pytest.mark.slow
def test_the_examples_that_train_and_export_print_what_is_shown() -> None:
    assert written(slow=True) == PAGE


def test_every_public_name_stands_on_the_page() -> None:
    table = PAGE.split("<!-- names: written")[1]
    assert re.findall(r"^\| `(\w+)", table, re.MULTILINE) == [n for n in miil21k.__all__ if n != "__version__"]
