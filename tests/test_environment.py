"""CPUs under a container's quota, versions of what may be missing, and extras that are asked for by name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import miil21k
from miil21k.environment import available_cpus, cpu_quota, installed_versions, need, require, version_of
from miil21k.errors import Miil21kError, MissingExtra

V1 = "30 24 0:26 {within} /sys/fs/cgroup/cpu rw,nosuid shared:8 - cgroup cgroup rw,cpu,cpuacct\n"
V2 = "30 24 0:26 {within} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"


def machine(root: Path, groups: str, mounts: str, files: dict[str, str]) -> Path:
    for name, text in {"proc/self/cgroup": groups, "proc/self/mountinfo": mounts, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def test_a_quota_of_version_2_counts_and_the_least_one_on_the_way_up(tmp_path: Path) -> None:
    files = {
        "sys/fs/cgroup/a/cpu.max": "150000 100000\n",
        "sys/fs/cgroup/a/b/cpu.max": "max 100000\n",
        "sys/fs/cgroup/a/b/c/cpu.max": "400000 100000\n",
    }
    assert cpu_quota(machine(tmp_path, "0::/a/b/c\n", V2.format(within="/"), files)) == 1.5


def test_a_quota_of_version_1_counts(tmp_path: Path) -> None:
    files = {
        "sys/fs/cgroup/cpu/docker/x/cpu.cfs_quota_us": "50000\n",
        "sys/fs/cgroup/cpu/docker/x/cpu.cfs_period_us": "100000\n",
    }
    groups = "5:cpuset:/\n4:cpu,cpuacct:/docker/x\n"
    assert cpu_quota(machine(tmp_path, groups, V1.format(within="/"), files)) == 0.5


def test_within_a_container_the_path_of_the_host_is_not_looked_for(tmp_path: Path) -> None:
    files = {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "200000\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"}
    mounts = V1.format(within="/docker/x")
    assert cpu_quota(machine(tmp_path, "4:cpu,cpuacct:/docker/x\n", mounts, files)) == 2
    assert cpu_quota(machine(tmp_path, "4:cpu,cpuacct:/somewhere/else\n", mounts, files)) == 2


@pytest.mark.parametrize("text", ["max 100000", "", "x y", "1 0", "-1 100000"])
def test_no_limit_and_what_cannot_be_read_are_no_quota(tmp_path: Path, text: str) -> None:
    assert cpu_quota(machine(tmp_path, "0::/\n", V2.format(within="/"), {"sys/fs/cgroup/cpu.max": text})) is None
    assert cpu_quota(tmp_path / "nowhere") is None


def test_the_quota_bounds_the_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    for quota, cpus in ((None, 8), (0.2, 1), (1.5, 2), (3.0, 3), (64.0, 8)):
        monkeypatch.setattr("miil21k.environment.cpu_quota", lambda quota=quota: quota)
        assert available_cpus() == cpus


def test_a_package_that_is_not_installed_has_no_version() -> None:
    versions = installed_versions()
    assert versions["miil21k"] == miil21k.__version__
    assert {"python", "torch", "timm", "numpy", "pillow", "safetensors"} <= set(versions)
    assert version_of("no-such-package") is None
    assert installed_versions(["no-such-package"]).keys() == {"python", "miil21k"}


def test_a_clone_that_is_installed_nowhere_knows_its_versions() -> None:
    code = (
        "import importlib.metadata as m\n"
        "real = m.version\n"
        "def version(name):\n"
        "    if name == 'miil21k': raise m.PackageNotFoundError(name)\n"
        "    return real(name)\n"
        "m.version = version\n"
        "from miil21k.environment import installed_versions\n"
        "print(installed_versions()['miil21k'])"
    )
    root = str(Path(miil21k.__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": root}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == miil21k.__version__


def test_an_extra_is_asked_for_by_the_line_that_installs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert need("json", "none", "Reading") is sys.modules["json"]
    with pytest.raises(
        MissingExtra, match=r"^Drawing needs the package 'nopackage', .*: pip install 'miil21k\[plots\]'$"
    ):
        need("nopackage.inner", "plots", "Drawing")
    with pytest.raises(MissingExtra, match=r"^Drawing needs the package 'no-package', "):
        require("nopackage", "plots", "Drawing", package="no-package")
    (tmp_path / "half.py").write_text("import notthere", encoding="utf-8")
    (tmp_path / "broken.py").write_text("raise OSError('libx.so: no such file')", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(Miil21kError, match="misses one of its own: No module named 'notthere'"):
        need("half", "plots", "Drawing")
    with pytest.raises(Miil21kError, match=r"cannot be imported: libx\.so"):
        need("broken", "plots", "Drawing")
    assert "broken" not in sys.modules
    require("broken", "plots", "Drawing")  # is there, and nothing runs it
