"""miil21k push, and what it pushed as a model of every verb, of timm and of transformers; against a Hub of our own."""

from __future__ import annotations

import json
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import timm
import torch
from hub_server import Fault, HubServer
from safetensors.torch import load, save

from miil21k.calibrate.record import Calibration
from miil21k.cli.main import main
from miil21k.errors import DownloadError, UsageError
from miil21k.hierarchy.custom import from_labels
from miil21k.hierarchy.load import load_label_space
from miil21k.runtime.loading import load_model
from miil21k.runtime.options import LoadOptions
from miil21k.train.job import create_network
from miil21k.train.options import TrainRequest
from miil21k.train.recipes import get_recipe
from miil21k.train.state import save_weights
from miil21k.train.teachers import open_teacher
from miil21k.zoo.checkpoint_card import TrainedCard, read_card
from miil21k.zoo.manifest import find_weights
from miil21k.zoo.names import identify, named_calibration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from miil21k.hierarchy.spaces import LabelSpace

# The client's own way of sending a file to its HTTP library.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

CAT = Path(__file__).parents[2] / "examples" / "images" / "cat.jpg"
IMAGES = torch.linspace(-1, 1, 2 * 3 * 96 * 96).view(2, 3, 96, 96)
SPACE = from_labels(Path("birds"), {"crow": "1", "wren*tit": "2", "owl": "3"}, glosses={"owl": "hunts at night"})
FILES = {"model.safetensors", "config.json", "label_space.tsv", "calibration.json", "README.md"}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    with HubServer(tokens={"hers": "anna", "his": "bert"}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setenv("MIIL21K_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", "5")
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        # The stand-in speaks the Hub's own protocol and not that of Xet, to which the client would turn.
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        # timm and transformers give no endpoint, so that the one holds which was set when the client was imported.
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
        template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield server


def _network(classes: int) -> torch.nn.Module:
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=classes).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # timm starts the last norm of a block at 0
            module.weight.data.uniform_(0.5, 1.5)
    return model


def _run(folder: Path, space: LabelSpace = SPACE, *, calibrated: bool = True) -> torch.nn.Module:
    """Write what a transfer leaves behind, and return its network."""
    model = _network(space.num_classes)
    own = find_weights("embedded").preprocess
    preprocess = own._replace(input_size=(3, 96, 96), crop_pct=0.8, crop_mode="squash", interpolation="bilinear")
    card = TrainedCard("test_resnet", {"drop_rate": 0.25}, "leaf_softmax", space, preprocess, "probe", {"epoch": "3"})
    save_weights(folder / "model.safetensors", model.state_dict(), card.to_metadata())
    report = {"accuracy": 0.9, "accuracy_low": 0.7, "accuracy_high": 0.97, "num_test": 40, "base": "embedded"}
    (folder / "report.json").write_text(json.dumps({**report, "data": "/home/anna/secret/birds"}))
    if calibrated:
        found = Calibration(space.name, space.sha256, "m", "", "leaf_softmax", "", "", (2.0,), ((0.9, 0.5),), (10, 10))
        found.save(folder / "calibration.json")
    return model


