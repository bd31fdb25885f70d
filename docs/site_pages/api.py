"""The Python API: a page for each group of public names, with signatures and types, by Sphinx's autodoc.

The types that public functions, methods and fields lead to are found by following their annotations. Docstrings are
plain text; `as_rest` makes reStructuredText of them.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import miil21k

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from docutils.nodes import Element, TextElement
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

__all__ = ["GROUPS", "as_rest", "led_to", "pages", "setup"]

GROUPS = {
    "predict": ("Images to answers", ("Predictor", "PredictOptions", "Prediction", "to_pandas")),
    "decode": ("Logits to answers", ("Decoder",)),
    "label_spaces": ("Label spaces", ("load_label_space", "LabelSpace", "Tree")),
    "weights": (
        "Models and weights",
        ("create_model", "load_model", "list_models", "find_weights", "fetch_weights"),
    ),
    "measure": (
        "Measure and calibrate",
        ("validate_model", "calibrate_model", "load_calibration", "MeasureRequest", "MeasureOptions", "Calibration"),
    ),
    "train": ("Train", ("train_model", "get_recipe", "TrainRequest", "Recipe")),
    "export": ("Export", ("export_onnx", "quantize_onnx", "ExportOptions", "QuantizeOptions")),
    "errors": ("Errors", ("Miil21kError", "UsageError", "MissingExtra")),
}
PACKAGE = Path(miil21k.__file__).parent


def pages() -> dict[str, str]:
    """Return every page of the API by its file name."""
    listed = [name for _, names in GROUPS.values() for name in names]
    public = set(miil21k.__all__) - {"__version__"}
    assert sorted(listed) == sorted(public), f"in no group, or twice: {set(listed) ^ public}"
    homes, found = _homes(), set(public)
    written = {"index.md": "\n".join(_index()) + "\n"}
    for stem, (title, names) in GROUPS.items():
        further = [name for name in led_to(names, homes) if name not in found]
        found.update(further)
        written[f"{stem}.md"] = "\n".join(_page(title, names, {name: homes[name] for name in further})) + "\n"
    return written


def _index() -> Iterator[str]:
    yield "# Python API\n"
    yield "Every public name, its arguments, types and methods, and the types of what it returns, from the docstrings."
    yield "[Python](../python.md) shows them at work, and says what may change in a new version.\n"
    yield "```{toctree}\n:maxdepth: 1\n"
    yield from GROUPS
    yield "```"
    for stem, (title, names) in GROUPS.items():
        links = ", ".join(f"{{py:obj}}`miil21k.{name}`" for name in names)
        yield f"\n- [{title}]({stem}.md): {links}"


def _page(title: str, names: tuple[str, ...], further: Mapping[str, str]) -> Iterator[str]:
    yield f"# {title}"
    for name in names:
        yield from _entry(name, f"miil21k.{name}")
    if further:
        yield "\n## What these lead to\n\nTypes of results, of fields and of arguments. They are read, not imported."
        for name, module in further.items():
            yield from _entry(name, f"{module}.{name}", "###")


def _entry(name: str, path: str, level: str = "##") -> Iterator[str]:
    is_class = inspect.isclass(_object(path))
    yield f"\n{level} {name}\n\n```{{eval-rst}}\n.. auto{'class' if is_class else 'function'}:: {path}"
    yield from ("   :members:",) if is_class else ()
    yield "```"


def _object(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _homes() -> dict[str, str]:
    """Return the module of every class of the package by its name; no two classes have one name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(("miil21k", *path.relative_to(PACKAGE).with_suffix("").parts))
        if ".triton.files." not in module:
            classes = (
                node for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.ClassDef)
            )
            found.update({node.name: module for node in classes})
    return found


def led_to(names: tuple[str, ...], homes: Mapping[str, str]) -> list[str]:
    """Return the classes of the package that the annotations of `names`, and of what they lead to, name."""
    waiting, found = [_object(f"miil21k.{name}") for name in names], list[str]()
    while waiting:
        for annotation in _annotations(waiting.pop(0)):
            for name in re.findall(r"\b[A-Z]\w+", annotation):
                if name in homes and name not in found:
                    found.append(name)
                    waiting.append(_object(f"{homes[name]}.{name}"))
    return found


