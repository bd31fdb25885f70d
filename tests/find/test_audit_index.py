"""Labels of an index against its answers: folders, lists, bins, and labels that the model does not have."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

pytest.importorskip("lancedb", reason="the extra 'find' is not installed")
pytest.importorskip("cleanlab", reason="the extra 'audit' is not installed")

from pictures import made_up
from PIL import Image

from miil21k.cli.main import main
from miil21k.errors import UsageError
from miil21k.find.audit_index import COLUMNS, AuditOptions, audit_index
from miil21k.hierarchy.load import load_label_space

if TYPE_CHECKING:
    from pathlib import Path

    from miil21k.find.store import Index

SPACE = load_label_space("in1k")
GOLDFINCH, COCK, TABBY, IMPALA = "n01531178", "n01514668", "n02123045", "n02422699"


def made(tmp_path: Path, folders: dict[str, list[str]]) -> Index:
    """Pictures in folders; each looks like the class that stands there."""
    files, seen = [], []
    for folder, looks in folders.items():
        (tmp_path / "photos" / folder).mkdir(parents=True)
        for number, wnid in enumerate(looks):
            file = tmp_path / "photos" / folder / f"{number}.png"
            Image.new("RGB", (8, 8), (len(files), 0, 0)).save(file)
            files.append(file)
            seen.append(wnid)
    classes = [[SPACE.tree.index(wnid)] for wnid in seen]
    shares = [np.array([0.9], np.float16)] * len(files)
    rest = [0.1 / 999] * len(files)
    paths: list[list[tuple[str, str]]] = [[] for _ in files]
    return made_up(tmp_path / "photos.index", files, paths, classes=classes, probabilities=shares, rest=rest)


@pytest.fixture
def index(tmp_path: Path) -> Index:
    """Birds with a cat among them, cats, and pictures of a folder that no noun names."""
    return made(
        tmp_path,
        {"birds": [GOLDFINCH] * 6 + [COCK] * 5 + [TABBY], TABBY: [TABBY] * 10, "IMG_2024": [COCK] * 2},
    )


def test_a_cat_among_the_birds_is_found(index: Index) -> None:
    found = audit_index(index, AuditOptions())
    assert found.checked == 22
    [row] = found.rows
    assert row["path"].endswith("photos/birds/11.png")
    assert (row["label"], row["verdict"], row["suggested"], row["suggested_name"]) == ("birds", "wrong", TABBY, "tabby")
    assert row["quality"] < 0.1
    assert row["probability"] == pytest.approx(0.9, abs=0.001)
    tree = SPACE.tree
    bird, cat = tree.path(tree.index("n01503061")), tree.path(tree.index(TABBY))
    shared = sum(a == b for a, b in zip(bird, cat, strict=False))
    assert row["distance"] == len(bird) + len(cat) - 2 * shared
    [note] = found.notes
    assert "'IMG_2024' is no concept" in note
    assert note.endswith("Its pictures are left out.")


def test_labels_of_a_list_lie_beside_it(index: Index, tmp_path: Path) -> None:
    (tmp_path / "photos" / "labels.csv").write_text(
        "path,label\n" + "".join(f"birds/{n}.png,{'bird' if n else 'cats'}\n" for n in range(11))
    )
    found = audit_index(index, AuditOptions(labels=str(tmp_path / "photos" / "labels.csv")))
    assert found.checked == 11
    assert [(row["label_name"], row["path"][-11:], row["suggested_name"]) for row in found.rows] == [
        ("cats", "birds/0.png", "bird")
    ]


def test_bins_are_labels(index: Index, tmp_path: Path) -> None:
    (tmp_path / "bins.csv").write_text("label,concept\nbirds,bird\npets,cat\npets,dog\n")
    found = audit_index(index, AuditOptions(bins=str(tmp_path / "bins.csv")))
    assert found.checked == 22
    assert [(row["label"], row["suggested"]) for row in found.rows] == [("birds", "pets")]


def test_a_label_that_the_model_lacks_is_checked_as_what_is_above_it(tmp_path: Path) -> None:
    """An okapi looks like some other hoofed animal, which is no mistake; a cat is."""
    index = made(tmp_path, {"okapi": [IMPALA] * 6 + [TABBY], "tabby": [TABBY] * 6})
    found = audit_index(index, AuditOptions())
    assert [(row["label"], row["path"][-11:]) for row in found.rows] == [("okapi", "okapi/6.png")]
    assert found.rows[0]["verdict"] == "doubtful"
    assert "'okapi' has no class of the model: it is checked as 'ruminant'." in found.notes


def test_rows_and_a_page_are_written(index: Index, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    page = tmp_path / "audit.html"
    assert main(["audit", index.path, "-f", "csv", "--page", str(page)]) == 0
    out, err = capfdbinary.readouterr()
    rows = list(csv.DictReader(io.StringIO(out.decode())))
    assert [tuple(row) for row in rows] == [COLUMNS]
    assert b"1 labels are likely wrong, 0 doubtful, of 22 checked" in err
    text = page.read_text()
    assert "<b>birds</b>: wrong" in text
    assert "looks like tabby (0.90)" in text
    assert text.count("data:image/jpeg;base64,") == 1
    assert main(["audit", index.path, "-f", "jsonl", "-q"]) == 0
    assert json.loads(capfdbinary.readouterr().out)["suggested"] == TABBY
    assert main(["audit", index.path, "-f", "table", "-q"]) == 0
    assert b"birds -> tabby (0.90, " in capfdbinary.readouterr().out


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("no.csv", "There is no file 'no.csv': --labels takes folders, or a list"),
        ("others.csv", "names no picture of the index, such as '/elsewhere/1.jpg'"),
        ("several.csv", "has several labels per picture"),
        ("odd.csv", "No picture has a label that is understood. 'qqq' is no concept"),
    ],
)
def test_labels_that_say_nothing_are_refused(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, labels: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "others.csv").write_text("path,label\n/elsewhere/1.jpg,bird\n")
    (tmp_path / "several.csv").write_text("path,labels\nphotos/birds/1.png,bird;cat\n")
    (tmp_path / "odd.csv").write_text("path,label\nphotos/birds/1.png,qqq\n")
    with pytest.raises(UsageError, match=message):
        audit_index(index, AuditOptions(labels=labels))
