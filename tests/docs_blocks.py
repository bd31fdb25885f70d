"""The blocks of code in the docs: found, parsed and run."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from miil21k.cli.main import PARTS, VERBS, main, predict_main, verb_parser
from miil21k.hierarchy.load import load_label_space

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pytest

ROOT = Path(__file__).parent.parent
WRITTEN = {"_commands.md", "manifest.md"}  # while the site is built
RUNS = ("bash", "console", "python")
INSTALLED = {"node_modules"}  # what others wrote: CI installs a package of the browser example
SHOWN = ("text", "json", "nginx", "toml", "csv", "{include}", "{literalinclude}", "{toctree}")
LABELLED = {"cat": "n02123045", "coffee": "n07920052", "rocket": "n04008634"}
_FENCE = re.compile(r"^( *)```(\S*)[^\n]*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A block of code. page: from the root of the clone. shown: the output below it, None where there is none."""

    page: str
    language: str
    code: str
    shown: str | None

    @property
    def name(self) -> tuple[str, str]:
        """The page and the first line, which tell it from others."""
        return self.page, self.code.splitlines()[0].strip() if self.code.strip() else ""


class Command(NamedTuple):
    """A line of a shell, and the lines that it should print; none: whatever it prints."""

    line: str
    prints: tuple[str, ...]


def pages() -> list[Path]:
    """Return every page with blocks of code that people read."""
    found = [*(ROOT / "docs").glob("*.md"), *(ROOT / "examples").rglob("*.md"), *ROOT.glob("*.md")]
    return sorted(
        path for path in found if path.name not in WRITTEN and not INSTALLED & set(path.relative_to(ROOT).parts)
    )


def blocks(page: Path) -> list[Block]:
    """Return the blocks of a page; what is shown below one without a language belongs to it."""
    text = page.read_text(encoding="utf-8")
    name = page.relative_to(ROOT).as_posix()
    fences = list(_FENCE.finditer(text))
    found = []
    for fence, after in zip_longest(fences, fences[1:]):
        below = after is not None and after[2] == "text" and not text[fence.end() : after.start()].strip()
        found.append(Block(name, fence[2], fence[3], after[3] if below and after is not None else None))
    return found


def commands(block: Block) -> list[Command]:
    """Return the lines of a shell in a block: of `console` those behind `$ `, each with what is printed below it."""
    if block.language == "bash":
        lines = block.code.replace("\\\n", " ").splitlines()
        return [Command(line, ()) for line in lines if line.strip() and not line.startswith("#")]
    found = []
    for part in re.split(r"^\$ ", block.code, flags=re.MULTILINE)[1:]:
        line, *printed = re.sub(r"\\\n(?:> )?", " ", part).rstrip("\n").split("\n")
        found.append(Command(line, tuple(printed)))
    return found


def words_of(line: str) -> Iterator[list[str]]:
    """Yield the words of each call of `miil21k` in a line of a shell, without what comes behind `|`, `>` or `&`."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if set(word) <= set("|&;<>"):
            if words and Path(words[0]).name in ("miil21k", "miil21k-predict"):
                yield words
            words = []
        else:
            words += [word]


def refused(words: list[str]) -> str | None:
    """Return what the parser of the command says against the words of a call; None where it takes them."""
    verb, *rest = ["predict", *words[1:]] if words[0].endswith("miil21k-predict") else words[1:]
    if verb.startswith("--"):
        return None
    if rest and rest[0] in PARTS.get(verb, ()):
        verb, rest = f"{verb}_{rest[0]}", rest[1:]
    if verb.partition("_")[0] not in VERBS:
        return f"no verb: {verb}"
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            verb_parser(verb, verb).parse_args(rest)
        except SystemExit as error:
            return said.getvalue().rpartition("error: ")[2].strip() if error.code else None
    return None


def prepared(folder: Path) -> Path:
    """Return the folder with the files that the pages use: photographs, and the examples of the clone."""
    shutil.copytree(ROOT / "examples" / "images", folder / "photos")
    (folder / "examples").symlink_to(ROOT / "examples")
    for name, wnid in LABELLED.items():
        (folder / "labelled" / wnid).mkdir(parents=True)
        shutil.copy(folder / "photos" / f"{name}.jpg", folder / "labelled" / wnid)
        shutil.copy(folder / "photos" / f"{name}.jpg", folder)
    shutil.copy(folder / "photos" / "cat.jpg", folder / "photo.jpg")
    bins = ("label,concept,parent", "pet,,", "dog,dog,pet", "cat,domestic cat,pet", "vehicle,vehicle,")  # of predict.md
    (folder / "bins.csv").write_text("\n".join(bins) + "\n", encoding="utf-8")
    return folder


def given(page: str) -> dict[str, Any]:
    """Return what the Python of a page takes for granted: logits that somebody has, and what they are of."""
    names = {"docs/decoding.md": "fall11", "docs/label_spaces.md": "fall11", "docs/metrics.md": "winter21"}
    if page not in names:
        return {}
    space = load_label_space(names[page])
    generator = np.random.default_rng(0)
    labels = generator.integers(0, space.num_classes, 200)
    logits = generator.normal(size=(200, space.num_classes)).astype(np.float32)
    logits[np.arange(200), labels] += 12
    return {"logits": logits, "logits_fall11": logits, "labels": labels}


def run_python(block: Block, values: dict[str, Any]) -> None:
    """Run a block of Python among `values`, and compare what it prints with what is shown below it."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(block.code, block.page, "exec"), values)
    if block.shown is not None:
        assert printed.getvalue() == block.shown


def run_command(command: Command, capture: pytest.CaptureFixture[str], *, apart: bool) -> None:
    """Run a line of a shell, and compare what it prints. apart: verbs in processes of their own, too."""
    call = next(words_of(command.line), None)
    plain = call is not None and not re.search(r"[|&;<>$*]", command.line) and not apart
    if plain:
        door: Callable[[list[str]], int] = predict_main if call[0].endswith("predict") else main
        table = ["-f", "table"] if "predict" in " ".join(call[:2]) and not {"-f", "-o"} & set(call) else []
        capture.readouterr()
        code = door([*call[1:], *table])  # as on a terminal
        output, said = capture.readouterr()
    else:
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command.line],
            check=False,
            capture_output=True,
            text=True,
            encoding="utf-8",
            env={**os.environ, "PATH": path},
        )
        code, output, said = done.returncode, done.stdout, done.stderr
    assert code == 0, f"{command.line}\n{output}{said}"
    if command.prints:
        missing = missing_of(command.prints, output, said)
        assert missing is None, f"{command.line}\nprints no\n{missing}\nbut\n{output}{said}"


def missing_of(shown: tuple[str, ...], *outputs: str) -> str | None:
    """Return the first piece of `shown` that no output has. A line `...` is any lines, in one for any text."""
    texts = ["\n".join(line.rstrip() for line in output.splitlines()) + "\n" for output in outputs]
    for piece in re.split(r"^\.\.\.$\n?", "\n".join(shown) + "\n", flags=re.MULTILINE):
        lines = [re.escape(line.rstrip()).replace(r"\.\.\.", ".*") for line in piece.rstrip("\n").split("\n")]
        pattern = "^" + r"\n".join(lines) + "$"
        if piece.strip() and not any(re.search(pattern, text, re.MULTILINE) for text in texts):
            return piece
    return None
