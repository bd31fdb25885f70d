"""download.sh and install.sh beside a bundle, the latter from the one file that is carried, where there is no route."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from miil21k import __version__
from miil21k.cli.main import main
from miil21k.errors import UsageError
from miil21k.store.installer import write_installer

ROOT = Path(__file__).parents[2]
CAT = ROOT / "examples" / "images" / "cat.jpg"


def test_the_scripts_name_version_extras_and_bundle(tmp_path: Path) -> None:
    download, install = write_installer(tmp_path / "my net.tar", ["embedded"], ["embedded", "serve"])
    assert f"--dest wheels 'miil21k[embedded,serve]=={__version__}'" in download.read_text()
    assert "bundle install './my net.tar'" in install.read_text()
    for script in (download, install):
        assert os.access(script, os.X_OK)
        subprocess.run(["sh", "-n", script], check=True)


def test_an_extra_is_a_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'a; rm' is no extra"):
        write_installer(tmp_path / "net.tar", ["embedded"], ["a; rm"])


def _air(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """Make the file that is carried, and unpack it elsewhere; the one wheel in it is made from these sources."""
    folder, air = tmp_path / "here", tmp_path / "air"
    folder.mkdir()
    assert main(["bundle", "create", "embedded", "-o", str(folder / "net.tar"), "--installer", "embedded"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [str(folder / "download.sh"), str(folder / "install.sh")]
    pip = tmp_path / "python"
    build = f"{sys.executable} -m hatchling build -t wheel -d {folder / 'wheels'}"
    pip.write_text(f'#!/bin/sh\n[ "$1 $2 $3" = "-m pip download" ] && cd {ROOT} && {build}\n')
    pip.chmod(0o755)
    environment = {**os.environ, "PYTHON": str(pip)}
    done = subprocess.run(["sh", folder / "download.sh"], env=environment, capture_output=True, text=True, check=True)
    assert f"1 packages. From {folder} carry ./net-carry.tar" in done.stdout
    with tarfile.open(folder / "net-carry.tar") as tar:
        (wheel,) = (folder / "wheels").iterdir()
        carried = {"./net.tar", "install.sh", "SHA256SUMS", "wheels", f"wheels/{wheel.name}"}
        assert set(tar.getnames()) == carried
        tar.extractall(air, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    shutil.rmtree(folder)
    return air


needs_sums = pytest.mark.skipif(shutil.which("sha256sum") is None, reason="sha256sum is not installed")


@needs_sums
def test_a_package_that_changed_on_its_way_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    air = _air(tmp_path, capsys)
    (wheel,) = (air / "wheels").iterdir()
    wheel.write_bytes(wheel.read_bytes() + b"x")
    done = subprocess.run(["sh", air / "install.sh"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "A package was changed on its way." in done.stderr
    assert not (air / "env").exists()


@pytest.mark.slow
@needs_sums
def test_it_installs_and_predicts_without_a_route(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What miil21k needs is there already (PIP_NO_DEPS): its wheels would be gigabytes."""
    alone = ["unshare", "-rn"]
    if shutil.which("unshare") is None or subprocess.run([*alone, "true"], check=False).returncode:
        pytest.skip("no network namespaces here")
    air = _air(tmp_path, capsys)
    packages = tmp_path / "packages"  # all that is installed but miil21k itself
    packages.mkdir()
    for entry in Path(np.__file__).parents[1].iterdir():
        if "miil21k" not in entry.name:
            (packages / entry.name).symlink_to(entry)
    needed = {
        "PIP_NO_DEPS": "1",
        "PYTHONPATH": str(packages),
        "MIIL21K_CACHE": str(tmp_path / "cache"),
        "HOME": str(tmp_path),
        "PYTHON": sys.executable,
    }
    environment = {**os.environ, **needed}
    routes = subprocess.run([*alone, "cat", "/proc/net/route"], capture_output=True, text=True, check=True)
    assert len(routes.stdout.splitlines()) <= 1, "the head line alone"
    done = subprocess.run(
        [*alone, "sh", air / "install.sh"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    where = [air / "env/bin/python", "-c", "import miil21k; print(miil21k.__file__)"]
    home = subprocess.run(where, env=environment, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert home.stdout.startswith(str(air / "env"))
    command = [*alone, air / "env/bin/miil21k-predict", "-m", "embedded", "--offline", "-f", "jsonl", CAT]
    row = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert '"status": "ok"' in row.stdout
