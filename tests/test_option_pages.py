"""The tables of options in docs/ say what is declared."""

from __future__ import annotations

import importlib.util
from dataclasses import fields
from pathlib import Path

import pytest

from miil21k.options import declared
from miil21k.train.recipe import Recipe

ROOT = Path(__file__).parent.parent
SPEC = importlib.util.spec_from_file_location("option_pages", ROOT / "scripts" / "option_pages.py")
assert SPEC is not None
assert SPEC.loader is not None
SCRIPT = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(SCRIPT)


@pytest.mark.parametrize("name", SCRIPT.PAGES)
def test_the_tables_of_the_page_are_up_to_date(name: str) -> None:
    committed = (ROOT / "docs" / name).read_text(encoding="utf-8")
    assert committed == SCRIPT.page(name), "run: python scripts/option_pages.py"


def test_every_field_of_a_recipe_says_what_it_is() -> None:
    said = {field.name: option.meaning for field, option in declared(Recipe)}
    assert list(said) == [field.name for field in fields(Recipe)]
    assert all(said.values())
    assert all(f"    {name}: " in (Recipe.__doc__ or "") for name in said)
