"""The Ray engine on a real cluster of several nodes on this machine."""

from __future__ import annotations

import filecmp
import os
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from child_processes import started, wait_until
from raw_archives import MAX_PIXELS, raw_classes, write_outer

from miil21k.distribute.local import LocalEngine
from miil21k.errors import PrepareError
from miil21k.prepare.members import ClassUnit, list_members
from miil21k.prepare.options import PrepareOptions
from miil21k.prepare.run import prepare

if TYPE_CHECKING:
    from collections.abc import Iterator

ray = pytest.importorskip("ray")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def differing(left: Path, right: Path) -> list[str]:
    found = filecmp.dircmp(left, right)
    names = [*found.left_only, *found.right_only]
    names += filecmp.cmpfiles(left, right, found.common_files, shallow=False)[1]
    return names + [name for sub in found.common_dirs for name in differing(left / sub, right / sub)]


def raw_archive(folder: Path) -> Path:
    classes = {f"n0000{group}{wnid[5:]}": data for group in range(5) for wnid, data in raw_classes().items()}
    return write_outer(folder / "whole.tar.gz", classes, "w:gz")


def test_a_cluster_that_loses_a_node_ends_with_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.cluster_utils import Cluster

    from miil21k.distribute.ray_engine import RayEngine

    raw_archive(tmp_path)
    outer = Path("whole.tar.gz")  # every path is relative to a folder that no raylet stands in
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    base = PrepareOptions(min_images=10, val_per_class=2, max_pixels=MAX_PIXELS, codec="pillow")
    broken = replace(base, format="webdataset", shard_size=64)
    for name, options in (("folders", base), ("shards", broken)):
        prepare(str(outer), Path(f"local {name}"), options, LocalEngine(1))
    monkeypatch.chdir(tmp_path / "elsewhere")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    monkeypatch.chdir(tmp_path)
    engine = RayEngine(cluster.address)
    assert engine.joined == cluster.address
    finished: list[str] = []

    def kill_a_node(record: dict[str, Any]) -> None:
        finished.append(record.get("id", ""))
        if len(finished) == 6:
            cluster.remove_node(nodes.pop(), allow_graceful=False)

    try:
        assert ray.cluster_resources()["CPU"] == 3
        RayEngine(cluster.address).close()
        assert ray.is_initialized(), "an engine leaves only what it joined"
        prepare(str(outer), Path("ray folders"), base, engine, progress=kill_a_node)
        assert len(nodes) == 1
        assert len(finished) == len(set(finished)) == 20
        prepare(str(outer), Path("ray shards"), broken, engine)
        with pytest.raises(PrepareError, match="Cannot read"):  # an error of ours comes through as it is
            list(engine.run(list_members, [ClassUnit("n1", tmp_path / "gone.tar")]))
    finally:
        engine.close()
        assert not ray.is_initialized()
        cluster.shutdown()
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert differing(tmp_path / "local folders", tmp_path / "ray folders") == []
    assert differing(tmp_path / "local shards", tmp_path / "ray shards") == []


@pytest.fixture
def session() -> Iterator[Path]:
    """Return a folder for the sockets of Ray, whose names have to be short."""
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as made:
        yield Path(made)


@contextmanager
def started_head(folder: Path, **environment: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Start the head of a cluster as `ray start` does; give its address, and the environment of its user."""
    (folder / "home").mkdir()
    home = {**os.environ, "HOME": str(folder / "home"), "RAY_USAGE_STATS_ENABLED": "0", **environment}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    words = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--port", address.rpartition(":")[2]]
    words += ["--num-cpus", "2", "--include-dashboard", "false", "--temp-dir", str(folder / "ray")]
    subprocess.run(words, env=home, check=True, capture_output=True, timeout=600)
    try:
        yield address, home
    finally:
        kill_all(folder)


def kill_all(session: Path) -> None:
    """Kill every process of the cluster whose files lie in `session`."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if str(session).encode() in (process / "cmdline").read_bytes():
                os.kill(int(process.name), signal.SIGKILL)


def prepare_command(source: Path, target: Path, *more: str) -> list[str]:
    words = [sys.executable, "-m", "miil21k", "prepare", str(source), str(target), "--min-images", "10"]
    return [*words, "--val-per-class", "2", "--codec", "pillow", *more]


def test_a_cluster_whose_head_is_killed_ends_with_a_sentence_and_its_own_exit_code(
    tmp_path: Path, session: Path
) -> None:
    outer, target = raw_archive(tmp_path), tmp_path / "out"
    with started_head(session, RAY_gcs_rpc_server_reconnect_timeout_s="20") as (address, home):
        words = prepare_command(outer, target, "--engine", "ray", "--address", address, "--workers", "1")
        with started(words, env=home, stderr=subprocess.PIPE, text=True) as process:
            wait_until(lambda: any((target / ".prepare/units").glob("*.json")), process)
            process.send_signal(signal.SIGSTOP)
            kill_all(session)
            process.send_signal(signal.SIGCONT)
            errors = process.communicate(timeout=600)[1]
    assert process.returncode == 3, errors
    assert f"joined the Ray cluster at '{address}'" in errors
    assert "so the cluster is lost; what is finished is kept: run the same command again" in errors
    assert "Traceback" not in errors
    subprocess.run(prepare_command(outer, target), check=True, capture_output=True)
    subprocess.run(prepare_command(outer, tmp_path / "whole"), check=True, capture_output=True)
    assert differing(tmp_path / "whole", target) == []


def test_a_token_is_taken_from_where_it_lies_and_a_wrong_one_is_named(tmp_path: Path, session: Path) -> None:
    outer = raw_archive(tmp_path)
    token = {"RAY_AUTH_TOKEN": "a1" * 32}
    with started_head(session, RAY_AUTH_MODE="token", **token) as (address, home):
        del home["RAY_AUTH_MODE"]
        for right in (True, False):
            environment = home if right else {**home, "RAY_AUTH_TOKEN": "b2" * 32}
            words = prepare_command(outer, tmp_path / f"out {right}", "--engine", "ray", "--address", address)
            found = subprocess.run(words, env=environment, check=False, capture_output=True, text=True, timeout=600)
            assert found.returncode == (0 if right else 3), found.stderr
        assert found.stderr == (
            f"miil21k prepare: The Ray cluster at '{address}' asks for a token that is missing or wrong here: set "
            "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN (or ~/.ray/auth_token) to that of its head.\n"
        )


def test_a_cluster_of_somebody_else_is_not_joined_unasked(session: Path) -> None:
    script = (
        "import ray; from miil21k.distribute.ray_engine import RayEngine; engine = RayEngine({}); "
        "print(engine.joined, ray.get_runtime_context().gcs_address); engine.close()"
    )
    with started_head(session, RAY_TMPDIR=str(session)) as (address, home):
        mine = subprocess.run(
            [sys.executable, "-c", script.format("")], env=home, check=True, capture_output=True, text=True
        )
        assert mine.stdout.startswith("None 127.0.0.1:"), "a cluster of one's own asks nobody where it is"
        assert not mine.stdout.endswith(f":{address.rpartition(':')[2]}\n")
