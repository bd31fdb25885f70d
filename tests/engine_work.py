"""Work for the tests of engines; worker processes import it by name."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from miil21k.errors import MissingExtra, UsageError


def square(number: int) -> int:
    return number * number


def process_of(number: int) -> int:
    time.sleep(0.05)
    return os.getpid()


def die_once(job: tuple[int, str]) -> int:
    """Kill this process the first time that job 2 comes; `job` has its number and a folder for the traces."""
    number, folder = job
    trace = Path(folder) / str(number)
    first = not trace.exists()
    trace.touch()
    if number == 2 and first:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def leave_a_trace(job: tuple[int, str]) -> int:
    """Take a while, and then make the file whose name is the number of the job."""
    time.sleep(0.3)
    (Path(job[1]) / str(job[0])).touch()
    return job[0]


def die_twice(job: tuple[int, str]) -> int:
    """Return this process, but kill it the first two times that job 1 comes; `job` is as that of `die_once`."""
    number, folder = job
    deaths = len(list(Path(folder).iterdir()))
    if number == 1 and deaths < 2:
        (Path(folder) / str(deaths)).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


def die_at_three(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def refuse_two(number: int) -> int:
    if number == 2:
        raise UsageError("two is refused")
    return number


def lack_a_package(_: int) -> None:
    raise MissingExtra("left-pad", "pad", "Padding")  # an exception that pickle cannot bring back


def threads_setting(_: int) -> str | None:
    return os.environ.get("OMP_NUM_THREADS")
