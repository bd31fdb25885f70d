"""The script of the mutation runs: what it finds, and that its copies behave like the original."""

from __future__ import annotations

import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
spec = spec_from_loader("mutate", SourceFileLoader("mutate", str(ROOT / "scripts" / "mutate")))
assert spec is not None
mutate = module_from_spec(spec)
sys.modules["mutate"] = mutate
assert spec.loader is not None
spec.loader.exec_module(mutate)

DECORATED = """\
from functools import cached_property, lru_cache

class Squares:
    def __init__(self, side):
        self.side = side
        self.asked = 0

    @property
    def area(self):
        self.asked += 1
        return self.side**2

    @cached_property
    def text(self):
        return f"{self.area} m2"

    @classmethod
    def unit(cls):
        return cls(1)

@lru_cache(maxsize=2)
def twice(value):
    return [2 * value]
"""


def test_functions_without_their_decorators_do_the_same() -> None:
    plain = mutate._with_plain_functions(DECORATED)
    assert [line for line in plain.splitlines() if "@" in line] == ["    @classmethod"]
    found: dict[str, object] = {}
    exec(plain, found)
    square = found["Squares"](3)  # type: ignore[operator]
    assert (square.text, square.text, square.asked, square.area) == ("9 m2", "9 m2", 1, 9)
    assert found["twice"](4) is found["twice"](4)  # type: ignore[operator]


@pytest.mark.parametrize("name", mutate.ROOMS)
def test_every_room_has_modules_and_tests(name: str) -> None:
    room = mutate.ROOMS[name]
    assert all((ROOT / path).exists() for path in (*room.sources, *room.tests))
    for path in mutate._modules(ROOT, room):
        compile(mutate._with_plain_functions(path.read_text(encoding="utf-8")), str(path), "exec")


def test_a_survivor_that_was_looked_at_is_known_by_its_module_and_its_new_line() -> None:
    known = mutate._equivalents()
    assert all(module.startswith("miil21k/") and line and why for (module, line), why in known.items())
    assert all((ROOT / module).exists() for module, _ in known)
    (module, line), why = next(iter(known.items()))
    diff = f"--- {module}\n+++ {module}\n@@ -1,3 +1,3 @@\n def f():\n-    index = 1\n+    {line}\n     return index\n"
    assert known[mutate._changed(diff)] == why
    assert mutate._changed(diff.replace(line, "index = 2")) == (module, "index = 2")


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="git says what belongs to a clone")
def test_what_git_ignores_is_not_copied(tmp_path: Path) -> None:
    mutate._copy_repository(tmp_path)
    assert (tmp_path / "scripts" / "mutate").read_bytes() == (ROOT / "scripts" / "mutate").read_bytes()
    assert not list(tmp_path.rglob("__pycache__"))
