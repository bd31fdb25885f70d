"""The docs name only what there is: modules and their names, verbs, and the options of each."""

from __future__ import annotations

import argparse
import importlib
import re
from pathlib import Path

import pytest

from miil21k.cli.main import PARTS, VERBS

ROOT = Path(__file__).parent.parent
PAGES = [*sorted((ROOT / "docs").glob("*.md")), *(ROOT / name for name in ("README.md", "CONTRIBUTING.md"))]
NO_NAMES = {"miil21k.json", "miil21k.X"}  # a file, and any name
pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def flags_of(verb: str) -> dict[tuple[str, ...], set[str]]:
    """Return the flags of a verb, and of every verb below it, by the words that call it."""
    parser = argparse.ArgumentParser()
    importlib.import_module(f"miil21k.cli.{verb}").configure(parser)
    found: dict[tuple[str, ...], set[str]] = {}
    below = [((verb,), parser)]
    for part in PARTS.get(verb, ()):
        below.append(((verb, part), argparse.ArgumentParser()))
        importlib.import_module(f"miil21k.cli.{verb}_{part}").configure(below[-1][1])
    while below:
        words, parser = below.pop()
        found[words] = {flag for action in parser._actions for flag in action.option_strings}
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                below += [((*words, name), inner) for name, inner in action.choices.items()]
    return found


FLAGS = {words: flags for verb in VERBS for words, flags in flags_of(verb).items()}


def exists(name: str) -> bool:
    """Return whether a dotted name is a module, or leads from one to an attribute."""
    module, rest = name, list[str]()
    while True:
        try:
            found = importlib.import_module(module)
        except ModuleNotFoundError:
            module, _, last = module.rpartition(".")
            rest.insert(0, last)
            continue
        for part in rest:
            if not hasattr(found, part):
                return part in getattr(found, "__dataclass_fields__", {})
            found = getattr(found, part)
        return True


@pages
def test_every_dotted_name_resolves(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    names = set(re.findall(r"(?<![\w./-])miil21k(?:\.[A-Za-z_]\w*)+", text))
    imported = re.findall(r"from (miil21k[\w.]*) import (?:\(([^)]*)\)|([\w, ]+))", text)
    names |= {f"{module}.{name}" for module, several, line in imported for name in re.findall(r"\w+", several or line)}
    paths = set(re.findall(r"(?<![\w./-])(?:miil21k|tests|scripts|benchmarks|examples)/[\w./-]*\w", text))
    assert [name for name in sorted(names - NO_NAMES) if not exists(name)] == []
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []


@pages
def test_every_command_is_one_and_takes_what_it_is_given(page: Path) -> None:
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    unknown = []
    for command in re.findall(r"(?<![\w/.-])(miil21k(?:-predict)? [^`\n]*)", text):
        line = re.split(r" [|&#;]|&&|\s{2,}", command)[0]
        words = line.replace("miil21k-predict", "miil21k predict").split()[1:]
        called = next((key for size in (2, 1) if (key := tuple(words[:size])) in FLAGS), None)
        if called is None:
            unknown += [line] * bool(
                words and re.fullmatch(r"[a-z]+", words[0]) and any("--" in word for word in words)
            )
            continue
        flags = {
            word.partition("=")[0].strip("'\"[],.)")
            for given in words
            for word in given.split("|")
            if word.startswith(("--", "[--"))
        }
        unknown += [f"{line}: {flag}" for flag in sorted(flags) if flag not in FLAGS[called] | {"--help", "--version"}]
    assert unknown == []
