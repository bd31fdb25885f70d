"""The short examples run on the bundled photographs and say what they should."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent / "examples"


def _run(script: str, *words: str) -> list[str]:
    command = [sys.executable, str(EXAMPLES / script), *words]
    done = subprocess.run(command, check=True, capture_output=True, text=True, encoding="utf-8")
    return done.stdout.splitlines()


def test_a_folder_is_counted_as_a_tree() -> None:
    lines = _run("tree_of_a_folder.py", str(EXAMPLES / "images"))
    assert "    1  animal" in lines
    assert lines[lines.index("    1  animal") + 2] == "    1      domestic cat"
    assert "    1      espresso" in lines


def test_logits_become_paths_that_shorten_as_the_hedge_rises() -> None:
    lines = _run("paths_from_logits.py", str(EXAMPLES / "images" / "cat.jpg"))
    assert lines[2] == "0.90  animal > domestic animal > domestic cat"
    answers = [line[6:] for line in lines]
    assert answers[3] == "(not sure)"
    assert all(deep.startswith(shallow) for deep, shallow in pairwise(answers[:3]))
