"""One name, one type: no two classes or aliases of the package are called alike."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "miil21k"


def _types(tree: ast.Module) -> list[str]:
    """Return the names of classes, wherever they stand, and of aliases."""
    found = [node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    blocks = [tree.body, *(node.body for node in tree.body if isinstance(node, ast.If))]
    for node in (statement for block in blocks for statement in block):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found += [node.target.id] if "TypeAlias" in ast.unparse(node.annotation) else []
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name, value = node.targets[0].id, ast.unparse(node.value)
            camel = name[0].isupper() and not name.isupper()
            found += [name] if camel and not value.startswith("TypeVar(") else []
    return found


def test_no_two_types_have_one_name() -> None:
    homes = defaultdict(list)
    for path in sorted(PACKAGE.rglob("*.py")):
        for name in _types(ast.parse(path.read_text(encoding="utf-8"))):
            homes[name].append(str(path.relative_to(PACKAGE)))
    assert len(homes) > 300
    assert {name: paths for name, paths in homes.items() if len(paths) > 1} == {}


def test_a_variable_of_types_has_no_name_of_a_type() -> None:
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py")]
    types = {name for tree in trees for name in _types(tree)}
    variables = {
        node.targets[0].id
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and ast.unparse(node.value).startswith("TypeVar(")
    }
    assert len(variables) > 8
    assert types & variables == set()
