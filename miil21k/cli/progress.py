"""The progress bar: images, rate and time left, on standard error, when that is a terminal."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["ProgressBar"]


class ProgressBar:
    """A tqdm bar whose total is counted while the run goes on, so that a large folder delays nothing.

    shown: nothing happens when False. count: returns the inputs again, to be counted; None when they can be read
    only once. done: how many an earlier run has done.
    """

    def __init__(self, shown: bool, count: Callable[[], Iterator[Any]] | None, done: int = 0) -> None:
        self._bar: Any = None
        self._shown = shown
        self._count = count
        self._done = done

    def __enter__(self) -> ProgressBar:
        if self._shown:
            from tqdm import tqdm

            self._bar = tqdm(initial=self._done, unit="img", file=sys.stderr, dynamic_ncols=True, smoothing=0.1)
            if self._count is not None:
                threading.Thread(target=self._set_total, daemon=True).start()
        return self

    def _set_total(self) -> None:
        assert self._count is not None
        total = 0
        for _ in self._count():
            total += 1
            if self._bar.disable:  # closed: the run has ended
                return
        self._bar.total = total

    def advance(self) -> None:
        """Count one image."""
        if self._bar is not None:
            self._bar.update()

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
