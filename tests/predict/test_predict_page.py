"""docs/predict.md says what is declared: options, the fields of a row, the columns of CSV."""

from __future__ import annotations

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def test_the_tables_of_the_page_are_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("predict_page", ROOT / "scripts" / "predict_page.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    committed = (ROOT / "docs" / "predict.md").read_text(encoding="utf-8")
    assert committed == module.page(), "run: python scripts/predict_page.py"
