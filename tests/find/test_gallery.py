"""The page of an index: its files, and what a real browser makes of it."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import numpy as np
import pytest

pytest.importorskip("lancedb", reason="the extra 'find' is not installed")

from gallery_browser import ACT, BROWSER, EXPECTED, ODD, acting, odd_birds, seen_by_browser
from pictures import made_up

from miil21k.cli.main import main
from miil21k.data.images import load_image
from miil21k.errors import UsageError
from miil21k.find.gallery import GalleryOptions, build_gallery
from miil21k.find.gallery_data import PAGE_BOUND, data_files
from miil21k.find.store import Index
from miil21k.hierarchy.concepts import concepts_of
from miil21k.hierarchy.questions import resolve


def content(index: Index, name: str) -> Any:
    text = data_files(index, 256, "file", Path("/site"))[name]()
    assert text.startswith(f'GALLERY.data("{name.removesuffix(".js")}",')
    return json.loads(text.partition(",")[2].removesuffix(");\n"))


def test_thumbnails_are_made_once_and_removed_with_their_picture(index: Index, tmp_path: Path) -> None:
    options = GalleryOptions(output=str(tmp_path / "site"), edge=64, workers=1)
    first = build_gallery(index, options)
    thumbs = sorted((tmp_path / "site" / "thumbs" / "64").glob("??/*.jpg"))
    times = [path.stat().st_mtime_ns for path in thumbs]
    thumbs[0].unlink()  # as if the first run had been killed
    again = build_gallery(index, options)
    assert (first.made, first.failed, again.made, again.pictures) == (4, [], 1, 4)
    assert [path.stat().st_mtime_ns for path in thumbs[1:]] == times[1:]
    assert {max(load_image(path).size) for path in thumbs} == {64}
    index.remove([index.names[0]])
    index = Index.open(index.path)
    build_gallery(index, options)
    assert len(list((tmp_path / "site" / "thumbs" / "64").glob("??/*.jpg"))) == 3
    build_gallery(index, GalleryOptions(output=str(tmp_path / "site"), edge=32, workers=1))
    assert [path.name for path in (tmp_path / "site" / "thumbs").iterdir()] == ["32"]


def test_a_picture_that_cannot_be_read_stops_nothing(index: Index, tmp_path: Path, capsys: Any) -> None:
    Path(index.names[1]).unlink()
    assert main(["gallery", index.path, "-o", str(tmp_path / "site"), "--edge", "32"]) == 1
    said = capsys.readouterr()
    assert "bird.jpg': No such file" in said.err
    assert "4 pictures, 3 new thumbnails, 1 could not be made" in said.err
    assert said.out == f"{tmp_path / 'site' / 'index.html'}\n"


def test_a_folder_of_something_else_is_left_alone(index: Index, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds something else than a gallery"):
        build_gallery(index, GalleryOptions(output=str(tmp_path / "photos")))


def test_links_lead_to_the_originals_whatever_their_names(index: Index) -> None:
    for kind, start in (("file", Path("/")), ("relative", Path("/site"))):
        text = data_files(index, 256, kind, Path("/site"))["collection.js"]()  # type: ignore[arg-type]
        links = json.loads(text.partition(",")[2].removesuffix(");\n"))["links"]
        for name, link in zip(index.names, links, strict=True):
            path = os.fsdecode(unquote_to_bytes(link.removeprefix("file://")))
            assert os.path.normpath(start / path) == name
            assert not set(link) & set("<>\"'#? ")
    assert content(index, "collection.js")["paths"][3] == ODD


def test_probabilities_on_the_page_are_within_their_bound(tmp_path: Path) -> None:
    """Rows with a flat tail, summed as the page sums them."""
    (tmp_path / "a.jpg").write_bytes(b"a")
    draw = np.random.default_rng(0)
    kept = [np.sort(draw.choice(1000, 300, replace=False)) for _ in range(3)]
    values = [draw.dirichlet(np.full(300, 0.05)) * 0.9 for _ in range(3)]
    index = made_up(
        tmp_path / "x.index",
        [tmp_path / "a.jpg"] * 3,
        [[], [], []],
        classes=kept,
        probabilities=[v.astype(np.float16) for v in values],
        rest=[0.1 / 700] * 3,
    )
    found = content(index, "masses-0.js")
    assert content(index, "collection.js")["bound"] == index.about.bound + PAGE_BOUND
    counts, classes = (np.frombuffer(base64.b64decode(found[name]), found["wide"]) for name in ("counts", "classes"))
    shares = np.frombuffer(base64.b64decode(found["probabilities"]), "<f2")
    rest = np.frombuffer(base64.b64decode(found["rest"]), "<f4")
    assert counts.sum() == len(classes) == len(shares) < 1000 * 3
    dense = np.repeat(rest[:, None], 1000, axis=1)
    dense[np.repeat(np.arange(3), counts), classes] = shares
    concepts = concepts_of(index.about.space)
    for concept in range(0, len(concepts), 7):
        inside = np.zeros(1000, bool)
        inside[concepts.classes(concept)] = True
        assert np.abs(dense[:, inside].sum(1) - index.probability(inside)).max() <= PAGE_BOUND + 1e-6


def test_nouns_mean_on_the_page_what_they_mean_elsewhere(index: Index) -> None:
    found = content(index, "words.js")
    concepts = concepts_of(index.about.space)
    for noun in ("bird", "parrot", "dog", "musical instrument"):
        assert found["words"][noun][0] == resolve(concepts, noun).concept
    assert found["words"]["crane"][0] == -1
    assert found["words"]["crane"][1:] == [c for c, _ in concepts.named["crane"]]
    assert ["ies", "y"] in found["endings"]


def test_nearest_pictures_come_most_alike_first(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"a")
    vectors = [np.array(v, np.float16) for v in ([1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1])]
    index = made_up(tmp_path / "x.index", [tmp_path / "a.jpg"] * 4, [[]] * 4, embedding=vectors)
    assert content(index, "near-0.js") == [[1, 0.707], [0, 0.707, 2, 0.707], [1, 0.707], []]


@pytest.fixture
def index(tmp_path: Path) -> Index:
    return odd_birds(tmp_path)


@pytest.mark.skipif(BROWSER is None, reason="no browser is installed")
def test_a_browser_shows_searches_and_corrects(index: Index, tmp_path: Path) -> None:
    site = tmp_path / "site"
    build_gallery(index, GalleryOptions(output=str(site), edge=32, workers=1))
    (site / "act.js").write_bytes(ACT)
    (site / "act.html").write_bytes(acting((site / "index.html").read_bytes()))
    assert seen_by_browser((site / "act.html").as_uri(), tmp_path / "profile") == EXPECTED
