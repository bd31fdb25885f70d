"""Selection from images and from rows, on real files and a real export: what is listed, what is said, what goes on."""

from __future__ import annotations

import csv
import json
import logging
import tarfile
from pathlib import Path
from typing import Any

import pytest
from colour_export import write_colour_export
from level_network import write_level_network
from PIL import Image
from shapes import COLOURS, shape_space

from miil21k.cli.main import main
from miil21k.teachers import select as module
from miil21k.teachers.select import report_path, unfinished_path

COLOUR_NAMES = list(COLOURS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the export and a pool: 30 images of three colours, more and less pure, and one text."""
    path = tmp_path_factory.mktemp("select")
    write_colour_export(path / "colours.onnx")
    (path / "pool").mkdir()
    for number in range(30):
        colour = COLOURS[COLOUR_NAMES[number % 3]]
        faded = tuple(int(value + (128 - value) * number / 60) for value in colour)
        Image.new("RGB", (12, 12), faded).save(path / "pool" / f"{number:02d}.png")
    (path / "pool" / "text.png").write_text("no picture", encoding="utf-8")
    return path


def select(folder: Path, *words: object) -> int:
    return main(["select", *map(str, words), "-m", str(folder / "colours.onnx"), "-b", "4", "-j", "1"])


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_purest_images_of_each_colour_are_listed_best_first(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "s.csv"
    assert select(folder, folder / "pool", "-K", 4, "-P", 1, "-o", out) == 1, "one file is no picture"
    rows = rows_of(out)
    assert list(rows[0]) == ["wnid", "rank", "score", "input"]
    found: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        found.setdefault(row["wnid"], []).append(row)
    for mine in found.values():
        assert [int(row["rank"]) for row in mine] == list(range(len(mine)))
        scores = [float(row["score"]) for row in mine]
        assert scores == sorted(scores, reverse=True)
        assert len(mine) <= 4
        assert len({int(Path(row["input"]).stem) % 3 for row in mine}) == 1, "a class has one colour"
    report = json.loads(report_path(out).read_text(encoding="utf-8"))
    assert (report["images"], report["unreadable"], report["rows"]) == (31, 1, len(rows))
    assert report["selected_images"] == len({row["input"] for row in rows})
    lost = rows_of(tmp_path / "s.unreadable.csv")
    assert [Path(row["input"]).name for row in lost] == ["text.png"]
    assert not unfinished_path(out).exists()


def test_what_there_is_to_say_is_said_in_a_sentence_each(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    same = tmp_path / "val" / "n00000001"
    same.mkdir(parents=True)
    (same / "x.png").write_bytes((folder / "pool" / "00.png").read_bytes())
    select(folder, folder / "pool", "-K", 50, "-P", 1, "-o", tmp_path / "s.csv", "--held-out", tmp_path / "val")
    said = capsys.readouterr().err
    assert "1 image could not be read: see" in said
    assert "got no image: " in said
    assert "got fewer than 50 images, for the pool has 31 images: " in said
    assert "Of the selected images 1 lie in" in said
    assert "00.png" in said


def test_rows_of_predict_give_the_selection_of_the_images(folder: Path, tmp_path: Path) -> None:
    select(folder, folder / "pool", "-K", 5, "-P", 3, "-o", tmp_path / "direct.csv")
    model = ["-m", str(folder / "colours.onnx"), "-b", "4", "-j", "1", "-k", "3"]
    for name in ("rows.jsonl", "rows.csv", "rows.parquet"):
        if name.endswith("parquet"):
            pytest.importorskip("pyarrow")
        main(["predict", str(folder / "pool"), *model, "-o", str(tmp_path / name)])
        out = tmp_path / f"from_{name}.csv"
        assert main(["select", str(tmp_path / name), "-K", "5", "-P", "3", "-o", str(out)]) == 1
        direct, stored = rows_of(tmp_path / "direct.csv"), rows_of(out)
        kept = [(row["wnid"], float(row["score"])) for row in direct if float(row["score"]) >= 1e-5]
        again = [(row["wnid"], float(row["score"])) for row in stored if float(row["score"]) >= 1e-5]
        assert [wnid for wnid, _ in kept] == [wnid for wnid, _ in again]
        assert [score for _, score in again] == pytest.approx([score for _, score in kept], abs=6e-7)


def test_selections_of_parts_merged_are_the_selection_of_the_whole(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    images = sorted((folder / "pool").iterdir())
    parts = []
    for part in range(0, 32, 8):  # whole batches, or the last digits differ
        parts.append(tmp_path / f"{part}.parquet")
        select(folder, *images[part : part + 8], "-K", 3, "-P", 2, "-o", parts[-1])
    select(folder, *images, "-K", 3, "-P", 2, "-o", tmp_path / "whole.csv")
    assert main(["select", *map(str, parts), "-K", "3", "-o", str(tmp_path / "merged.csv")]) == 1
    assert (tmp_path / "merged.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    report = json.loads(report_path(tmp_path / "merged.csv").read_text(encoding="utf-8"))
    assert (report["images"], report["unreadable"], report["teacher"]["model"]) == (31, 1, "colours")


@pytest.mark.parametrize("shards", [False, True])
def test_a_killed_selection_goes_on_to_the_same_bytes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shards: bool
) -> None:
    pool = folder / "pool"
    if shards:
        pool = tmp_path / "pool.tar"
        with tarfile.open(pool, "w") as tar:
            for path in sorted((folder / "pool").iterdir()):
                tar.add(path, path.name)
    monkeypatch.setattr(module, "CHECKPOINT_SECONDS", -1.0)
    monkeypatch.setattr(module, "CHECKPOINT_IMAGES", 5)
    out, whole = tmp_path / "s.csv", tmp_path / "whole.csv"
    select(folder, pool, "-K", 3, "-P", 2, "-o", whole)
    take = module.Selection.take
    taken: list[str] = []

    def killed(self: Any, found: Any) -> None:
        if len(taken) == 18:
            monkeypatch.setattr(module.Selection, "abandon", lambda self: None)  # as after SIGKILL: nothing is saved
            raise KeyboardInterrupt
        taken.append(found.input)
        take(self, found)

    with monkeypatch.context() as patch:
        patch.setattr(module.Selection, "take", killed)
        assert select(folder, pool, "-K", 3, "-P", 2, "-o", out) == 130
    assert json.loads((unfinished_path(out) / "state.json").read_text(encoding="utf-8"))["images"] == 15
    assert select(folder, pool, "-K", 3, "-P", 2, "-o", out) == 2, "neither --resume nor --overwrite"
    assert select(folder, pool, "-K", 4, "-P", 2, "-o", out, "--resume") == 2, "another K"
    again: list[str] = []

    def watched(self: Any, found: Any) -> None:
        again.append(found.input)
        take(self, found)

    monkeypatch.setattr(module.Selection, "take", watched)
    assert select(folder, pool, "-K", 3, "-P", 2, "-o", out, "--resume") == 1
    assert [Path(name).name for name in again] == [f"{n:02d}.png" for n in range(15, 30)] + ["text.png"]
    assert out.read_bytes() == whole.read_bytes()
    assert rows_of(tmp_path / "s.unreadable.csv") == rows_of(tmp_path / "whole.unreadable.csv")
    again.clear()
    assert select(folder, pool, "-K", 3, "-P", 2, "-o", out, "--resume") == 1
    assert again == [], "what is complete is not done again"


def test_a_pool_that_is_another_one_is_not_gone_on_with(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    images = sorted((folder / "pool").iterdir())
    take = module.Selection.take

    def interrupted(self: Any, found: Any) -> None:
        take(self, found)
        if self.images == 9:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module.Selection, "take", interrupted)
        with caplog.at_level(logging.INFO, "miil21k"):
            assert select(folder, *images, "-o", tmp_path / "s.csv") == 130
    assert select(folder, *images[1:], "-o", tmp_path / "s.csv", "--resume") == 2


def test_a_head_with_a_softmax_per_level_selects_by_the_probability_of_exactly_a_class(tmp_path: Path) -> None:
    """Inner classes are classes as well; the rule that makes one tree of the levels decides about their shares."""
    (tmp_path / "pool").mkdir()
    for number in range(12):
        Image.new("RGB", (16, 16), (20 * number, 255 - 20 * number, number * number)).save(
            tmp_path / "pool" / f"{number:02d}.png"
        )
    write_level_network(tmp_path / "levels.safetensors")
    out, rows = tmp_path / "s.csv", tmp_path / "rows.jsonl"
    teacher = ["-m", str(tmp_path / "levels.safetensors"), "-b", "4", "-j", "1", "--device", "cpu"]
    names, inner = shape_space().wnids, set()
    for rule in ("coherent", "product"):
        assert main(["predict", str(tmp_path / "pool"), *teacher, "-k", "14", "--rule", rule, "-o", str(rows)]) == 0
        scores = {}
        for line in rows.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            scores |= {(node["wnid"], row["input"]): node["probability"] for node in row["topk"]}
            assert sum(node["probability"] for node in row["topk"]) == pytest.approx(1, abs=2e-5)
        words = ["select", str(tmp_path / "pool"), *teacher, "-K", "5", "-P", "14", "--rule", rule, "-o", str(out)]
        assert main(words) == 0
        found = rows_of(out)
        for wnid in names:
            best = sorted((score for (mine, _), score in scores.items() if mine == wnid and score > 1e-4), reverse=True)
            mine = [float(row["score"]) for row in found if row["wnid"] == wnid]
            assert mine[: len(best)] == pytest.approx(best[:5], abs=2e-6)
        inner |= {row["wnid"] for row in found if float(row["score"]) > 0.05} & {"cold", "warm", "red", "blue"}
        rows.unlink()
        out.unlink()
        report_path(out).unlink()
    assert inner, "some image is a class that has others below it"


def test_concepts_are_scored_by_all_below_them(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "s.csv"
    select(folder, folder / "pool", "-K", 30, "-P", 20, "--on", "concepts", "-o", out)
    of_concepts = {(row["wnid"], row["input"]): float(row["score"]) for row in rows_of(out)}
    select(folder, folder / "pool", "-K", 30, "-P", 20, "-o", out, "--overwrite")
    of_classes = {(row["wnid"], row["input"]): float(row["score"]) for row in rows_of(out)}
    assert all(score >= of_classes.get(key, 0) - 1e-6 for key, score in of_concepts.items())
    assert any(score > of_classes.get(key, 0) + 0.1 for key, score in of_concepts.items()), "inner classes gain"


def test_what_makes_no_sense_is_refused_before_a_model_is_loaded(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "rows.jsonl"
    row = {"input": "a", "status": "ok", "label_space": "in1k", "label_space_sha256": "x", "topk": []}
    rows.write_text(json.dumps(row) + "\n" + json.dumps({**row, "label_space": "fall11"}) + "\n", encoding="utf-8")
    for words, said in (
        ([rows, folder / "pool", "-o", tmp_path / "s.csv"], "holds rows, other inputs are images"),
        ([rows, "-o", tmp_path / "s.txt"], "must end in .parquet or .csv"),
        ([rows, "-o", tmp_path / "s.csv", "--teacher", "embedded"], "leave --teacher out"),
        ([rows, "-o", tmp_path / "s.csv", "--under", "dog"], "--under decides how a model answers"),
        ([rows, "-o", tmp_path / "s.csv", "--on", "concepts"], "predict with --min-node 0.01"),
        ([rows, "-o", tmp_path / "s.csv", "--overwrite"], "select from the rows of one teacher"),
        ([folder / "pool", "-o", tmp_path / "no" / "s.csv"], "There is no folder"),
        ([folder / "pool", "--on", "concepts", "--under", "dog"], "Concepts are chosen by --classes"),
    ):
        assert main(["select", *map(str, words)]) == 2
        assert said in capsys.readouterr().err
