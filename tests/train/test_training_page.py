"""docs/training.md says what is declared: the options of a run and every field of a recipe."""

from __future__ import annotations

import importlib.util
from dataclasses import fields
from pathlib import Path

from miil21k.options import declared
from miil21k.train.recipe import Recipe

ROOT = Path(__file__).parent.parent.parent


def test_the_tables_of_the_page_are_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("training_page", ROOT / "scripts" / "training_page.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    committed = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    assert committed == module.page(), "run: python scripts/training_page.py"


def test_every_field_of_a_recipe_says_what_it_is() -> None:
    said = {field.name: option.meaning for field, option in declared(Recipe)}
    assert list(said) == [field.name for field in fields(Recipe)]
    assert all(said.values())
    assert all(f"    {name}: " in (Recipe.__doc__ or "") for name in said)
