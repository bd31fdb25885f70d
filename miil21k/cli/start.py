"""The start of a run: what it does without until its model is loaded, what makes an export, and where it logs."""

from __future__ import annotations

import gc
import importlib
import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from miil21k.text import printable

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from miil21k.runtime.export_cache import Graph, ProvedExport
    from miil21k.runtime.loading import Loaded
    from miil21k.store.cache import Cache

__all__ = ["log_to_stderr", "make_export", "settle", "starting"]

_BLAS = "OPENBLAS_NUM_THREADS"
_MOST_WARNINGS = 1000  # kept, to tell each once


@contextmanager
def starting() -> Iterator[None]:
    """Collect no garbage until `settle` is called or the context ends, and import NumPy with a BLAS of one thread.

    Modules, classes and label spaces stay, so that looking through them for garbage finds none. The threads that
    OpenBLAS starts with NumPy spin for a tenth of a second, on the processors that open the model; nothing here
    multiplies matrices in NumPy, and torch and ONNX Runtime have threads of their own.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        _import_numpy()
        yield
    finally:
        gc.unfreeze()
        (gc.enable if collects else gc.disable)()


def settle() -> None:
    """Collect garbage again, among what is made from here on: the work leaves some, what was loaded is none."""
    gc.freeze()
    gc.enable()


def make_export(loaded: Loaded, graph: Graph, cache: Cache) -> ProvedExport:
    """Return the proved export of `graph`, made now; for `resolve`, which decides whether. Raises ExportError."""
    from miil21k.export.cache_export import make_proved

    settle()  # tracing a network leaves much that refers to itself
    return make_proved(loaded, graph, cache)


def _import_numpy() -> None:
    if "numpy" in sys.modules or _BLAS in os.environ:
        return
    os.environ[_BLAS] = "1"
    try:
        importlib.import_module("numpy")  # which reads the variable
    finally:
        del os.environ[_BLAS]  # it is for no other library, and for no process that is started


def log_to_stderr(args: argparse.Namespace) -> None:
    """Let the package log to standard error, as loud as `--quiet` and `--verbose` say.

    Warnings of libraries, which name no image and come by the thousand, are for `--verbose`, each once.
    """
    import logging
    import warnings

    class TextAlone(logging.Formatter):
        """Names of files and the like reach the terminal as text, whatever they hold."""

        def format(self, record: logging.LogRecord) -> str:
            return printable(super().format(record), lines=True)

    logger = logging.getLogger("miil21k")
    logger.setLevel(logging.ERROR if args.quiet else logging.DEBUG if getattr(args, "verbose", False) else logging.INFO)
    handler = logging.StreamHandler()
    handler.setFormatter(TextAlone("%(message)s"))
    logger.handlers = [handler]
    told: set[str] = set()

    def tell(message: Warning | str, category: type[Warning], filename: str, *_: object, **__: object) -> None:
        line = f"{category.__name__} of {filename}: {message}"
        if line not in told and len(told) < _MOST_WARNINGS:
            told.add(line)
            logger.debug("%s", line)

    warnings.showwarning = tell
