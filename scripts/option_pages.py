"""Write the tables of options in the pages of docs/ from what is declared."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from predict_page import option_table  # noqa: E402 - beside this file

from miil21k.benchmark.options import BenchmarkOptions  # noqa: E402 - the clone's package, installed or not
from miil21k.export.options import (  # noqa: E402
    EngineOptions,
    ExportOptions,
    QuantizeOptions,
    TritonOptions,
)
from miil21k.prepare.options import PrepareOptions  # noqa: E402
from miil21k.train.options import TrainRequest  # noqa: E402
from miil21k.train.recipe import Recipe  # noqa: E402
from miil21k.transfer.options import CompareOptions, SuiteOptions, TransferOptions  # noqa: E402

# page -> the places of its tables, and what each shows
PAGES = {
    "training.md": {"options": TrainRequest, "fields": Recipe},
    "benchmark.md": {"options": BenchmarkOptions},
    "transfer.md": {"options": TransferOptions, "compare": CompareOptions, "suite": SuiteOptions},
    "prepare.md": {"options": PrepareOptions},
    "export.md": {
        "export": ExportOptions,
        "quantize": QuantizeOptions,
        "engine": EngineOptions,
        "triton": TritonOptions,
    },
}


def page(name: str) -> str:
    """Return the page as it should be."""
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    for place, of in PAGES[name].items():
        opening, closing = f"<!-- {place}: written by scripts/option_pages.py -->\n", f"<!-- /{place} -->"
        written = opening + "\n".join(option_table(of)) + "\n" + closing
        pattern = re.escape(opening) + ".*?" + re.escape(closing)
        text, found = re.subn(pattern, lambda _, written=written: written, text, flags=re.DOTALL)
        assert found == 1, f"docs/{name} has no place for '{place}'"
    return text


if __name__ == "__main__":
    for name in PAGES:
        (ROOT / "docs" / name).write_text(page(name), encoding="utf-8")
