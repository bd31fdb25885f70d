"""Pages of PDF and TIFF as inputs: each by its name, under the same limits, and one damaged file costs no other."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from miil21k.data import documents
from miil21k.data.images import load_image
from miil21k.data.inputs import Unfolded, expand, expand_units, require_images
from miil21k.data.parts import Part, file_of, split_part
from miil21k.errors import ImageError
from miil21k.suffixes import document_suffixes

COLOURS = ("red", "lime", "blue")
RGB = [[255, 0, 0], [0, 255, 0], [0, 0, 255]]


def pages(path: Path, count: int = 3) -> Path:
    """Write pages of one colour each, and sizes of their own, in the format that the suffix says."""
    first, *rest = (Image.new("RGB", (40 + 8 * n, 30), COLOURS[n]) for n in range(count))
    first.save(path, save_all=True, append_images=rest)
    return path


def colour(name: str | Path) -> list[int]:
    picture = np.asarray(load_image(name))
    return [int(value) for value in picture[picture.shape[0] // 2, picture.shape[1] // 2]]


def names(*given: Path | str) -> list[str]:
    return [image.name.rpartition(os.sep)[2] for image in expand([str(name) for name in given])]


def test_a_name_says_which_part_of_a_file_is_meant(tmp_path: Path) -> None:
    assert split_part("a.pdf#page=3") == ("a.pdf", Part(page=3))
    assert split_part("a.mp4#t=12.5") == ("a.mp4", Part(time=12.5))
    assert Part(time=12.5).of("a.mp4") == "a.mp4#t=12.5"
    assert Part(time=60).of("a.mp4") == "a.mp4#t=60"
    wholes = ("a#page=0", "a#page=-1", "#page=1", "a#t=1e9", "a#t=", "a.pdf")
    assert [split_part(name) for name in wholes] == [(name, None) for name in wholes]
    odd = tmp_path / "x.pdf#page=3"
    odd.touch()
    assert file_of(str(odd)) == str(odd)  # a file of that name is meant itself


def test_every_page_of_a_tiff_is_an_input_that_its_name_alone_reads(tmp_path: Path) -> None:
    scan = pages(tmp_path / "scan.tif")
    found = list(expand([str(scan)]))
    assert [image.name for image in found] == [f"{scan}#page={n}" for n in (1, 2, 3)]
    assert [colour(image.source) for image in found] == RGB  # type: ignore[arg-type]
    require_images([f"{scan}#page=2"])
    assert names(f"{scan}#page=2") == ["scan.tif#page=2"]
    assert load_image(f"{scan}#page=2").size == (48, 30)
    assert colour(scan) == RGB[0]  # without a page the first one, as ever


def test_a_tiff_of_one_page_keeps_its_name(tmp_path: Path) -> None:
    pages(tmp_path / "one.tif", 1)
    (tmp_path / "broken.tif").write_bytes(b"II*\0\xff\xff")
    Image.new("RGB", (8, 8)).save(tmp_path / "no.tif", "PNG")
    assert names(tmp_path) == ["broken.tif", "no.tif", "one.tif"]


def test_smaller_copies_in_a_pyramid_are_no_pages(tmp_path: Path) -> None:
    small = TiffImagePlugin.ImageFileDirectory_v2()
    small[254] = 1
    with TiffImagePlugin.AppendingTiffWriter(tmp_path / "map.tif", True) as file:
        Image.new("RGB", (64, 64), "red").save(file, "TIFF")
        file.newFrame()
        Image.new("RGB", (32, 32), "red").save(file, "TIFF", tiffinfo=small)
        file.newFrame()
    assert names(tmp_path) == ["map.tif"]
    with Image.open(tmp_path / "map.tif") as image:
        assert getattr(image, "n_frames", 1) == 2


def test_a_page_that_is_not_there_is_an_error_and_so_is_a_page_of_a_photograph(tmp_path: Path) -> None:
    scan = pages(tmp_path / "scan.tif")
    with pytest.raises(ImageError, match="has fewer than 4 pages"):
        load_image(f"{scan}#page=4")
    with pytest.raises(ImageError, match="name one by #page=NUMBER"):
        load_image(f"{scan}#t=1.5")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(ImageError, match="is one picture"):
        load_image(f"{tmp_path / 'a.png'}#page=1")


def test_the_limit_of_pixels_holds_for_a_later_page(tmp_path: Path) -> None:
    scan = pages(tmp_path / "scan.tif")
    load_image(f"{scan}#page=1", max_pixels=40 * 30)
    with pytest.raises(ImageError, match="48 x 30 pixels, more than the limit of 1,200") as caught:
        load_image(f"{scan}#page=2", max_pixels=40 * 30)
    assert caught.value.reason == "too_large"


def test_pages_beyond_the_limit_are_one_row_that_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MAX_PARTS", 2)
    scan = pages(tmp_path / "scan.tif")
    first, second, rest = expand([str(scan)])
    assert (first.name, second.name, rest.name) == (f"{scan}#page=1", f"{scan}#page=2", str(scan))
    assert callable(rest.source)
    with pytest.raises(ImageError, match="more than 2 pages: name further ones by #page=NUMBER"):
        rest.source()


def test_a_run_can_go_on_in_the_middle_of_a_document(tmp_path: Path) -> None:
    pages(tmp_path / "b.tif")
    for name in ("a.png", "c.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    whole = names(tmp_path)
    assert whole == ["a.png", "b.tif#page=1", "b.tif#page=2", "b.tif#page=3", "c.png"]
    for taken in range(len(whole)):
        images = Unfolded(expand_units([str(tmp_path)]))
        last = [next(images) for _ in range(taken)][-1:]
        rest = [unit.name.rpartition(os.sep)[2] for unit in images.rest(last)]
        assert rest == whole[max(0, taken - 1) :]


def test_pages_of_a_pdf_are_drawn_at_144_dots_per_inch(tmp_path: Path) -> None:
    pytest.importorskip("pypdfium2", reason="the extra 'pdf' is not installed")
    report = pages(tmp_path / "report.pdf")
    assert names(tmp_path) == [f"report.pdf#page={n}" for n in (1, 2, 3)]
    assert np.abs(np.array([colour(f"{report}#page={n}") for n in (1, 2, 3)]) - RGB).max() <= 2  # stored as JPEG
    assert load_image(f"{report}#page=2").size == (96, 60)  # 48 x 30 points of 1/72 inch
    assert colour(report) == colour(f"{report}#page=1")
    assert load_image(report.read_bytes()).size == (80, 60)  # what a server gets
    with pytest.raises(ImageError, match="has 3 pages"):
        load_image(f"{report}#page=4")
    with pytest.raises(ImageError, match="96 x 60 pixels, more than the limit of 5,000"):
        load_image(f"{report}#page=2", max_pixels=5000)


def test_a_damaged_pdf_is_one_row_and_costs_no_other(tmp_path: Path) -> None:
    pytest.importorskip("pypdfium2", reason="the extra 'pdf' is not installed")
    pages(tmp_path / "b.pdf", 1)
    (tmp_path / "a.pdf").write_bytes(b"%PDF-1.7 and nothing more")
    (tmp_path / "c.pdf").touch()
    os.mkfifo(tmp_path / "d.pdf")
    found = {image.name.rpartition(os.sep)[2]: image.source for image in expand([str(tmp_path)])}
    assert list(found) == ["a.pdf", "b.pdf#page=1", "c.pdf", "d.pdf"]
    for name, words in (("a.pdf", "is damaged"), ("c.pdf", "is empty"), ("d.pdf", "is a named pipe")):
        source = found[name]
        assert callable(source)
        with pytest.raises(ImageError, match=f"{name}' {words}"):
            source()


def test_without_the_extra_a_pdf_is_counted_and_an_error_says_what_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pypdfium2", None)
    monkeypatch.setattr("miil21k.suffixes.reads_pdf", lambda: False)
    document_suffixes.cache_clear()
    try:
        (tmp_path / "a.pdf").write_bytes(b"%PDF-1.7")
        Image.new("RGB", (8, 8)).save(tmp_path / "b.png")
        stream = expand([str(tmp_path)])
        assert [Path(image.name).name for image in stream] == ["b.png"]
        assert stream.passed.sentence() == "1 passed over: 1 .pdf (install miil21k[pdf])"
        assert names(tmp_path / "a.pdf") == ["a.pdf"]
        with pytest.raises(ImageError, match=r"a\.pdf' needs the package 'pypdfium2'.*pip install 'miil21k\[pdf\]'"):
            load_image(tmp_path / "a.pdf")
    finally:
        document_suffixes.cache_clear()
