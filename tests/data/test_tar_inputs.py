"""Images in tar shards: their names and order, what is wrong with them, and where a run can go on."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miil21k.data.inputs import Unfolded, expand, expand_units, require_images
from miil21k.data.tar_inputs import Shard, expand_braces
from miil21k.errors import ImageError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from miil21k.data.images import ImageInput


def pack(path: Path, members: dict[str, bytes]) -> Path:
    """Write a shard with one file per entry."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def read(image: ImageInput) -> bytes:
    assert callable(image.source)
    data = image.source()
    assert isinstance(data, bytes)
    return data


def attempt(image: ImageInput) -> bytes | str:
    try:
        return read(image)
    except ImageError as error:
        return str(error)


def found(path: Path) -> tuple[dict[str, bytes], list[str]]:
    """Return what can be read of a shard, by name without the shard's, and what its other inputs say."""
    images = list(Shard("s.tar", str(path)).images())
    assert all(image.name.startswith("s.tar") for image in images)
    read = {image.name.removeprefix("s.tar/"): attempt(image) for image in images}
    good = {name: data for name, data in read.items() if isinstance(data, bytes)}
    return good, [error for error in read.values() if isinstance(error, str)]


THREE = {"b/1.jpg": b"x" * 700, "b/1.cls": b"n01", "a.PNG": b"y" * 3, "c.d.jpg": b"z" * 600}


def test_every_image_is_an_input_in_the_order_of_the_shard(tmp_path: Path) -> None:
    path = pack(tmp_path / "s.tar", {**THREE, ".hidden.jpg": b"h", "sub/._b.jpg": b"h"})
    images = list(Shard("s.tar", str(path)).images())
    assert [image.name for image in images] == ["s.tar/b/1.jpg", "s.tar/a.PNG", "s.tar/c.d.jpg"]
    assert [image.new_batch for image in images] == [True, False, False]
    assert [read(image) for image in images] == [b"x" * 700, b"y" * 3, b"z" * 600]


