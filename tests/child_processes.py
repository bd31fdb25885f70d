"""Processes that tests stop, kill and wait for; none outlives its test, whatever fails."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

KILLS = int(os.environ.get("MIIL21K_KILLS", "50"))  # of one command, in the slow tests


@contextmanager
def started(command: Sequence[Any], **options: Any) -> Iterator[subprocess.Popen[Any]]:
    """Start `command`; at the end of the block it is killed with its children, even where it was stopped."""
    # Where the tests run in the background of a script, Ctrl-C is ignored, and children would inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        # A group of its own, so that the children are found after their parent's death.
        child = subprocess.Popen(command, start_new_session=True, **options)
    finally:
        signal.signal(signal.SIGINT, before)
    with child as process:
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                if os.name == "nt":
                    process.kill()
                else:
                    os.killpg(process.pid, signal.SIGKILL)


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[Any] | None = None) -> None:
    """Return when `condition` holds; fails after ten minutes, and as soon as `process` has ended without it."""
    deadline = time.monotonic() + 600
    while not condition():
        assert time.monotonic() < deadline
        if process is not None and process.poll() is not None:
            assert condition(), f"ended with {process.returncode} before that"
            return
        time.sleep(0.005)


def kill_at_random(
    command: Sequence[Any],
    finished: Callable[[], None],
    kills: int = KILLS,
    *,
    begun: Path | None = None,
    **options: Any,
) -> None:
    """Start `command` again and again, and kill it with its children `kills` times, each time at a random moment.

    The moments spread over the time that a whole run takes, which comes first. finished: called after each run that
    came to its end, the last one after all kills included: it checks what was made, and removes it. begun: a file that
    the command makes when its work begins; from there the moments count, and no kill is spent on imports.
    """
    options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **options}

    @contextmanager
    def running() -> Iterator[subprocess.Popen[Any]]:
        if begun is not None:
            begun.unlink(missing_ok=True)
        with started(command, **options) as process:
            if begun is not None:
                wait_until(begun.exists, process)
            yield process

    with running() as process:
        began = time.monotonic()
        assert process.wait() == 0
        whole = time.monotonic() - began
    finished()
    moments, killed = random.Random(0), 0
    while killed < kills:
        with running() as process:
            try:
                code = process.wait(moments.uniform(0, whole))
            except subprocess.TimeoutExpired:
                killed += 1
                continue  # leaving the block kills
        assert code == 0
        finished()
    subprocess.run(command, check=True, **options)
    finished()
