"""Write what docs/python.md shows: the table of public names from their docstrings, and what the examples print."""

from __future__ import annotations

import contextlib
import inspect
import io
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import miil21k  # noqa: E402 - the clone's package, installed or not

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = ROOT / "docs" / "python.md"
LABELLED = {"cat": "n02123045", "coffee": "n07920052", "rocket": "n04008634"}
_BLOCK = re.compile(r"(<!-- slow -->\n)?```python\n(.*?)```\n(?:\n```text\n(.*?)```\n)?", re.DOTALL)


def page(*, slow: bool) -> str:
    """Return the page as it should be. slow: run the examples that export and train, too."""
    text = PAGE.read_text(encoding="utf-8")
    opening, closing = "<!-- names: written by scripts/python_page.py -->\n", "<!-- /names -->"
    table = opening + "\n".join(_names()) + "\n" + closing
    text, found = re.subn(re.escape(opening) + ".*?" + re.escape(closing), lambda _: table, text, flags=re.DOTALL)
    assert found == 1, "docs/python.md has no place for the names"
    values: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        before = Path.cwd()
        os.chdir(_prepared(Path(folder)))
        try:
            return _BLOCK.sub(lambda block: _run(block, values, slow=slow), text)
        finally:
            os.chdir(before)


def _run(block: re.Match[str], values: dict[str, Any], *, slow: bool) -> str:
    """Return the example with what it prints now; one that is too slow as it is."""
    mark, code, shown = block.groups()
    compiled = compile(code, "docs/python.md", "exec")
    if mark and not slow:
        return block[0]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compiled, values)  # noqa: S102 - our own page
    assert bool(printed.getvalue()) == (shown is not None), f"prints, or shows, nothing:\n{code}"
    output = "" if shown is None else f"\n```text\n{printed.getvalue()}```\n"
    return f"{mark or ''}```python\n{code}```\n{output}"


def _prepared(folder: Path) -> Path:
    """Return the folder with the files that the examples use."""
    shutil.copytree(ROOT / "examples" / "images", folder / "photos")
    for name, wnid in LABELLED.items():
        target = folder / "labelled" / wnid / f"{name}.jpg"
        target.parent.mkdir(parents=True)
        os.link(folder / "photos" / f"{name}.jpg", target)
    return folder


def _names() -> Iterator[str]:
    yield "| name | what it is |"
    yield "|---|---|"
    for name in miil21k.__all__:
        if name != "__version__":
            value = getattr(miil21k, name)
            yield f"| `{name}{_arguments(value)}` | {_sentence(value)} |"


def _arguments(value: Any) -> str:
    """Return the names of a function's arguments; a class says its own in its docstring."""
    if inspect.isclass(value):
        return ""
    kinds = {inspect.Parameter.VAR_KEYWORD: "**"}
    return "(" + ", ".join(kinds.get(p.kind, "") + p.name for p in inspect.signature(value).parameters.values()) + ")"


def _sentence(value: Any) -> str:
    """Return the first sentence of a docstring."""
    text = " ".join((inspect.getdoc(value) or "").split("\n\n")[0].split())
    return re.split(r"(?<=[.;]) ", text)[0].rstrip(".;").replace("|", "\\|") + "."


if __name__ == "__main__":
    PAGE.write_text(page(slow=True), encoding="utf-8")
