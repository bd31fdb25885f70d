"""The two commands as processes: how they end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from miil21k.cli.main import main
from miil21k.zoo.manifest import load_manifest

END = """
import atexit, sys
{before}
atexit.register(print, "an orderly end", file=sys.stderr)
sys.argv = ["miil21k", *sys.argv[1:]]
from miil21k.cli.main import script
script()
"""


def run(*words: str, before: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", END.format(before=before), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)


def test_a_short_run_ends_at_once_and_loses_no_word_of_its_output() -> None:
    done = run("models")
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) > len(load_manifest().models)
    assert done.stderr == ""
    assert run("info", "tresnet_m_21k").stdout.startswith("tresnet_m.miil_in21k")


@pytest.mark.parametrize(
    "before",
    [
        "import multiprocessing",
        "import threading, time; threading.Thread(target=time.sleep, args=(2,)).start()",
    ],
)
def test_an_orderly_end_comes_where_processes_or_threads_may_need_it(before: str) -> None:
    done = run("info", "tresnet_m_21k", before=before)
    assert done.returncode == 0
    assert done.stderr == "an orderly end\n"


def test_exit_codes_are_those_of_the_work(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "no_such_model"]) == 2
    assert main(["predict", "no_such_file.jpg", "-m", "no_such_model"]) == 2
    assert capsys.readouterr().err.count("No weight 'no_such_model'.") == 2
    assert run("tree").returncode == 2
    assert run("--version").returncode == 0


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["pedict", "x.jpg"], "predict"),
        (["predict", "x.jpg", "--hegde", "0.3"], "--hedge"),
        (["predict", "x.jpg", "--ofline=1"], "--offline"),
        (["predict", "x.jpg", "--decode", "fulll"], "full"),
        (["predict", "x.jpg", "--rule", "coherant"], "coherent"),
        (["export", "onx"], "onnx"),
        (["export", "onnx", "-o", "x.onnx", "--ruel", "min"], "--rule"),
    ],
)
def test_a_misspelt_verb_flag_or_value_is_told_what_was_meant(
    words: list[str], meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    assert capsys.readouterr().err.endswith(f" Did you mean '{meant}'?\n")


@pytest.mark.skipif(os.name == "nt", reason="closes descriptors as a POSIX shell does")
def test_closed_streams_are_no_failure() -> None:
    python = f"'{sys.executable}' -m miil21k"
    assert subprocess.run(f"{python} info tresnet_m_21k >&- 2>&-", shell=True, check=False).returncode == 0
    assert subprocess.run(f"{python} info no_such_model >&- 2>&-", shell=True, check=False).returncode == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="has no /dev/full")
@pytest.mark.parametrize("words", [["info", "tresnet_m_21k"], ["models"]], ids=["a little", "more than a buffer"])
@pytest.mark.parametrize(("before", "end"), [("", ""), ("import multiprocessing", "an orderly end\n")])
def test_output_that_cannot_be_written_is_told_in_one_sentence(before: str, end: str, words: list[str]) -> None:
    command = [sys.executable, "-c", END.format(before=before), *words]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.stderr == f"miil21k {words[0]}: {os.strerror(28)}.\n{end}"
    assert done.returncode == 1
