"""Frames of videos as inputs: at even times or scene by scene, each by its name, upright and within the limits."""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from miil21k.data import documents
from miil21k.data.images import load_image
from miil21k.data.inputs import expand
from miil21k.data.options import frames_of
from miil21k.data.video import container_of
from miil21k.errors import ImageError, UsageError
from miil21k.suffixes import is_image_name

if TYPE_CHECKING:
    from pathlib import Path

av = pytest.importorskip("av", reason="the extra 'video' is not installed")

RATE = 8  # frames a second
SCENES = ((0, "red"), (1.25, "lime"), (2.5, "blue"))
SECONDS = 4


def clip(path: Path, codec: str = "mpeg4", rate: int = RATE) -> Path:
    """Write three scenes of one colour each, with a white corner, upper left."""
    with av.open(path, "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height = 64, 48
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = 100  # one key frame at the beginning: other frames need those before them
        for number in range(SECONDS * rate):
            colour = [name for begin, name in SCENES if begin <= number / rate][-1]
            picture = Image.new("RGB", (64, 48), colour)
            picture.paste("white", (0, 0, 16, 16))
            container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clip(tmp_path_factory.mktemp("video") / "clip.mp4")


def names(path: Path, frames: float | str = 10.0) -> list[str]:
    return [image.name.rpartition(os.sep)[2] for image in expand([str(path)], frames=frames)]


def colour(name: str | Path | bytes) -> str:
    picture = np.asarray(load_image(name)).astype(int)
    seen = picture[picture.shape[0] // 2, picture.shape[1] // 2]
    return min(
        ("red", "lime", "blue"), key=lambda name: np.abs(np.array(Image.new("RGB", (1, 1), name))[0, 0] - seen).sum()
    )


def test_one_frame_every_so_many_seconds_each_with_its_time(made: Path) -> None:
    assert names(made) == ["clip.mp4#t=0"]
    assert names(made.parent, 1.25) == ["clip.mp4#t=0", "clip.mp4#t=1.25", "clip.mp4#t=2.5", "clip.mp4#t=3.75"]
    assert names(made, 2) == ["clip.mp4#t=0", "clip.mp4#t=2"]


def test_a_name_alone_reads_the_frame_that_is_shown_then(made: Path) -> None:
    for time, expected in ((0, "red"), (1.249, "red"), (1.25, "lime"), (1.3, "lime"), (2.499, "lime"), (3.999, "blue")):
        assert (time, colour(f"{made}#t={time}")) == (time, expected)
    assert colour(made) == colour(made.read_bytes()) == "red"  # of a whole video the first frame
    with pytest.raises(ImageError, match=r"ends after 4\.000 seconds"):
        load_image(f"{made}#t=4.2")
    with pytest.raises(ImageError, match="name one by #t=SECONDS"):
        load_image(f"{made}#page=1")


def test_scenes_begin_where_the_picture_changes(made: Path) -> None:
    found = [image.name for image in expand([str(made)], frames="scenes")]
    assert found == [f"{made}#t=0", f"{made}#t=1.25", f"{made}#t=2.5"]
    assert [colour(name) for name in found] == ["red", "lime", "blue"]


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [
        *((".mkv", "mpeg4"), (".avi", "mpeg4"), (".mov", "mpeg4"), (".flv", "flv"), (".wmv", "msmpeg4v3")),
        *((".mpg", "mpeg2video"), (".ts", "mpeg2video"), (".m2ts", "mpeg2video")),
    ],
)
def test_containers_are_told_by_their_first_bytes(tmp_path: Path, suffix: str, codec: str) -> None:
    renamed = clip(tmp_path / f"clip{suffix}", codec, 24).rename(tmp_path / "clip.bin")
    assert [colour(f"{renamed}#t={time}") for time in (0.5, 1.2, 1.3, 3)] == ["red", "red", "lime", "blue"]


def test_a_playlist_that_names_other_files_is_no_video(tmp_path: Path, made: Path) -> None:
    for text in (f"#EXTM3U\n#EXTINF:4,\n{made}\n", f"ffconcat version 1.0\nfile {made}\n"):
        path = tmp_path / "list.mp4"
        path.write_text(text)
        [image] = expand([str(path)])
        assert callable(image.source)
        with pytest.raises(ImageError, match="is not a video"):
            image.source()
    assert container_of(b"\0\0\0\x18ftypheic\0\0\0\0") is None  # a photograph of a telephone


def test_a_picture_is_turned_as_the_telephone_says(made: Path, tmp_path: Path) -> None:
    content = made.read_bytes()
    upright = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
    clockwise = struct.pack(">9i", 0, 0x10000, 0, -0x10000, 0, 0, 48 << 16, 0, 0x40000000)
    at = content.index(upright, content.index(b"tkhd"))
    turned = tmp_path / "turned.mp4"
    turned.write_bytes(content[:at] + clockwise + content[at + 36 :])
    picture = load_image(turned)
    assert picture.size == (48, 64)
    assert picture.getpixel((44, 4)) > (200, 200, 200)  # type: ignore[operator] # the corner went from left to right
    assert colour(turned) == "red"


def test_the_limit_of_pixels_holds_before_a_frame_is_decoded(made: Path) -> None:
    with pytest.raises(ImageError, match="64 x 48 pixels, more than the limit of 3,000") as caught:
        load_image(f"{made}#t=1", max_pixels=3000)
    assert caught.value.reason == "too_large"


def test_a_damaged_video_is_one_row_or_ends_with_one(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = made.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[:40])
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("no video")
    for name, words in (("cut", "damaged"), ("empty", "empty"), ("text", "not a video")):
        [image] = expand([str(tmp_path / f"{name}.mp4")])
        assert callable(image.source)
        with pytest.raises(ImageError, match=words):
            image.source()
    monkeypatch.setattr(documents, "MAX_PARTS", 2)
    *frames, rest = expand([str(made)], frames=0.5)
    assert (len(frames), rest.name) == (2, str(made))
    assert callable(rest.source)
    with pytest.raises(ImageError, match="more than 2 frames: take fewer, or name further ones by #t=SECONDS"):
        rest.source()


def test_frames_are_seconds_or_scenes() -> None:
    assert [frames_of("2.5"), frames_of("scenes"), frames_of(3)] == [2.5, "scenes", 3.0]
    for wrong in ("0", "-1", "nan", "inf", "all", "1e9"):
        with pytest.raises(UsageError, match="'scenes', or seconds"):
            frames_of(wrong)


def test_a_video_is_no_picture_of_a_data_set() -> None:
    assert not is_image_name("n01440764/clip.mp4")
