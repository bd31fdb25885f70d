"""Write the tables of docs/training.md from what is declared: the options of a run and the fields of a recipe."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from predict_page import option_table  # noqa: E402 - beside this file

from miil21k.train.options import TrainRequest  # noqa: E402 - the clone's package, installed or not
from miil21k.train.recipe import Recipe  # noqa: E402

PAGE = ROOT / "docs" / "training.md"
TABLES = {"options": TrainRequest, "fields": Recipe}


def page() -> str:
    """Return the page as it should be."""
    text = PAGE.read_text(encoding="utf-8")
    for name, of in TABLES.items():
        opening, closing = f"<!-- {name}: written by scripts/training_page.py -->\n", f"<!-- /{name} -->"
        written = opening + "\n".join(option_table(of)) + "\n" + closing
        pattern = re.escape(opening) + ".*?" + re.escape(closing)
        text, found = re.subn(pattern, lambda _, written=written: written, text, flags=re.DOTALL)
        assert found == 1, f"docs/training.md has no place for '{name}'"
    return text


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
