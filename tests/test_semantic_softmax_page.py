"""docs/softmax_per_level.md shows the numbers that the loss of training gives, and its picture can be drawn."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "semantic_softmax_page", ROOT / "scripts" / "semantic_softmax_page.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_page_and_picture_are_those_of_the_loss(script: ModuleType, tmp_path: Path) -> None:
    found = script.levels()
    written = script.page(found)
    assert written == script.PAGE.read_text(encoding="utf-8"), "run: python scripts/semantic_softmax_page.py"
    assert [row.name for row in found[:4]] == ["animal", "domestic animal", "domestic cat", None]
    for row in found:  # the cross-entropy of a level is minus the logarithm of the label's share, 0 where it is masked
        assert row.entropy == pytest.approx(-math.log(row.share) if row.name else 0.0, abs=1e-6)
    script.draw(tmp_path / "drawn.svg", found)
    drawn, committed = (path.read_text(encoding="utf-8") for path in (tmp_path / "drawn.svg", script.PICTURE))
    assert drawn.count('id="text_') == committed.count('id="text_') > 40
    assert "<image" in committed
