"""`miil21k doctor` from the command line."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from miil21k.cli.main import main

if TYPE_CHECKING:
    from pathlib import Path


def test_text_and_json_say_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["doctor", "--offline", "--cache-dir", str(tmp_path)]
    assert main(words) == 0, "the embedded weights are here, so something can be predicted"
    text = capsys.readouterr().out
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["offline"] is True
    assert found["versions"]["torch"] in text
    assert all(place["path"] in text for place in found["places"])
    assert "off limits: no host was asked" in text
    assert "weights here: embedded" in text
    assert all(sentence in text for sentence in found["advice"])


@pytest.mark.parametrize("seconds", ["-1", "0", "nan", "inf", "soon"])
def test_a_wait_that_makes_no_sense_is_a_usage_error(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["doctor", f"--timeout={seconds}"])
    assert stop.value.code == 2
    assert seconds in capsys.readouterr().err
