"""The Ray engine on a real cluster of several nodes on this machine."""

from __future__ import annotations

import filecmp
from typing import TYPE_CHECKING, Any

import pytest
from raw_archives import MAX_PIXELS, raw_classes, write_outer

from miil21k.distribute.local import LocalEngine
from miil21k.errors import PrepareError
from miil21k.prepare.members import ClassUnit, list_members
from miil21k.prepare.options import PrepareOptions
from miil21k.prepare.run import prepare

if TYPE_CHECKING:
    from pathlib import Path

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


def test_a_cluster_that_loses_a_node_ends_with_the_same_bytes(tmp_path: Path) -> None:
    from ray.cluster_utils import Cluster

    from miil21k.distribute.ray_engine import RayEngine

    classes = {f"n0000{group}{wnid[5:]}": data for group in range(5) for wnid, data in raw_classes().items()}
    outer = write_outer(tmp_path / "whole.tar.gz", classes, "w:gz")
    base = PrepareOptions(min_images=10, val_per_class=2, max_pixels=MAX_PIXELS)
    broken = PrepareOptions(min_images=10, val_per_class=2, max_pixels=MAX_PIXELS, format="webdataset", shard_size=64)
    for name, options in (("folders", base), ("shards", broken)):
        prepare(str(outer), tmp_path / f"local {name}", options, LocalEngine(1))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    engine = RayEngine(cluster.address)
    finished: list[str] = []

    def kill_a_node(record: dict[str, Any]) -> None:
        finished.append(record.get("id", ""))
        if len(finished) == 6:
            cluster.remove_node(nodes.pop(), allow_graceful=False)

    try:
        assert ray.cluster_resources()["CPU"] == 3
        RayEngine(cluster.address).close()
        assert ray.is_initialized(), "an engine leaves only what it joined"
        prepare(str(outer), tmp_path / "ray folders", base, engine, progress=kill_a_node)
        assert len(nodes) == 1
        assert len(finished) == len(set(finished)) == 20
        prepare(str(outer), tmp_path / "ray shards", broken, engine)
        with pytest.raises(PrepareError, match="Cannot read"):  # an error of ours comes through as it is
            list(engine.run(list_members, [ClassUnit("n1", tmp_path / "gone.tar")]))
    finally:
        engine.close()
        assert not ray.is_initialized()
        cluster.shutdown()
    assert differing(tmp_path / "local folders", tmp_path / "ray folders") == []
    assert differing(tmp_path / "local shards", tmp_path / "ray shards") == []
