"""What `--help` of every verb prints, as one page."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from miil21k.cli.main import PARTS, VERBS, verb_parser

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["commands"]


def commands() -> str:
    """Return a section for each verb and each part of a verb."""
    os.environ["COLUMNS"] = "100"
    return "\n".join(_sections())


def _sections() -> Iterator[str]:
    for verb in VERBS:
        yield from _section(verb_parser(verb, f"miil21k {verb}"))
        for part in PARTS.get(verb, ()):
            yield from _section(verb_parser(f"{verb}_{part}", f"miil21k {verb} {part}"))


def _section(parser: argparse.ArgumentParser) -> Iterator[str]:
    yield f"## {parser.prog}\n\n```text\n{parser.format_help()}```\n"
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from _section(below)
