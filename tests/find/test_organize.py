"""Folders named by answers: hedged paths or bins, names that collide, sidecars, keywords."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

pytest.importorskip("lancedb", reason="the extra 'find' is not installed")

from typing import TYPE_CHECKING

from pictures import made_up

from miil21k.cli.main import main
from miil21k.find.moves import Plan, perform, undo_path
from miil21k.find.organize import OrganizeOptions, plan_organize

if TYPE_CHECKING:
    from pathlib import Path

    from miil21k.find.store import Index

BIRD = [("n00015388", "animal"), ("n01503061", "bird"), ("n01514859", "hen")]
CAR = [("n03100490", "conveyance"), ("n03594945", "jeep")]


@pytest.fixture
def photos(tmp_path: Path) -> Index:
    files = [tmp_path / "photos" / name for name in ("a/1.jpg", "b/1.jpg", "b/2.jpg", "c/3.jpg")]
    for number, file in enumerate(files):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(bytes([number]) * 50)
    (tmp_path / "photos/a/1.jpg.xmp").write_text("darktable")
    (tmp_path / "photos/b/1.xmp").write_text("lightroom")
    return made_up(tmp_path / "i.index", files, [BIRD, BIRD, CAR, []])


def placed(target: Path) -> dict[str, str]:
    found = {file: file.read_bytes() for file in target.rglob("*") if file.is_file() and "undo" not in file.name}
    return {str(file.relative_to(target)): content.decode("latin-1")[:9] for file, content in found.items()}


def test_folders_are_paths_and_names_that_collide_get_a_number(photos: Index, tmp_path: Path) -> None:
    planned = plan_organize(photos, tmp_path / "out", OrganizeOptions(mode="copy"))
    perform(undo_path(tmp_path / "out"), Plan(planned.steps))

    assert placed(tmp_path / "out") == {
        "animal/bird/hen/1.jpg": "\0" * 9,
        "animal/bird/hen/1.jpg.xmp": "darktable",
        "animal/bird/hen/1-2.jpg": "\1" * 9,
        "animal/bird/hen/1-2.xmp": "lightroom",
        "conveyance/jeep/2.jpg": "\2" * 9,
        "_unsure/3.jpg": "\3" * 9,
    }
    assert planned.folders == {"animal/bird/hen": 2, "conveyance/jeep": 1, "_unsure": 1}


def test_a_second_run_finds_everything_done(photos: Index, tmp_path: Path) -> None:
    for _ in range(2):
        planned = plan_organize(photos, tmp_path / "out", OrganizeOptions())
        done = perform(undo_path(tmp_path / "out"), Plan(planned.steps))

    assert done.steps == 0
    assert len(list((tmp_path / "out").rglob("*.jpg"))) == 4


def test_bins_name_the_folders(photos: Index, tmp_path: Path) -> None:
    (tmp_path / "bins.csv").write_text("label,concept,parent\nlife,animal,\nmy birds,bird,life\n")

    planned = plan_organize(photos, tmp_path / "out", OrganizeOptions(by=str(tmp_path / "bins.csv")))

    assert planned.folders == {"life/my birds": 2, "other": 1, "_unsure": 1}


def test_a_depth_cuts_the_folders(photos: Index, tmp_path: Path) -> None:
    planned = plan_organize(photos, tmp_path / "out", OrganizeOptions(depth=1))

    assert planned.folders == {"animal": 2, "conveyance": 1, "_unsure": 1}


def test_keywords_are_xmp_beside_pictures_without_a_sidecar(photos: Index, tmp_path: Path) -> None:
    planned = plan_organize(photos, tmp_path / "out", OrganizeOptions(keywords=True))
    perform(undo_path(tmp_path / "out"), Plan(planned.steps))

    written = [file for file in (tmp_path / "out").rglob("*.xmp") if not file.is_symlink()]
    assert [str(file.relative_to(tmp_path / "out")) for file in written] == ["conveyance/jeep/2.jpg.xmp"]
    text = written[0].read_text(encoding="utf-8")
    listed = [item.text for item in ET.fromstring(text).iter("{http://www.w3.org/1999/02/22-rdf-syntax-ns#}li")]
    assert listed == ["conveyance", "jeep", "conveyance|jeep"]
    assert not (tmp_path / "photos/b/2.jpg.xmp").exists()


@pytest.mark.parametrize(("name", "folder"), [("a/c: what?", "a_c_ what_"), ("con", "con_"), ("dots...", "dots")])
def test_names_become_names_of_folders(tmp_path: Path, name: str, folder: str) -> None:
    (tmp_path / "1.jpg").write_bytes(b"1")
    index = made_up(tmp_path / "i.index", [tmp_path / "1.jpg"], [[("n1", name)]])

    assert set(plan_organize(index, tmp_path / "out", OrganizeOptions()).folders) == {folder}


def test_the_verb_shows_does_and_takes_back(photos: Index, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["organize", photos.path, str(out), "--dry-run"]) == 0
    assert "2  " + str(out / "animal/bird/hen") in capsys.readouterr().out
    assert not out.exists()
    assert main(["organize", photos.path, str(out)]) == 0
    assert (out / "_unsure/3.jpg").is_symlink()
    assert main(["organize", "--undo", str(out / "miil21k-undo.json")]) == 0
    assert not out.exists()
    assert main(["organize", photos.path]) == 2
