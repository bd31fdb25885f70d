"""Recipes for labels: docs/howto_labels.md."""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING, Any

import pytest
from shown import script

if TYPE_CHECKING:
    from shown import Kitchen

PAGE = "labels"


def test_a_calibration_keeps_its_promise_on_pictures_that_it_has_not_seen(kitchen: Kitchen) -> None:
    kitchen.prints_what_the_page_shows(PAGE, "mkdir nouns")
    kitchen.prints_what_the_page_shows(PAGE, "python examples/crops.py nouns")
    kitchen.prints_what_the_page_shows(PAGE, "python examples/calibrate_and_check.py")
    assert (kitchen.folder / "calibration.json").exists()


def test_too_few_pictures_promise_nothing(kitchen: Kitchen) -> None:
    kitchen.run("mkdir -p few/espresso && cp photos/coffee.jpg few/espresso")
    ran = kitchen.run("python examples/calibrate_and_check.py few few")
    assert ran.code == 2
    assert "at least four labelled samples" in ran.stderr


def test_the_chance_of_falling_short_is_that_of_a_beta_distribution() -> None:
    """With 19 pictures and 95 % the share is Beta(19, 1); of one picture its mean, 0.95, is the chance to be right."""
    chance = script("calibrate_and_check.py").chance
    assert chance(0, 1, 0.95, 19) == pytest.approx(0.05)
    assert chance(1, 1, 0.95, 19) == pytest.approx(1)
    assert chance(50, 100, 0.9, 500) < 1e-6 < 0.01 < chance(87, 100, 0.9, 500)


def _annotated(task: dict[str, Any], number: int, chain: list[str] | None) -> dict[str, Any]:
    """Return the task as Label Studio exports it after somebody submitted a chain of choices, or none."""
    value = {"from_name": "label", "to_name": "image", "type": "taxonomy", "id": "a", "origin": "manual"}
    result = [{**value, "value": {"taxonomy": [chain]}}] if chain else []
    cancelled = {"id": 2, "was_cancelled": True, "result": []}
    one = {"id": 1, "completed_by": 1, "was_cancelled": False, "lead_time": 3.2, "result": result}
    return {"predictions": [], **task, "id": number, "annotations": [one, cancelled]}


def test_corrections_come_back_from_label_studio(kitchen: Kitchen) -> None:
    pytest.importorskip("lancedb", reason="the extra 'find' is not installed")
    kitchen.prints_what_the_page_shows(PAGE, "miil21k index photos")
    kitchen.prints_what_the_page_shows(PAGE, "miil21k labels photos.index -f labelstudio")
    tasks = json.loads((kitchen.folder / "tasks.json").read_text())
    config = (kitchen.folder / "tasks.config.xml").read_text()
    config = config.replace("</Taxonomy>", '<Choice value="launcher" hint="n04008634"/></Taxonomy>')
    said = (["animal", "domestic animal"], None, ["launcher"])
    export = [_annotated(task, number, chain) for number, (task, chain) in enumerate(zip(tasks, said, strict=True))]
    (kitchen.folder / "export.json").write_text(json.dumps(export))
    (kitchen.folder / "config.xml").write_text(config)

    kitchen.prints_what_the_page_shows(PAGE, "python examples/label_studio.py")
    rows = list(csv.DictReader((kitchen.folder / "corrections.csv").read_text().splitlines()))
    assert [(row["label"], row["verdict"]) for row in rows] == [("n01317541", "is"), ("", "wrong"), ("n04008634", "is")]
    kitchen.prints_what_the_page_shows(PAGE, "miil21k labels photos.index -o train.csv")
    labels = list(csv.DictReader((kitchen.folder / "train.csv").read_text().splitlines()))
    assert [(row["name"], row["source"]) for row in labels] == [("domestic animal", "person"), ("projectile", "person")]

    ran = kitchen.run("python examples/label_studio.py export.json tasks.config.xml")
    assert (ran.code, "has no choice 'launcher'" in ran.stderr) == (2, True)
    _read_by_the_sdk(kitchen, tasks, export, config)


def _read_by_the_sdk(kitchen: Kitchen, tasks: list[Any], export: list[Any], config: str) -> None:
    interface = pytest.importorskip("label_studio_sdk.label_interface", reason="label-studio-sdk is not installed")
    from label_studio_sdk.converter import Converter

    checked = interface.LabelInterface(config)
    checked.validate()
    for task, back in zip(tasks, export, strict=True):
        assert checked.validate_task({"data": task["data"]})
        for prediction in task.get("predictions", []):
            assert checked.validate_prediction(prediction, return_errors=True) == []
        assert checked.validate_annotation(back["annotations"][0])
    converter = Converter(config, project_dir=None)
    converter.convert_to_csv(str(kitchen.folder / "export.json"), str(kitchen.folder / "sdk"), is_dir=False, sep=",")
    (table,) = (kitchen.folder / "sdk").glob("*.csv")
    assert "launcher" in table.read_text()