@pytest.fixture
def pushed(hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> torch.nn.Module:
    run = tmp_path / "run"
    run.mkdir()
    model = _run(run)
    assert main(["push", str(run), "hf-hub:anna/birds", "--token", "hers", "--licence", "mit"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "hf-hub:anna/birds"
    shutil.rmtree(run)
    return model


def test_a_push_is_one_commit_with_large_files_apart(hub: HubServer, pushed: torch.nn.Module) -> None:
    files = hub.repos["anna/birds"]
    assert files.keys() == FILES
    assert list(hub.stored.values()) == [files["model.safetensors"]]
    assert hub.count("POST", "/commit/main") == 1
    assert load_label_space("in1k").to_text() != files["label_space.tsv"].decode() == SPACE.to_text()
    stored = load(files["model.safetensors"])
    assert all(torch.equal(stored[name], tensor) for name, tensor in pushed.state_dict().items())
    config = json.loads(files["config.json"])
    assert config["architecture"] == "test_resnet"
    assert config["label_names"] == ["crow", "wren*tit", "owl"]
    assert config["label_descriptions"]["owl"] == "owl: hunts at night"
    assert config["model_args"] == {"drop_rate": 0.25}
    assert config["pretrained_cfg"]["license"] == "mit"


def test_the_card_says_what_it_is_how_good_whose_and_how_to_use_it(hub: HubServer, pushed: torch.nn.Module) -> None:
    card = hub.repos["anna/birds"]["README.md"].decode()
    header, _, text = card.removeprefix("---\n").partition("\n---\n")
    fields = dict(line.split(": ", 1) for line in header.splitlines())
    assert fields["license"] == '"mit"'
    assert json.loads(fields["model-index"])[0]["results"][0]["metrics"] == [{"type": "accuracy", "value": 0.9}]
    assert "miil21k-predict -m hf-hub:anna/birds --calibration hf-hub:anna/birds photo.jpg" in text
    assert "40 images that were held out; 95 % of such samples give an accuracy from 70.0% to 97.0%" in text
    assert "whose licence is Apache-2.0" in text
    assert "wren\\*tit" in text
    assert "secret" not in card, "a path of the author's machine"


def test_what_was_pushed_loads_by_timm_with_its_preprocessing(hub: HubServer, pushed: torch.nn.Module) -> None:
    model = timm.create_model("hf-hub:anna/birds", pretrained=True).eval()
    assert torch.equal(model(IMAGES), pushed(IMAGES))
    assert model.drop_rate == 0.25
    found = timm.data.resolve_model_data_config(model)
    assert tuple(found["input_size"]) == (3, 96, 96)
    assert (found["crop_pct"], found["crop_mode"], found["interpolation"]) == (0.8, "squash", "bilinear")
    assert tuple(found["mean"]) == find_weights("embedded").preprocess.mean


def test_what_was_pushed_loads_by_transformers(hub: HubServer, pushed: torch.nn.Module, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForImageClassification.from_pretrained("anna/birds", cache_dir=tmp_path / "t").eval()
    assert torch.equal(model(IMAGES).logits, pushed(IMAGES))
    assert model.config.id2label == {0: "crow", 1: "wren*tit", 2: "owl"}


def test_every_verb_takes_what_was_pushed(
    hub: HubServer, pushed: torch.nn.Module, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = load_model("hf-hub:anna/birds")
    assert loaded.name == "hf-hub:anna/birds"
    assert loaded.space.to_text() == SPACE.to_text()
    assert loaded.preprocess.crop_mode == "squash"
    assert torch.equal(loaded.model(IMAGES), pushed(IMAGES))
    command = ["predict", "-m", "hf-hub:anna/birds", "--calibration", "hf-hub:anna/birds", "-f", "jsonl", str(CAT)]
    assert main(command) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["label_space"] == "birds"
    asked = len(hub.requests)
    assert main([*command, "--offline"]) == 0
    assert json.loads(capsys.readouterr().out)["path"] == row["path"]
    assert len(hub.requests) == asked
    request = TrainRequest("d", "hf-hub:anna/birds", "r", get_recipe("finetune"), tmp_path, offline=True)
    network, card, start = create_network(request, SPACE)
    assert torch.equal(network.eval()(IMAGES), pushed(IMAGES))
    assert (card.arch_kwargs, start and start.name) == ({"drop_rate": 0.25}, "hf-hub:anna/birds")
    assert main(["fetch", "hf-hub:anna/birds", "--offline", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["exports"] == []
    recipe = replace(get_recipe("usi"), teacher="hf-hub:anna/birds", precision="fp32")
    teacher = open_teacher(recipe, offline=True)
    assert teacher is not None
    assert teacher.space.to_text() == SPACE.to_text()


def test_every_verb_takes_the_calibration_of_what_was_pushed(
    hub: HubServer, pushed: torch.nn.Module, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in SPACE.tree.names:
        (tmp_path / "data" / name).mkdir(parents=True)
        shutil.copy(CAT, tmp_path / "data" / name)
    own = ["hf-hub:anna/birds", "--calibration", "hf-hub:anna/birds"]
    assert main(["validate", str(tmp_path / "data"), "-m", *own, "--hedge", "0.9", "-f", "json", "-q"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"]["hedged"]["level"] == 0.5
    pytest.importorskip("onnxscript", reason="the extra 'export' is not installed")
    assert main(["export", "onnx", *own, "-o", str(tmp_path / "birds.onnx")]) == 0
    decoding = json.loads((tmp_path / "birds.onnx.json").read_text())["decoding"]
    assert json.loads(decoding["calibration"])["thresholds"] == [[0.9, 0.5]]


def test_push_and_bundle_take_a_calibration_of_the_hub(
    hub: HubServer, pushed: torch.nn.Module, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _run(tmp_path, calibrated=False)
    words = [str(tmp_path), "anna/finches", "--calibration", "hf-hub:anna/birds", "--revision", "v2"]
    assert main(["push", *words, "--token", "hers"]) == 0
    files = hub.branches["anna/finches", "v2"]
    assert files["calibration.json"] == hub.repos["anna/birds"]["calibration.json"]
    in1k = load_label_space("in1k")
    fitted = Calibration(in1k.name, in1k.sha256, "embedded", "", "leaf_softmax", "", "", (1.5,), (), (9, 9))
    hub.publish("anna/fitted", "calibration.json", fitted.to_json().encode())
    words = ["bundle", "create", "embedded", "-o", str(tmp_path / "b.tar"), "--calibration"]
    assert main([*words, "embedded=hf-hub:anna/fitted"]) == 0
    with tarfile.open(tmp_path / "b.tar") as tar:
        assert tar.extractfile("calibration/embedded.json").read() == fitted.to_json().encode()  # type: ignore[union-attr]
    capsys.readouterr()
    assert main([*words, "embedded=hf-hub:anna/birds"]) == 2
    assert "'embedded' has a leaf_softmax head of 'in1k'" in capsys.readouterr().err


def test_a_calibration_is_of_the_revision_that_is_named(hub: HubServer, tmp_path: Path) -> None:
    _run(tmp_path)
    assert main(["push", str(tmp_path), "anna/birds", "--token", "hers", "--revision", "v2"]) == 0
    assert named_calibration("hf-hub:anna/birds", revision="v2").thresholds == ((0.9, 0.5),)
    with pytest.raises(DownloadError, match="404"):
        named_calibration("hf-hub:anna/birds")
    with pytest.raises(UsageError, match="cannot be read"):
        named_calibration(tmp_path / "none.json")


def test_a_branch_is_made_and_read(hub: HubServer, tmp_path: Path) -> None:
    _run(tmp_path, calibrated=False)
    command = ["push", str(tmp_path / "model.safetensors"), "anna/birds", "--token", "hers", "--revision", "v2"]
    assert main(command) == 0
    assert hub.repos["anna/birds"] == {}
    assert hub.branches["anna/birds", "v2"].keys() == FILES - {"calibration.json"}
    for name, revision in (("hf-hub:anna/birds@v2", None), ("hf-hub:anna/birds", "v2")):
        assert load_model(name, LoadOptions(revision=revision)).space.name == "birds"
    with pytest.raises(DownloadError, match="404"):
        load_model("hf-hub:anna/birds")


def test_a_private_repository_answers_a_token_alone(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _run(tmp_path)
    monkeypatch.setenv("HF_TOKEN", "hers")
    assert main(["push", str(tmp_path), "anna/birds", "--private"]) == 0
    assert hub.private == {"anna/birds"}
    assert load_model("hf-hub:anna/birds", LoadOptions(cache_dir=tmp_path / "a")).space.name == "birds"
    monkeypatch.setenv("HF_TOKEN", "his")
    with pytest.raises(DownloadError, match="401 Unauthorized; a token may be needed"):
        load_model("hf-hub:anna/birds", LoadOptions(cache_dir=tmp_path / "b"))


@pytest.mark.parametrize(
    ("words", "said", "code"),
    [
        ([], "HTTP 401): log in with 'hf auth login', or give --token", 1),
        (["--token", "his"], "HTTP 403): the token needs the right to write, and you must be 'anna'", 1),
        (["--token", "hers", "--calibration", "other.json"], "has a leaf_softmax head of 'birds'", 2),
        (["--token", "hers", "-o", "."], "holds the run itself", 2),
    ],
)
def test_a_refusal_is_one_sentence(
    hub: HubServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    said: str,
    code: int,
) -> None:
    _run(tmp_path)
    monkeypatch.chdir(tmp_path)
    other = load_label_space("in1k")
    Calibration(other.name, other.sha256, "", "", "leaf_softmax", "", "", (1.0,), (), (1, 1)).save("other.json")
    assert main(["push", ".", "anna/birds", *words]) == code
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not hub.repos


@pytest.mark.parametrize(
    ("fault", "said"), [(404, "HTTP 404): check the name and the token"), (500, "HTTP 500 Internal Server Error")]
)
def test_a_hub_that_fails_on_the_way_is_said(
    hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: int, said: str
) -> None:
    _run(tmp_path)
    hub.write_faults["/commit/"] = [Fault(status=fault)]
    assert main(["push", str(tmp_path), "anna/birds", "--token", "hers"]) == 1
    assert said in capsys.readouterr().err
    stored = len(hub.requests)
    assert main(["push", str(tmp_path), "anna/birds", "--token", "hers"]) == 0
    assert not any(request.method == "PUT" for request in hub.requests[stored:]), "large files are there already"


def test_a_hub_that_is_away_or_forbidden_is_said(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _run(tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert main(["push", str(tmp_path), "anna/birds"]) == 1
    assert "The Hub at http://127.0.0.1:9 cannot be reached" in capsys.readouterr().err
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(["push", str(tmp_path), "anna/birds"]) == 2
    assert "the network is off limits (HF_HUB_OFFLINE); --dry-run needs none" in capsys.readouterr().err


def test_a_dry_run_writes_the_folder_and_sends_nothing(
    hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _run(tmp_path)
    assert main(["push", str(tmp_path), "anna/birds", "--dry-run", "--intended-use", "Birds in gardens."]) == 0
    assert {path.name for path in (tmp_path / "hub").iterdir()} == FILES
    assert "Birds in gardens." in capsys.readouterr().out
    assert not hub.requests
    card = read_card(tmp_path / "hub" / "model.safetensors")
    assert card is not None
    assert card.space.sha256 == SPACE.sha256


@pytest.mark.parametrize(
    ("run", "repository", "said"),
    [
        ("nowhere", "anna/birds", "There is no run 'nowhere'"),
        ("empty", "anna/birds", "holds no checkpoint"),
        ("knn", "anna/birds", "an export and no checkpoint"),
        ("knn/model.onnx", "anna/birds", "is no checkpoint of miil21k"),
        ("knn", "birds", "write OWNER/REPOSITORY"),
        ("knn", "anna/../birds", "write OWNER/REPOSITORY"),
    ],
)
def test_what_cannot_be_pushed_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    run: str,
    repository: str,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("knn").mkdir()
    Path("knn/model.onnx").write_bytes(b"x")
    assert main(["push", run, repository]) == 2
    assert said in capsys.readouterr().err


IN1K = load_label_space("in1k")
LABELS: dict[str, tuple[Any, str, str]] = {
    "wnids": (list(IN1K.wnids), "in1k", "n02123045"),
    "names": ([f"{name}, and more" for name in IN1K.tree.names[:1000]], "in1k", "n02123045"),
    "own": (["crow", "wren", "owl"], "net", "owl"),
    "table": ({"2": "owl", "0": "crow", "1": "wren"}, "net", "owl"),
    "others": (["n02123045", "n02084071"], "net", "n02084071"),
}


@pytest.mark.parametrize("kind", LABELS)
def test_what_timm_pushed_is_read_by_its_label_names(hub: HubServer, kind: str) -> None:
    labels, space, wnid = LABELS[kind]
    config = {"architecture": "test_resnet", "num_classes": len(labels), "label_names": labels, "pretrained_cfg": {}}
    hub.publish("owner/net", "config.json", json.dumps(config).encode())
    hub.publish("owner/net", "model.safetensors", save(_network(len(labels)).state_dict()))
    found = load_model("hf-hub:owner/net").space
    assert (found.name, found.num_classes) == (space, len(labels))
    assert wnid in found.wnids


def test_what_has_no_usable_label_names_asks_for_a_label_space(
    hub: HubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    config = {"architecture": "test_resnet", "num_classes": 2, "label_names": ["cat", "cat"], "pretrained_cfg": {}}
    hub.publish("owner/net", "config.json", json.dumps(config).encode())
    assert main(["predict", "-m", "hf-hub:owner/net", str(CAT)]) == 2
    assert "say with label_space" in capsys.readouterr().err


def test_a_file_that_is_not_what_its_configuration_claims_is_refused(
    hub: HubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    config = {"architecture": "test_resnet", "num_classes": 2, "pretrained_cfg": {}, "miil21k": {}}
    hub.publish("owner/net", "config.json", json.dumps(config).encode())
    hub.publish("owner/net", "model.safetensors", save(_network(2).state_dict()))
    assert main(["predict", "-m", "hf-hub:owner/net", str(CAT)]) == 1
    assert "was not written by miil21k train" in capsys.readouterr().err
    row = identify("hf-hub:owner/net")
    assert [source.file for source in row.sources] == ["model.safetensors"]  # type: ignore[union-attr]
