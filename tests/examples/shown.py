"""Commands of the cookbook's pages, run as a reader would run them, and what the page shows below each."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
NUMBER = re.compile(r"(\d+\.\d+)(%?)")
PHOTOS = tuple(EXAMPLES / "images" / f"{name}.jpg" for name in ("cat", "coffee", "rocket"))


def script(path: str) -> ModuleType:
    """Return the module in a file below `examples/`."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, EXAMPLES / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Ran(NamedTuple):
    code: int
    stdout: str
    stderr: str


class Kitchen(NamedTuple):
    """A folder with the three photographs in `photos/`, and a cache in which a proved export of `embedded` lies."""

    folder: Path
    cache: Path

    def run(self, command: str, **variables: str) -> Ran:
        """Run a line of shell here; `python`, the commands and `examples/` are those of this checkout."""
        words = command.replace("examples/", f"{EXAMPLES}/")
        words = re.sub(r"(^|(?<=[|&;] ))python ", f"{sys.executable} ", words)
        path = os.pathsep.join((sysconfig.get_path("scripts"), os.environ["PATH"]))
        here = {"PATH": path, "MIIL21K_CACHE": str(self.cache), "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": ""}
        environment = {**os.environ, **here, **variables}
        done = subprocess.run(
            ["bash", "-c", words], cwd=self.folder, env=environment, capture_output=True, text=True, check=False
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    def prints_what_the_page_shows(self, page: str, start: str, *, code: int = 0) -> list[str]:
        """Run the command of docs/howto_`page`.md that starts so, and return the lines that it printed.

        They are those of the page, and the exit code is `code`. Another processor or resizer may move a number that has
        decimals: 0.02 is allowed, of shares in per cent 3.
        """
        command, below = shown(page, start)
        ran = self.run(command)
        assert (ran.code, _words(ran.stdout)) == (code, _words(below)), ran.stderr
        for found, wanted in zip(NUMBER.findall(ran.stdout), NUMBER.findall(below), strict=True):
            assert abs(float(found[0]) - float(wanted[0])) <= (3 if found[1] else 0.02), (found, wanted)
        return ran.stdout.splitlines()


def _words(text: str) -> list[list[str]]:
    """Return the words of each line, with one mark in the place of every number that has decimals."""
    return [NUMBER.sub("#", line).split() for line in text.splitlines()]


def shown(page: str, start: str) -> tuple[str, str]:
    """Return the command of a page that starts with `start`, and the text below it."""
    text = (ROOT / "docs" / f"howto_{page}.md").read_text(encoding="utf-8")
    consoles = "".join(re.findall(r"^```console\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    parts = re.split(r"^\$ ", consoles, flags=re.MULTILINE)[1:]
    (found,) = [part for part in parts if part.startswith(start)]
    command, _, below = found.replace("\\\n", " ").partition("\n")
    return command, below