def _annotations(of: Any) -> Iterator[str]:
    """Yield what a function returns, or what public fields are and public methods return."""
    if not inspect.isclass(of):
        yield _text(of.__annotations__.get("return", ""))
        return
    for name, value in vars(of).items():
        function = getattr(value, "fget", None) or getattr(value, "func", None) or getattr(value, "__func__", value)
        if not name.startswith("_") and inspect.isfunction(function):
            yield _text(function.__annotations__.get("return", ""))
    yield from (_text(hint) for name, hint in vars(of).get("__annotations__", {}).items() if not name.startswith("_"))


def _text(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else getattr(annotation, "__forward_arg__", str(annotation))


def as_rest(lines: list[str], names: tuple[str, ...] = ()) -> list[str]:
    """Return a plain docstring as reStructuredText.

    lines: of the docstring, without its indentation. names: of arguments or fields; a sentence that begins `name: ` or
    `name, name: ` becomes an item of a list. What is indented stays a definition of the line above it, and so do items
    that begin with a dash.
    """
    blocks: list[list[str]] = [[]]
    for line in lines:
        if line.strip():
            blocks[-1].append(line)
        elif blocks[-1]:
            blocks.append([])
    written: list[str] = []
    for block in blocks:
        kept = any(line.startswith((" ", "- ", "| ")) for line in block)
        written += [_escaped(line) for line in block] if kept else _items(" ".join(block), names)
        written.append("")
    return written


def _items(paragraph: str, names: tuple[str, ...]) -> Iterator[str]:
    """Yield the paragraph; what it says about each of `names`, and what is raised, on lines of their own."""
    one = "|".join(map(re.escape, names)) or "$^"
    starts = rf"(?:^|(?<=[.;] ))(?=(?:(?:{one})(?:, (?:{one}))*: |Returns?:? |Raises ))"
    for piece in re.split(starts, paragraph):
        item = re.fullmatch(rf"((?:{one})(?:, (?:{one}))*): (.*)", piece.strip(), re.DOTALL)
        if item:
            yield f"- **{_escaped(item[1])}**: {_escaped(item[2])}"
        elif piece.strip():
            yield from ("", _escaped(piece.strip()), "")


def _escaped(text: str) -> str:
    """Return text in which nothing but `code` means anything to reStructuredText."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return re.sub(r"([\\*`|_])", r"\\\1", text)
    plain = [re.sub(r"([\\*|_])", r"\\\1", part) for part in parts]
    return "".join(f"``{parts[i]}``\\ " if i % 2 else plain[i] for i in range(len(parts)))


def _docstring(_app: Sphinx, _what: str, _name: str, value: Any, _options: Any, lines: list[str]) -> None:
    """Replace the lines that autodoc is about to parse."""
    names = tuple(vars(value).get("__annotations__", {})) if inspect.isclass(value) else ()
    with suppress(TypeError, ValueError):  # a property, an exception of C
        names += tuple(inspect.signature(value).parameters)
    lines[:] = as_rest(lines, names)


def _left_out(_app: Sphinx, _what: str, _name: str, value: Any, _skip: bool, _options: Any) -> bool | None:
    """Leave out the fields of a named tuple, which its docstring explains."""
    return True if type(value).__name__ == "_tuplegetter" else None


def _resolved(app: Sphinx, env: BuildEnvironment, node: Element, inner: TextElement) -> Element | None:
    """Return the link to a class that an annotation names without its module."""
    if node.get("refdomain") != "py" or "." in node["reftarget"]:
        return None
    python, target = env.domains["py"], node["reftarget"]
    known = [name for name in python.objects if name.rpartition(".")[2] == target]
    if len(known) != 1:
        return None
    return python.resolve_xref(env, node["refdoc"], app.builder, "obj", known[0], node, inner)


def setup(app: Sphinx) -> None:
    """Connect the functions above to the build."""
    app.connect("autodoc-process-docstring", _docstring)
    app.connect("autodoc-skip-member", _left_out)
    app.connect("missing-reference", _resolved)
