"""The two commands: `miil21k <verb>` and `miil21k-predict`. Parsing and exit codes only.

A verb is a module of this room with three names: `HELP` (one line), `configure(parser)` and `run(args) -> int`.
Only the module of the verb that was asked for is imported, and it imports heavy libraries inside `run`.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import sys
import threading
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Protocol

from miil21k import __version__
from miil21k.errors import Miil21kError, UsageError
from miil21k.text import did_you_mean, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import NoReturn

    class Verb(Protocol):
        """What a module of this room offers."""

        HELP: str
        configure: Callable[[argparse.ArgumentParser], None]
        run: Callable[[argparse.Namespace], int]


__all__ = ["main", "predict_main", "predict_script", "script", "verb_parser"]

JOBS = {
    "answer": {
        "predict": "name what is in images, as a path through the tree",
        "serve": "answer images over HTTP, with a page to try it",
    },
    "find": {
        "index": "make a folder of pictures a collection that answers questions",
        "find": "find the pictures of an index that answer a query",
        "duplicates": "find pictures that are the same, nearly the same, or alike",
        "organize": "put pictures into folders named by their answers, and take it back",
        "gallery": "make a page to look through pictures, search them and correct the answers",
        "audit": "find pictures whose label is likely wrong",
        "labels": "write what pictures are: a list to train on, COCO, Label Studio, FiftyOne",
    },
    "make": {
        "train": "train a model with semantic softmax or a baseline",
        "semisup": "train a student on few labels and many images without",
        "transfer": "learn classes of your own from images, by the best of several ways",
        "select": "choose a student's training images from a pool without labels",
        "validate": "measure a model on labelled images",
        "calibrate": "make the probabilities of a model trustworthy",
    },
    "ship": {
        "export": "write a model as a proved ONNX file, a TensorRT engine or for Triton",
        "bundle": "carry weights to a machine without a network",
        "push": "put a trained model onto the Hub, with a card",
    },
    "know": {
        "benchmark": "measure speed and memory of models on this machine",
        "compare": "show where two models, or two files of rows, differ over the same images",
        "models": "list the models of the zoo",
        "info": "show everything that is known about one model",
        "tree": "show, search, export or build label spaces",
    },
    "keep": {
        "fetch": "download weights ahead of their use",
        "verify": "recompute the digests of cached weights",
        "doctor": "show versions, devices, caches and reachability, and what to do",
        "prepare": "make ImageNet-21K-P from the raw archive, check it, count it",
    },
}
# Words that may follow a verb, each a module of its own; a folder of that name is given as ./NAME.
PARTS = {"transfer": ("compare", "fewshot", "grid", "suite")}
VERBS = {name: line for verbs in JOBS.values() for name, line in verbs.items()}


class _Parser(argparse.ArgumentParser):
    """A parser whose refusals of flags and verbs name the nearest one that there is."""

    def error(self, message: str) -> NoReturn:
        """Print the usage and the message, and exit with 2."""
        unknown = re.search(r"unrecognized arguments: (.*)", message)
        choice = re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message)
        if unknown is not None:
            flags = list(_flags(self))
            words = (word.partition("=")[0] for word in unknown[1].split() if word.startswith("--"))
            message += next((hint for word in words if (hint := did_you_mean(word, flags))), "")
        elif choice is not None:
            message += did_you_mean(choice[1], re.findall(r"[^', ]+", choice[2]))
        super().error(printable(message, lines=True))


def _flags(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield the flags of a parser and of its verbs."""
    for action in parser._actions:
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for verb in action.choices.values():
                yield from _flags(verb)


def _verb(name: str) -> Verb:
    module: Verb = importlib.import_module(f"miil21k.cli.{name}")
    return module


