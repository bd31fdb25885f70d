"""schemathesis reads the description and sends what it allows, and what it does not, to a real server."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("starlette", reason="the extra 'serve' is not installed")
pytest.importorskip("onnx", reason="the extra 'export' is not installed")
pytest.importorskip("schemathesis", reason="schemathesis is not installed")

from colour_export import write_colour_export
from served import running

from miil21k.predict.predictor import Predictor
from miil21k.serve.app import create_app
from miil21k.serve.bodies import Limits
from miil21k.serve.query import Asked
from miil21k.serve.service import serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# A noun that nobody knows and two options that exclude each other are 400, and no schema says which they are.
SETTINGS = '[checks]\npositive_data_acceptance.expected-statuses = ["2xx", "400", "404", "503"]\n'


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    path = tmp_path / "colours.onnx"
    write_colour_export(path)
    predictor = Predictor(str(path), batch_size=8)
    with serving(predictor, workers=2, max_wait=0.0, queue=64) as service:
        service.warm_up()
        with running(create_app(service, Asked(predictor.options, None), Limits(1 << 20, 4, 60))) as port:
            yield port


@pytest.mark.slow
def test_nothing_is_found_in_the_description(port: int, tmp_path: Path) -> None:
    (tmp_path / "schemathesis.toml").write_text(SETTINGS)
    program = [sys.executable, "-m", "schemathesis.cli"]
    found = subprocess.run(
        [
            *program,
            "run",
            f"http://127.0.0.1:{port}/openapi.json",
            "--max-examples",
            "15",
            "--generation-deterministic",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert found.returncode == 0, found.stdout[-4000:]
