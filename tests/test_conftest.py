"""What a failed test shows."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

FAILING = """
import pytest, subprocess, sys

@pytest.mark.parametrize("text", [True, False])
def test_fails(text):
    command = [sys.executable, "-c", "import sys; print('so', 'far'); sys.exit('no ' + 'disk')"]
    subprocess.run(command, check=True, capture_output=True, text=text)
"""


def test_what_a_failed_command_said_is_shown(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(FAILING)
    words = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "conftest",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(tmp_path),
    ]
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parent.parent)])
    done = subprocess.run(
        [*words, str(tmp_path)], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    for said in ("stderr of the command", "no disk", "stdout of the command", "so far"):
        assert done.stdout.count(said) == 2, said
