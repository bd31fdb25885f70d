"""Write the tables of docs/predict.md from what is declared: options, the fields of a row, the columns of CSV."""

from __future__ import annotations

import re
import sys
from dataclasses import MISSING
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from miil21k.data.options import ReadingOptions  # noqa: E402 - the clone's package, installed or not
from miil21k.options import declared  # noqa: E402
from miil21k.predict.options import AnswerOptions, RunOptions  # noqa: E402
from miil21k.runtime.options import ComputeOptions, ModelOptions  # noqa: E402
from miil21k.writers.rows import NODE, ROW, Shape, cells  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

    from miil21k.options import Option
    from miil21k.writers.rows import Struct

PAGE = ROOT / "docs" / "predict.md"
CLASSES = {
    "Which network": ModelOptions,
    "How images are read": ReadingOptions,
    "What is answered": AnswerOptions,
    "What computes": ComputeOptions,
    "The run": RunOptions,
}


def page() -> str:
    """Return the page as it should be."""
    text = PAGE.read_text(encoding="utf-8")
    for name, lines in (("rows", _fields(ROW)), ("nodes", _fields(NODE)), ("columns", _columns()), ("options", _all())):
        opening, closing = f"<!-- {name}: written by scripts/predict_page.py -->\n", f"<!-- /{name} -->"
        pattern = re.escape(opening) + ".*?" + re.escape(closing)
        written = opening + "\n".join(lines) + "\n" + closing
        text, found = re.subn(pattern, lambda _, written=written: written, text, flags=re.S)
        assert found == 1, f"docs/predict.md has no place for '{name}'"
    return text


def _fields(of: Struct) -> Iterator[str]:
    yield "| field | value |"
    yield "|---|---|"
    yield from (f"| `{field.name}` | {field.meaning} |" for field in of.fields)


def _columns() -> Iterator[str]:
    plain = [name for name, _ in cells(Shape(topk=2))]
    full = [
        name for name, _ in cells(Shape(topk=2, labels=True, levels=True, given=True, concepts=True, bins=("pet",)))
    ]
    shown = ", ".join(name if name in plain else f"[{name}]" for name in full if name != "bin_pet")
    yield f"`{shown}, ..., [asked_bird], ..., [bin_pet], ...`"


def _all() -> Iterator[str]:
    for title, of in CLASSES.items():
        yield f"\n**{title}** (`{of.__name__}`)\n"
        yield from option_table(of)
    yield ""


def option_table(of: type) -> Iterator[str]:
    """Yield the lines of the table of the options of `of`."""
    yield "| command line | Python | default | meaning |"
    yield "|---|---|---|---|"
    for field, option in declared(of):
        yield f"| {_spelt(option)} | `{field.name}` | {_default(field.default, option)} | {_meaning(option)} |"


def _spelt(option: Option) -> str:
    metavar = f" {option.metavar}".replace("|", r"\|") if option.metavar else ""
    words = [f"`{', '.join(option.flags)}{metavar}`"] if option.flags else []
    return ", ".join([*words, *(f"`{flag}`" for flag in option.instead)])


def _default(value: Any, option: Option) -> str:
    if value is MISSING or value == "":
        return ""
    stated = re.search(r"\(default: ([^)]*)\)", option.meaning)
    return stated[1] if stated else f"`{value}`"


def _meaning(option: Option) -> str:
    text = re.sub(r" ?\(default: [^)]*\)", "", option.meaning + option.parsed)
    allowed = option.allowed()
    return (text + (f": {', '.join(f'`{word}`' for word in allowed)}" if allowed else "")).replace("|", r"\|")


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
