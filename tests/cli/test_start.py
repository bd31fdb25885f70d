"""What is put off until a model is loaded, and that it is not forgotten."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from miil21k.cli.start import settle, starting

if TYPE_CHECKING:
    from pathlib import Path

STATE = """
import gc, os, sys
from miil21k.cli.start import settle, starting
assert "numpy" not in sys.modules
with starting():
    import numpy as np
    print(gc.isenabled(), os.environ.get("OPENBLAS_NUM_THREADS"), len(os.listdir("/proc/self/task")))
    settle()
    print(gc.isenabled(), gc.get_freeze_count() > len(gc.get_objects()))
print(gc.get_freeze_count())
"""


def test_garbage_is_collected_again_once_the_run_has_settled_or_ended() -> None:
    assert gc.isenabled()
    with starting():
        assert not gc.isenabled()
        settle()
        assert gc.isenabled()
    gc.disable()
    try:
        with starting():
            settle()
        assert not gc.isenabled()
    finally:
        gc.enable()
    with pytest.raises(RuntimeError), starting():
        raise RuntimeError
    assert gc.isenabled()


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="counts threads in /proc")  # noqa: PTH112
@pytest.mark.parametrize(("asked", "threads"), [(None, 1), ("2", 2)])
def test_numpy_brings_no_threads_unless_they_are_asked_for(asked: str | None, threads: int) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.endswith("_NUM_THREADS")}
    if asked is not None:
        environment["OPENBLAS_NUM_THREADS"] = asked
    done = subprocess.run([sys.executable, "-c", STATE], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"False {asked} {threads}", "True True", "0"]


NOISE = """
import sys, warnings
from argparse import Namespace
from miil21k.cli.start import log_to_stderr
log_to_stderr(Namespace(quiet=False, verbose=sys.argv[1] == "v"))
for number in range(300):
    warnings.warn(f"Corrupt EXIF data {number % 2}")
"""


@pytest.mark.parametrize(("loudness", "lines"), [("n", 0), ("v", 2)])
def test_warnings_of_libraries_are_for_the_verbose_and_told_once(loudness: str, lines: int) -> None:
    command = [sys.executable, "-W", "always", "-c", NOISE, loudness]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr.count("Corrupt EXIF") == len(done.stderr.splitlines()) == lines


ONE_IMAGE = """
import sys
from typing import TYPE_CHECKING
from miil21k.cli.main import predict_main
predict_main([sys.argv[1], "-m", sys.argv[2], "--offline", "-f", "jsonl", "-q"])
print(*sorted(sys.modules), file=sys.stderr)
"""
# Each costs a share of a run that takes a sixth of a second; with multiprocessing the process also ends more slowly.
NOT_FOR_ONE_IMAGE = (
    "multiprocessing",
    "socket",
    "shutil",
    "tempfile",
    "torch",
    "timm",
    "onnx",
    "matplotlib",
    "pyarrow",
)
NOT_WITHOUT_A_QUESTION = ("hierarchy.concepts", "hierarchy.questions", "decode.concepts", "decode.concept_reading")


def test_one_image_loads_nothing_that_it_does_not_need(tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="the extra 'export' is not installed")
    from colour_export import coloured, write_colour_export

    model, picture = tmp_path / "colours.onnx", tmp_path / "red.png"
    write_colour_export(model)
    picture.write_bytes(coloured("red"))
    command = [sys.executable, "-c", ONE_IMAGE, str(picture), str(model)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert '"status": "ok"' in done.stdout
    loaded = set(done.stderr.split())
    unwanted = {*NOT_FOR_ONE_IMAGE, *(f"miil21k.{name}" for name in NOT_WITHOUT_A_QUESTION)}
    assert "miil21k.decode.decoder" in loaded
    assert unwanted & loaded == set()
