"""Progress of `miil21k prepare`, and what is said of space."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING

from miil21k.cli import prepare_output
from miil21k.cli.prepare_output import PrepareProgress, VerifyProgress, print_plan

if TYPE_CHECKING:
    import pytest


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Return what standard error is from now on (not a fixture: pytest sets it anew when the test begins)."""
    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    return shown


def test_the_total_is_estimated_from_the_share_of_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_a_terminal(monkeypatch)
    with PrepareProgress() as progress:
        progress.update({"members": 300, "reached": 0.3, "resumed": True})
        progress.update({"members": 100, "reached": 0.5})
        assert (progress._bar.n, progress._bar.total, progress._bar.initial) == (400, 800, 300)
        progress.update({"members": 100, "reached": 0.4})  # finished later, but lies before
        assert (progress._bar.n, progress._bar.total) == (500, 1000)
        progress.update({"finished": 4, "shards": 9})
        assert (progress._bar.n, progress._bar.total, progress._bar.initial) == (4, 9, 3)
    assert "500/1000" in terminal.getvalue()
    assert "4/9" in terminal.getvalue()


def test_verifying_shows_files(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_a_terminal(monkeypatch)
    with VerifyProgress() as progress:
        progress.update(1, 50)
        progress.update(7, 50)
    assert "7/50" in terminal.getvalue()


def test_a_log_gets_lines_and_short_runs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    with PrepareProgress() as progress:
        progress.update({"members": 100, "reached": 0.5})
    assert log.getvalue() == ""
    monkeypatch.setattr(prepare_output, "_SECONDS_PER_LINE", 0)
    with PrepareProgress() as progress:
        progress.update({"members": 100, "reached": 0.5})
        progress.update({"members": 100, "reached": 1.0})
    lines = log.getvalue().splitlines()
    assert "\r" not in log.getvalue()
    assert any(line.startswith("50%|") and "100/200" in line for line in lines)
    assert "200/200" in lines[-1]


def test_a_dry_run_warns_when_the_disk_is_too_small(capsys: pytest.CaptureFixture[str]) -> None:
    plan = {
        "classes": {"total": 1},
        "images": {"train": 5},
        "members": 5,
        "outcomes": {"failed:link": 2},
        "release": {"name": None, "deviations": []},
        "damaged_archives": {"n1": "cut off after 3 members"},
        "ignored": ["a", "b", "c", "d", "e"],
        "bytes": 10**9,
        "peak_bytes": 2 * 10**9,
        "free_bytes": 2 * 10**9,
        "sampled": 5,
        "finished": 0,
    }
    print_plan(plan, as_json=False)
    found = capsys.readouterr()
    assert (
        "space     1.0 GB, at most 2.0 GB on the way\n          estimated from 5 images; 2.0 GB are free\n" in found.out
    )
    assert "          link 2\n" in found.out
    assert found.err == (
        "warning: archive of n1 cut off after 3 members\nwarning: no class, and left out: a, b, c and 2 more\n"
    )
    print_plan({**plan, "free_bytes": 10**9}, as_json=False)
    assert capsys.readouterr().err.endswith("warning: that is more than there is free\n")
