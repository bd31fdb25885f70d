"""Images behind addresses that fsspec opens (its file systems in memory and on this disk stand for object stores)."""

from __future__ import annotations

import io
import tarfile
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from miil21k.data.cloud import is_address, is_remote
from miil21k.data.images import load_image
from miil21k.data.inputs import expand, require_images
from miil21k.errors import ImageError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

fsspec = pytest.importorskip("fsspec", reason="the extra 'cloud' is not installed")


def png(width: int = 8) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, 8), "red").save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def bucket() -> Iterator[Any]:
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        for number in range(3):
            info = tarfile.TarInfo(f"{number}.png")
            info.size = len(png(10 + number))
            archive.addfile(info, io.BytesIO(png(10 + number)))
    for name, content in {
        "photos/b.png": png(),
        "photos/a b.png": png(9),
        "photos/.hidden.png": png(),
        "photos/notes.txt": b"x",
        "photos/sub/c.png": png(),
        "photos/__MACOSX/d.png": png(),
        "s-0.tar": tar.getvalue(),
        "s-1.tar": tar.getvalue()[:560],
    }.items():
        fs.pipe(f"/b/{name}", content)
    yield fs
    fs.store.clear()


def names(*given: str, recursive: bool = False) -> list[str]:
    return [image.name for image in expand(given, recursive=recursive)]


def test_addresses_are_told_from_paths() -> None:
    assert all(map(is_remote, ("s3://b/a.jpg", "gs://b", "hf://datasets/x", "filecache::s3://b/a.jpg")))
    assert not any(map(is_remote, ("https://x/a.jpg", "HTTP://x", "a.jpg", "c:/a.jpg", "c://a.jpg", "a/s3://b")))
    assert is_address("https://x/a.jpg")


def test_a_folder_a_pattern_and_a_file_each_by_a_name_that_can_be_given_back(bucket: Any) -> None:
    assert names("memory://b/photos") == ["memory://b/photos/a b.png", "memory://b/photos/b.png"]
    assert names("memory://b/photos/", recursive=True)[-1] == "memory://b/photos/sub/c.png"
    assert names("memory://b/**/c.png") == ["memory://b/photos/sub/c.png"]
    found = list(expand(["memory://b/photos"]))
    assert [load_image(image.source).size for image in found] == [(9, 8), (8, 8)]  # type: ignore[arg-type]
    assert names(found[0].name) == [found[0].name]
    stream = expand(["memory://b/photos"])
    list(stream)
    assert stream.passed.sentence() == "1 passed over: 1 .txt"


def test_members_of_a_shard_are_read_by_ranges(bucket: Any) -> None:
    found = list(expand(["memory://b/s-{0..1}.tar"]))
    assert [image.name for image in found] == [
        *(f"memory://b/s-0.tar/{number}.png" for number in range(3)),
        "memory://b/s-1.tar",
    ]
    sizes = [load_image(image.source()).width for image in found[:3] if callable(image.source)]  # type: ignore[arg-type]
    assert sizes == [10, 11, 12]
    last = found[3].source
    assert callable(last)
    with pytest.raises(ImageError, match="is cut off"):
        last()


def test_inside_of_an_archive(bucket: Any, tmp_path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr("in/a.png", png(7))
    [name] = names(f"zip://in::file://{tmp_path}/photos.zip")
    assert name == f"zip://in/a.png::file://{tmp_path}/photos.zip"
    assert load_image(name).width == 7


def test_what_is_missing_or_cannot_be_reached_is_a_row(bucket: Any) -> None:
    require_images(["memory://b/photos/gone.png", "nothing://b/c"])
    [gone, unknown] = expand(["memory://b/photos/gone.png", "nothing://b/c"])
    with pytest.raises(ImageError, match=r"There is no 'memory://b/photos/gone\.png'"):
        load_image(gone.source)  # type: ignore[arg-type]
    assert callable(unknown.source)
    with pytest.raises(ImageError, match="'nothing://b/c' cannot be read: Protocol not known: nothing"):
        unknown.source()
    with pytest.raises(UsageError, match=r"No images at 'memory://b/\*\.jpg'"):
        require_images(["memory://b/*.jpg"])


def test_offline_nothing_is_asked(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fsspec.core.url_to_fs", lambda *_: pytest.fail("asked"))
    [image] = expand(["memory://b/photos"], offline=True)
    assert callable(image.source)
    with pytest.raises(ImageError, match="offline"):
        image.source()


def test_guards_hold_behind_an_address_too(bucket: Any, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="more than the limit of 10"):
        load_image("memory://b/photos/b.png", max_pixels=10)
    import os

    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match="is a named pipe"):
        load_image(f"file://{tmp_path}/pipe.png")


def test_pages_behind_an_address(bucket: Any) -> None:
    pytest.importorskip("pypdfium2", reason="the extra 'pdf' is not installed")
    file = io.BytesIO()
    Image.new("RGB", (20, 10)).save(file, "PDF", save_all=True, append_images=[Image.new("RGB", (30, 10))])
    bucket.pipe("/b/report.pdf", file.getvalue())
    found = names("memory://b/report.pdf")
    assert found == ["memory://b/report.pdf#page=1", "memory://b/report.pdf#page=2"]
    assert [load_image(name).width for name in found] == [40, 60]