def test_a_member_is_a_name_and_never_a_path(tmp_path: Path) -> None:
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(b"secret")
    path = pack(tmp_path / "in" / "s.tar", {"../secret.jpg": b"1", str(secret): b"2"})
    with tarfile.open(path, "a") as archive:
        for name, kind in (("soft.jpg", tarfile.SYMTYPE), ("hard.jpg", tarfile.LNKTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, str(secret)
            archive.addfile(info)
    good, errors = found(path)
    assert good == {"../secret.jpg": b"1", str(secret): b"2"}
    assert [error.split("'")[1] for error in errors] == ["s.tar/soft.jpg", "s.tar/hard.jpg"]
    assert all("is a link" in error for error in errors)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["in", "s.tar", "secret.jpg"]


@pytest.mark.parametrize(
    ("size", "images", "words"),
    [
        (512 + 1024 + 512 + 512 + 512 + 2, 1, "is cut off in 'a.PNG' after 1 image."),
        (512 + 699, 0, "is cut off in 'b/1.jpg'."),
        (512 + 700, 1, "is cut off after 1 image."),
        (512 + 1024 + 100, 1, "is cut off (it has no end mark) after 1 image."),
        (512 + 1024 + 512 + 512 + 512 + 512, 2, "is cut off (it has no end mark) after 2 images."),
        (100, 0, "is no plain tar file"),
        (0, 0, "is empty (0 bytes)."),
    ],
)
def test_a_shard_that_breaks_off_keeps_what_is_whole_and_says_so(
    tmp_path: Path, size: int, images: int, words: str
) -> None:
    path = pack(tmp_path / "s.tar", THREE)
    os.truncate(path, size)
    good, errors = found(path)
    assert good == dict([item for item in THREE.items() if not item[0].endswith(".cls")][:images])
    (error,) = errors
    assert error.startswith("'s.tar' ")
    assert words in error


def test_a_damaged_header_ends_the_shard_with_an_error(tmp_path: Path) -> None:
    path = pack(tmp_path / "s.tar", THREE)
    data = bytearray(path.read_bytes())
    data[512 + 1024 + 20] ^= 0xFF  # in the header of b/1.cls
    path.write_bytes(data)
    assert found(path) == ({"b/1.jpg": b"x" * 700}, ["'s.tar' is damaged after 1 image."])


def test_what_is_no_plain_tar_file_and_what_holds_no_image_is_one_error(tmp_path: Path) -> None:
    packed = tmp_path / "gz.tar"
    packed.write_bytes(gzip.compress(pack(tmp_path / "s.tar", THREE).read_bytes()))
    assert "shards are not compressed" in found(packed)[1][0]
    assert found(pack(tmp_path / "none.tar", {"x.txt": b"x"})) == ({}, ["'s.tar' holds no images."])
    assert found(tmp_path / "gone.tar") == ({}, ["'s.tar' cannot be read: No such file or directory."])


def test_a_shard_that_shrinks_while_it_is_read_fails_for_the_image(tmp_path: Path) -> None:
    path = pack(tmp_path / "s.tar", THREE)
    image = next(Shard("s.tar", str(path)).images())
    os.truncate(path, 600)
    with pytest.raises(ImageError, match="cut off after 88 of 700 bytes"):
        read(image)


# ---- how shards are named ----


@pytest.fixture
def shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as the current one: two shards of two images, a picture between them, an index."""
    for number in (0, 2):
        pack(tmp_path / "t" / f"a-{number:02d}.tar", {f"{number}.jpg": b"1", f"{number}x.jpg": b"2"})
    (tmp_path / "t" / "a-01.jpg").write_bytes(b"j")
    (tmp_path / "index.json").write_text(json.dumps({"shards": [{"name": "t/a-02.tar"}, {"name": "t/a-00.tar"}]}))
    monkeypatch.chdir(tmp_path)
    return tmp_path


FIRST, SECOND = ["t/a-00.tar/0.jpg", "t/a-00.tar/0x.jpg"], ["t/a-02.tar/2.jpg", "t/a-02.tar/2x.jpg"]


@pytest.mark.parametrize(
    ("given_name", "names"),
    [
        ("t/a-00.tar", FIRST),
        ("t/*.tar", FIRST + SECOND),
        ("t", [*FIRST, "t/a-01.jpg", *SECOND]),
        ("t/a-{00..02}.tar", [*FIRST, "t/a-01.tar", *SECOND]),  # what is missing gets a row of its own
        ("t/a-{02,00}.tar", SECOND + FIRST),
        ("index.json", SECOND + FIRST),
    ],
)
def test_shards_are_named_as_files_folders_globs_braces_or_by_their_index(
    shards: Path, given_name: str, names: list[str]
) -> None:
    require_images([given_name])
    assert [image.name.replace(os.sep, "/") for image in expand([given_name])] == names


def test_a_json_file_that_is_no_index_is_refused(shards: Path) -> None:
    (shards / "x.json").write_text('{"a": 1}')
    with pytest.raises(UsageError, match="no index of shards"):
        require_images(["x.json"])


def test_a_batch_begins_with_each_shard_and_behind_it(shards: Path) -> None:
    names = ["t/a-01.jpg", "t/a-00.tar", "t/a-00.tar", "t/a-01.jpg", "t/a-01.jpg"]
    flags = [image.new_batch for image in expand(names)]
    assert flags == [False, True, False, True, False, True, False]


@given(low=st.integers(0, 120), high=st.integers(0, 120), width=st.integers(1, 4))
def test_braces_count_as_a_shell_does(low: int, high: int, width: int) -> None:
    step = 1 if high >= low else -1
    first, last = f"{low:0{width}d}", f"{high:0{width}d}"
    found = list(expand_braces(f"x{{{first}..{last}}}.tar"))
    assert [int(name[1:-4]) for name in found] == list(range(low, high + step, step))
    if len(first) == len(last):
        assert {len(name) for name in found} == {len(first) + 5}
    assert list(expand_braces("{a,b}{1..2}")) == ["a1", "a2", "b1", "b2"]
    assert list(expand_braces("{}{x}.tar")) == ["{}{x}.tar"]


@given(cut=st.integers(0, 12), back=st.integers(0, 3))
def test_the_rest_of_a_stream_goes_on_where_it_was_left(
    cut: int, back: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / "rest"
    first, second = folder / "a.tar", folder / "b.tar"
    if not second.exists():
        pack(first, {f"{number}.jpg": b"1" for number in range(5)})
        pack(second, {f"{number}.jpg": b"1" for number in range(4)})
    names = ["x.jpg", str(first), "y.jpg", "z.jpg", str(second)]
    whole = [image.name for image in expand(names)]
    images = Unfolded(expand_units(names))
    seen = [next(images) for _ in range(cut)]
    groups = [0] * 1 + [1] * 5 + [2] * 2 + [3] * 4
    again = sum(1 for place in range(max(0, cut - back), cut) if groups[place] == groups[cut - 1])
    rest = images.rest(seen[cut - again :])
    assert [image.name for image in Unfolded(rest)] == whole[cut - again :]
