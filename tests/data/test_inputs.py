"""What a user names becomes images, in a fixed order, lazily, and from the web only under limits."""

from __future__ import annotations

import io
import os
import shutil
import sys
from pathlib import Path

import pytest

from miil21k.data.inputs import expand, require_images
from miil21k.errors import ImageError, UsageError
from miil21k.suffixes import image_suffixes


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as the current one: pictures by name only, a subfolder, a hidden file and a text."""
    for name in ("b.PNG", "a.jpg", "Z.webp", ".hidden.jpg", "notes.txt", "sub/c.jpg", "sub/deep/d.tiff", "t.gif"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(*given: str, recursive: bool = False) -> list[str]:
    return [item.name.replace(os.sep, "/") for item in expand(given, recursive=recursive)]


def test_a_folder_gives_its_images_in_bytewise_order(photos: Path) -> None:
    assert names("./") == ["./Z.webp", "./a.jpg", "./b.PNG", "./t.gif"]


def test_a_subfolder_stands_at_its_own_place_when_asked_for(photos: Path) -> None:
    assert names(".", recursive=True) == [
        *("./Z.webp", "./a.jpg", "./b.PNG"),
        *("./sub/c.jpg", "./sub/deep/d.tiff", "./t.gif"),
    ]


def test_a_loop_of_links_ends(photos: Path) -> None:
    (photos / "sub" / "again").symlink_to(photos, target_is_directory=True)
    assert names("sub", recursive=True).count("sub/c.jpg") == 1


def test_a_linked_folder_elsewhere_is_followed(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    (other / "x.jpg").touch()
    (photos / "link").symlink_to(other, target_is_directory=True)
    assert "./link/x.jpg" in names(".", recursive=True)


def test_a_glob_is_expanded_by_us(photos: Path) -> None:
    assert names("*.jpg") == ["a.jpg"]
    assert names("**/*.jpg") == ["a.jpg", "sub/c.jpg"]
    assert names("*") == ["Z.webp", "a.jpg", "b.PNG", "t.gif"]  # no text, no folder


def test_a_file_whose_name_looks_like_a_glob_is_a_file(photos: Path) -> None:
    (photos / "odd[1].jpg").touch()
    require_images(["odd[1].jpg"])
    assert names("odd[1].jpg") == ["odd[1].jpg"]


def test_a_list_names_one_input_per_line_and_keeps_spaces(photos: Path) -> None:
    (photos / "list.txt").write_bytes(b"\xef\xbb\xbfa.jpg\r\n\n my photo.jpg\nsub\nmissing.jpg")
    assert names("@list.txt") == ["a.jpg", " my photo.jpg", "sub/c.jpg", "missing.jpg"]


def test_a_comment_in_a_list_is_no_input_but_a_file_of_that_name_is(photos: Path) -> None:
    (photos / "list.txt").write_text("# my cats\na.jpg\n#1.jpg\n# real.jpg\n")
    (photos / "# real.jpg").touch()
    assert names("@list.txt") == ["a.jpg", "#1.jpg", "# real.jpg"]


def test_a_list_comes_from_standard_input(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a.jpg\nt.gif\n")))
    assert names("@-", "b.PNG") == ["a.jpg", "t.gif", "b.PNG"]


def test_a_dash_is_one_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"bytes")))
    (item,) = expand(["-"])
    assert (item.name, item.source) == ("-", b"bytes")


def test_names_are_expanded_only_when_they_are_reached(photos: Path) -> None:
    stream = expand(["a.jpg", "@gone.txt"])
    assert next(stream).name == "a.jpg"
    with pytest.raises(FileNotFoundError):
        next(stream)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux file systems hold any byte")
def test_a_name_that_is_no_utf8_keeps_its_bytes(photos: Path) -> None:
    os.close(os.open(b"sub/\xff.jpg", os.O_CREAT))
    found = [item.name for item in expand(["sub"])]
    assert [os.fsencode(name) for name in found] == [b"sub/c.jpg", b"sub/\xff.jpg"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], "No inputs"),
        (["*.bmp"], "No images match '*.bmp'"),
        (["empty"], "No images in 'empty'."),
        (["outer"], "add -r"),
        (["@gone.txt"], "The list 'gone.txt' cannot be read"),
        (["-", "@-"], "only once"),
    ],
)
def test_what_names_no_image_is_refused_before_any_work(photos: Path, given: list[str], words: str) -> None:
    (photos / "empty").mkdir()
    (photos / "outer" / "inner").mkdir(parents=True)
    (photos / "outer" / "inner" / "x.jpg").touch()
    with pytest.raises(UsageError) as caught:
        require_images(given)
    assert words in str(caught.value)


def test_a_missing_file_is_left_to_get_its_row(photos: Path) -> None:
    require_images(["nope.jpg"])
    assert names("nope.jpg") == ["nope.jpg"]


def test_extensions_are_those_that_can_be_read() -> None:
    assert {".jpg", ".jpeg", ".jfif", ".png", ".webp", ".tif", ".bmp", ".gif", ".jp2"} <= image_suffixes()
    assert not {".pdf", ".eps", ".mpg", ".h5", ".grib", ".txt"} & image_suffixes()


def test_offline_no_connection_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("connected"))
    (item,) = expand(["http://127.0.0.1:9/x.jpg"], offline=True)
    assert callable(item.source)
    with pytest.raises(ImageError, match="offline"):
        item.source()


def test_what_is_no_picture_is_counted_by_kind(photos: Path) -> None:
    for name in ("1.xcf", "2.XCF", "v.mp3", "x.tar.gz", "sub/LICENSE", "@eaDir/thumb.jpg", "__MACOSX/a.jpg"):
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        (photos / name).touch()
    stream = expand(["."], recursive=True)
    assert [Path(item.name).name for item in stream] == ["Z.webp", "a.jpg", "b.PNG", "c.jpg", "d.tiff", "t.gif"]
    assert stream.passed.sentence() == (
        "8 passed over: 2 .xcf, 1 .gz (unpack them), 1 .mp3, 1 .txt, 1 folder @eaDir, "
        "1 folder __MACOSX, 1 of other kinds"
    )
    few = expand(["*.*"])
    assert len(list(few)) == 4
    assert few.passed.kinds == {".xcf": 2, ".gz": 1, ".mp3": 1, ".txt": 1}


def test_a_folder_of_what_cannot_be_read_says_what_it_holds(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.zip").touch()
    with pytest.raises(UsageError, match=r"No images in '.*'\. 3 passed over: 3 \.zip \(unpack them\)\."):
        require_images([str(tmp_path)])


def test_a_link_to_itself_is_one_input_and_costs_no_other(photos: Path) -> None:
    (photos / "m.jpg").symlink_to(photos / "m.jpg")
    (photos / "n").symlink_to(photos / "n")
    assert names(".") == ["./Z.webp", "./a.jpg", "./b.PNG", "./m.jpg", "./t.gif"]
    assert names("m.jpg", "n") == ["m.jpg", "n"]


@pytest.mark.parametrize("fault", ["vanished", "forbidden"])
def test_a_folder_that_cannot_be_read_is_one_failed_input_at_its_place(photos: Path, fault: str) -> None:
    if fault == "forbidden":
        if os.geteuid() == 0:
            pytest.skip("root may read everything")
        (photos / "sub").chmod(0)
    stream = expand(["."], recursive=True)
    first = next(stream)
    if fault == "vanished":
        shutil.rmtree(photos / "sub")
    rest = list(stream)
    assert [first.name, *(item.name for item in rest)] == ["./Z.webp", "./a.jpg", "./b.PNG", "./sub", "./t.gif"]
    source = rest[2].source
    assert callable(source)
    with pytest.raises(ImageError, match=r"The folder '\./sub' cannot be read: (Permission denied|No such file)"):
        source()


@pytest.mark.parametrize("url", ["http://[::1", "https://a..b/x.jpg", "http://127.0.0.1:x/"])
def test_an_address_that_is_none_is_one_failed_input(url: str) -> None:
    require_images([url])
    (item,) = expand([url])
    assert callable(item.source)
    with pytest.raises(ImageError, match="is no"):
        item.source()
