"""Frames of videos as pictures, by FFmpeg (package av, extra `video`).

The container is told by its first bytes and no other is tried: some that FFmpeg knows name further files and addresses,
which it would open.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from itertools import count
from typing import IO, TYPE_CHECKING, Any

from miil21k.data.limits import check_size, reader
from miil21k.data.options import MAX_PIXELS
from miil21k.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from PIL import Image

    from miil21k.data.options import Frames

__all__ = ["HEAD", "container_of", "frame_times", "read_frame"]

HEAD = 400  # bytes from which a container is told
SCENE = 0.3  # how much of a picture changes where a scene ends, as FFmpeg's filter `select` measures it
_ROUNDED = 0.0005  # seconds: names carry three digits
_STARTS = {
    b"\x1aE\xdf\xa3": "matroska",  # and WebM
    b"FLV\x01": "flv",
    b"OggS": "ogg",
    b"\0\0\x01\xba": "mpeg",
    b"0&\xb2u\x8ef\xcf\x11": "asf",
}
# Of ISO base media files: HEIF and AVIF, which Pillow reads, and the raw format of Canon.
_PICTURES = frozenset(
    ["heic", "heix", "heim", "heis", "hevc", "hevx", "hevm", "hevs", "mif1", "mif2", "msf1", "avif", "avis", "crx"]
)
_OLD_QUICKTIME = (b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")


def container_of(head: bytes) -> str | None:
    """Return FFmpeg's name of the kind of video whose first `HEAD` bytes these are; None for what is none."""
    for start, kind in _STARTS.items():
        if head.startswith(start):
            return kind
    if head[4:8] == b"ftyp":
        return None if head[8:12].decode("latin-1").strip() in _PICTURES else "mov"
    if head[4:8] in _OLD_QUICKTIME:
        return "mov"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "avi"
    for first, length in ((0, 188), (4, 192)):  # the second has a time before each packet
        if head[first::length][:2] == b"GG" and len(head) > first + length:
            return "mpegts"
    return None


def frame_times(file: IO[bytes], name: str, frames: Frames) -> Iterator[float]:
    """Yield when, in seconds from the beginning, the frames to be read are shown.

    frames: one every so many seconds, or `scenes`: the first of each scene, for which all of it is decoded.
    Raises ImageError for what cannot be read; what came before stands.
    """
    with _opened(file, name, MAX_PIXELS) as (container, stream):
        if frames == "scenes":
            yield from _scene_times(container, stream)
            return
        length = _length(container, stream)
    for number in count():
        time = number * float(frames)
        if number and time >= length:
            return
        yield time


def read_frame(file: IO[bytes], name: str, time: float, max_pixels: int) -> Image.Image:
    """Return the frame that is shown `time` seconds after the beginning, upright; its size is checked before.

    Raises ImageError for what cannot be read, and for a time behind the end.
    """
    with _opened(file, name, max_pixels) as (container, stream):
        until = _begin(stream) + time + _ROUNDED
        # Not every container knows where a frame begins that needs no other: then a seek may lead too far.
        for earlier in (0, 10, 60, time) if time else (0,):
            start = max(0.0, time - earlier)
            container.seek(int((start + _begin(stream)) / stream.time_base), stream=stream)
            shown, ended = _last_until(container.decode(stream), until)
            if shown is not None and shown.time <= until:
                break
        if ended and shown is not None and time >= (length := _length(container, stream)):
            raise ImageError(f"'{name}' ends after {length:.3f} seconds.")
        if shown is None:
            raise ImageError(f"'{name}' holds no frame that can be read.", "damaged")
        picture: Image.Image = shown.to_image()
        return picture.rotate(shown.rotation, expand=True) if shown.rotation else picture


def _last_until(frames: Iterable[Any], until: float) -> tuple[Any, bool]:
    """Return the last frame that begins by `until`, else the first one, and whether it is the last of all."""
    shown = None
    for frame in frames:
        if shown is not None and frame.time > until:
            return shown, False
        shown = frame
    return shown, True


@contextmanager
def _opened(file: IO[bytes], name: str, max_pixels: int) -> Iterator[Any]:
    """Yield the container and its first stream of moving pictures."""
    av = reader("av", "video", name)
    file.seek(0)
    kind = container_of(file.read(HEAD))
    file.seek(0)
    if kind is None:
        raise ImageError(f"'{name}' is not a video in a format that can be read.", "not_an_image")
    try:
        with av.open(file, format=kind, metadata_errors="replace") as container:
            # A cover is a stream of one picture.
            streams = [s for s in container.streams.video if not s.disposition & s.disposition.attached_pic]
            if not streams:
                raise ImageError(f"'{name}' holds no moving pictures.", "not_an_image")
            stream = streams[0]
            check_size((stream.codec_context.width, stream.codec_context.height), name, max_pixels)
            stream.codec_context.options = {"max_pixels": str(max_pixels)}  # a later frame may be larger
            yield container, stream
    except av.FFmpegError as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ImageError(f"'{name}' is damaged: {reason}.", "damaged") from None


def _begin(stream: Any) -> float:
    return float((stream.start_time or 0) * stream.time_base)


def _length(container: Any, stream: Any) -> float:
    """Return the seconds from the first frame to the end of the last; of a stream that does not say, by its packets."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    if container.duration:
        return float(container.duration / 1e6)
    container.seek(0)
    ends = (packet.pts + (packet.duration or 0) for packet in container.demux(stream) if packet.pts is not None)
    return float(max(ends, default=0) * stream.time_base) - _begin(stream)


def _scene_times(container: Any, stream: Any) -> Iterator[float]:
    from av.filter import Graph

    graph = Graph()
    source = graph.add_buffer(template=stream)
    small = graph.add("scale", "w=160:h=-2:flags=fast_bilinear")
    chosen = graph.add("select", f"gt(scene,{SCENE})")
    sink = graph.add("buffersink")
    graph.link_nodes(source, small, chosen, sink).configure()
    begin, first = _begin(stream), True
    for frame in container.decode(stream):
        if first:
            yield 0.0
            first = False
        source.push(frame)
        yield from _pulled(sink, begin)
    source.push(None)
    yield from _pulled(sink, begin)


def _pulled(sink: Any, begin: float) -> Iterator[float]:
    import av

    with suppress(av.BlockingIOError, av.EOFError):
        while True:
            yield round(sink.pull().time - begin, 3)