def _overview() -> argparse.ArgumentParser:
    jobs = "\n".join(
        f"{job}:\n" + "".join(f"  {name:10} {line}\n" for name, line in verbs.items()) for job, verbs in JOBS.items()
    )
    parser = _Parser(
        prog="miil21k",
        description=f"ImageNet-21K-P models that answer with label paths.\n\n{jobs}\n'miil21k VERB --help' tells more.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"miil21k {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True, help=argparse.SUPPRESS)
    for name in VERBS:
        verbs.add_parser(name, add_help=False)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run `miil21k VERB ...`; returns the exit code.

    0 all good, 1 some work failed, 2 usage, 3 a cluster cannot be joined or was lost, 130 interrupted.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] not in VERBS:
        _overview().parse_args(words[:1])  # prints help, version or the usage error, and exits
    if len(words) > 1 and words[1] in PARTS.get(words[0], ()):
        return _run(f"{words[0]}_{words[1]}", words[2:], prog=f"miil21k {words[0]} {words[1]}")
    return _run(words[0], words[1:], prog=f"miil21k {words[0]}")


def predict_main(argv: Sequence[str] | None = None) -> int:
    """Run `miil21k-predict ...`, the same as `miil21k predict ...`."""
    return _run("predict", list(sys.argv[1:] if argv is None else argv), prog="miil21k-predict")


def script() -> NoReturn:
    """Be the command `miil21k`: run it, and end the process with its exit code."""
    _leave(main())


def predict_script() -> NoReturn:
    """Be the command `miil21k-predict`."""
    _leave(predict_main())


def _leave(code: int) -> NoReturn:
    """End the process: at once where nothing waits for an orderly end, since a fifth of a short run goes into one.

    Every file is closed by now, and what is printed was flushed. Libraries that start processes or own devices have an
    end of their own: they all import multiprocessing.
    """
    if "multiprocessing" in sys.modules or threading.active_count() > 1:
        sys.exit(code)
    with suppress(OSError, AttributeError):  # nobody reads it, or it was closed before the start
        sys.stderr.flush()
    if "logging" in sys.modules:
        sys.modules["logging"].shutdown()
    os._exit(code)


def verb_parser(name: str, prog: str) -> argparse.ArgumentParser:
    """Return the parser of the verb that the module `name` of this room is."""
    verb = _verb(name)
    # To declare an option, a formatter is made and thrown away; one that is told a width does not ask for that of the
    # terminal, for which it would import what packs files.
    declaring = partial(argparse.HelpFormatter, width=80)
    parser = _Parser(prog=prog, description=verb.HELP, formatter_class=declaring)
    parser.add_argument("--version", action="version", version=f"miil21k {__version__}")
    verb.configure(parser)
    if parser.formatter_class is declaring:
        parser.formatter_class = argparse.HelpFormatter
    return parser


def _run(name: str, words: list[str], prog: str) -> int:
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="replace")  # names and paths outside cp1252 (Windows)
    verb, parser = _verb(name), verb_parser(name, prog)
    args = parser.parse_args(words)
    try:
        code = _called(verb, args)
        _flush()
        return code
    except Miil21kError as error:
        print(f"{prog}: {printable(error, lines=True)}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"{prog}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        _forget_output()  # the reader (head, less) went away: not our failure, and nothing is left to say
        return 0
    except OSError as error:
        # What the verbs could not foresee: a full disk, a folder without the right to write.
        where = f"'{error.filename}': " if error.filename is not None else ""
        print(f"{prog}: {printable(f'{where}{error.strerror or error}.')}", file=sys.stderr)
        return 1
    except MemoryError:
        print(f"{prog}: not enough memory; smaller images or a smaller --batch-size need less.", file=sys.stderr)
        return 1


def _called(verb: Verb, args: argparse.Namespace) -> int:
    """Run the verb; raises UsageError for a package of the whole installation that was left out of this one."""
    try:
        return verb.run(args)
    except ModuleNotFoundError as error:
        from miil21k.environment import REQUIRED

        package = REQUIRED.get((error.name or "").partition(".")[0])
        if package is None:
            raise
        raise UsageError(
            f"this needs the package '{package}', which was left out of this installation: pip install '{package}'. "
            "Without it an exported model, -m FILE.onnx, is predicted and validated."
        ) from None


def _flush() -> None:
    """Write what is printed so far now, where a full disk can still be told."""
    if sys.stdout is None:  # closed before the start: nothing was printed
        return
    try:
        sys.stdout.flush()
    except OSError:
        _forget_output()
        raise


def _forget_output() -> None:
    """Let what could not be printed go, or Python tries again at its end and complains."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
