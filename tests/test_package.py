"""The public surface, what importing it costs, and what the wheel carries."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import miil21k

ROOT = Path(__file__).parent.parent
HEAVY = ("torch", "timm", "torchvision", "onnxruntime", "nltk", "huggingface_hub", "matplotlib")


def test_public_names_are_sorted_and_all_open() -> None:
    assert sorted(miil21k.__all__, key=str.lower) == sorted(miil21k.__dir__(), key=str.lower)
    assert miil21k.__all__ == sorted(miil21k.__all__)
    for name in miil21k.__all__:
        assert getattr(miil21k, name) is not None
    doors = ast.parse((ROOT / "miil21k" / "__init__.py").read_text(encoding="utf-8"))
    typed = {alias.name for node in ast.walk(doors) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert set(miil21k.__all__) <= typed | {"__version__"}, "type checkers see what users see"


def test_no_public_name_is_that_of_a_room() -> None:
    rooms = {path.stem for path in (ROOT / "miil21k").iterdir()}
    assert len(rooms) > 20
    assert rooms.isdisjoint(miil21k.__all__)


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Predicter'"):
        _ = miil21k.Predicter


@pytest.mark.parametrize(
    "statement",
    [
        "import miil21k",
        "from miil21k import Predictor, Prediction, PredictOptions, LabelSpace, Tree, load_label_space",
        "from miil21k import Calibration, Decoder, MeasureOptions, load_calibration",
        "from miil21k import fetch_weights, find_weights, list_models",
        "from miil21k.cli.main import predict_main\ntry: predict_main(['--help'])\nexcept SystemExit: pass",
        "from miil21k.cli.main import main\ntry: main(['--help'])\nexcept SystemExit: pass",
        "from miil21k.cli.main import main\nmain(['tree', 'show', 'in1k'])",
        "from miil21k.cli.main import main\nmain(['models', 'bit*'])",
        "from miil21k.cli.main import main\nmain(['info', 'embedded'])",
    ],
)
def test_light_work_imports_nothing_heavy(statement: str) -> None:
    code = f"import sys\n{statement}\nprint([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_importing_the_package_loads_nothing_but_itself() -> None:
    code = (
        "import sys, __future__, importlib, typing\nbefore = set(sys.modules)\nimport miil21k\n"
        "print(sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['miil21k']"


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "miil21k", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"miil21k {miil21k.__version__}"


def test_an_unknown_verb_is_a_usage_error() -> None:
    done = subprocess.run([sys.executable, "-m", "miil21k", "predikt"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "predikt" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_wheel_carries_data_types_and_licences(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        manifest = archive.read("miil21k/weights_manifest.json")
    assert manifest == (ROOT / "weights_manifest.json").read_bytes()
    spaces = {f"miil21k/hierarchy/label_spaces/{name}.tsv" for name in ("fall11", "winter21", "goog21k", "in1k")}
    others = ("withdrawn_persons.txt", "concepts.tsv", "concepts.bin", "nouns.tsv.gz")
    spaces |= {f"miil21k/hierarchy/label_spaces/{name}" for name in others}
    assert spaces | {"miil21k/py.typed", "miil21k/hierarchy/hypernym_choices.tsv", "miil21k/serve/page.html"} <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert any(name.endswith("LICENSE.wordnet") for name in names)
    assert "miil21k/photographs/SOURCES.md" in names, "who took the photographs, and on what terms"
    folders = {name.partition("/")[0] for name in names}
    assert folders == {"miil21k", f"miil21k-{miil21k.__version__}.dist-info"}
    assert sum(info.file_size for info in archive.infolist()) < 40e6
    assert max(info.compress_size for info in archive.infolist()) < 8e6


def test_the_sdist_builds_and_tests_by_itself(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    needed = {"pyproject.toml", "weights_manifest.json", "tests/test_package.py", "docs/hub.md", "scripts/check"}
    assert needed | {"LICENSE", "README.md", "CITATION.cff", "SECURITY.md", "CHANGELOG.md"} <= names
    strays = re.compile(
        r"(^|/)(\.git|\.venv|node_modules|__pycache__|dist|build|\.DS_Store)/|\.(onnx\.data|pth|safetensors)$"
    )
    assert not [name for name in names if strays.search(name)]
    assert archive.stat().st_size < 40e6


def test_what_states_a_version_states_the_same() -> None:
    stated = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    cited = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)
    assert stated is not None
    assert cited is not None
    assert stated[1] == cited[1] == miil21k.__version__


def test_a_release_is_installed_on_every_python_that_the_classifiers_name() -> None:
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    workflow = (ROOT / ".github/workflows/release.yml").read_text(encoding="utf-8")
    matrix = re.search(r"python: \[(.+)\]", workflow)
    assert matrix is not None
    named = re.findall(r"Python :: (3\.\d+)", pyproject)
    assert set(named) <= set(re.findall(r'"(3\.\d+)"', matrix[1]))
    assert f'requires-python = ">={named[0]}"' in pyproject
