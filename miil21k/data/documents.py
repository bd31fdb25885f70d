"""Files that hold several pictures as inputs: pages of PDF and TIFF, frames of video.

A TIFF of one page is a picture like any other and keeps its name; every other page and frame is named after its file
(`miil21k.data.parts`), and that name alone reads it.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from miil21k.data.images import ImageInput, failing
from miil21k.data.opening import open_file, open_image
from miil21k.data.options import FRAMES
from miil21k.data.parts import MAX_PARTS, Part
from miil21k.errors import Miil21kError
from miil21k.suffixes import TIFF_SUFFIXES, VIDEO_SUFFIXES, document_suffixes, suffix_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from miil21k.data.options import Frames

__all__ = ["Document", "is_document"]

_NOT_A_PAGE = 0b101  # of the tag NewSubfileType: a smaller copy of another page, or a mask
_SUBFILE_TYPE = 254


def is_document(name: str) -> bool:
    """Return whether a name ends as files do that may hold several pictures, and that can be read here."""
    suffix = suffix_of(name)
    return suffix in TIFF_SUFFIXES or suffix in document_suffixes()


class Document(NamedTuple):
    """A file that may hold several pictures.

    name: as it was spelled. path: where it lies. frames: of a video, one every so many seconds, or `scenes`.
    """

    name: str
    path: str
    frames: Frames = FRAMES

    def images(self) -> Iterator[ImageInput]:
        """Yield the pages or frames; a file of which none can be told is itself one input, which fails and says why.

        What lies behind the first `MAX_PARTS` is one more input that fails.
        """
        count = 0
        try:
            for part in islice(self._parts(), MAX_PARTS + 1):
                count += 1
                if count > MAX_PARTS:
                    break
                yield self._image(part)
        except Miil21kError as error:
            yield ImageInput(self.name, failing(str(error)))
        if count > MAX_PARTS:
            video = suffix_of(self.name) in VIDEO_SUFFIXES
            advice = "take fewer, or name further ones by #t=SECONDS" if video else "name further ones by #page=NUMBER"
            more = f"'{self.name}' has more than {MAX_PARTS:,} {'frames' if video else 'pages'}: {advice}."
            yield ImageInput(self.name, failing(more))

    def _image(self, part: Part | None) -> ImageInput:
        return ImageInput(self.name, self.path) if part is None else ImageInput(part.of(self.name), part.of(self.path))

    def _parts(self) -> Iterator[Part | None]:
        """Yield which parts there are, None for a picture that is the whole file."""
        if suffix_of(self.name) in TIFF_SUFFIXES:
            pages = list(islice(_tiff_pages(self.path, self.name), MAX_PARTS + 1))
            yield from (Part(page=page) for page in pages) if len(pages) > 1 else [None]
            return
        if suffix_of(self.name) in VIDEO_SUFFIXES:
            from miil21k.data.video import frame_times

            with open_file(self.path, self.name) as file:
                yield from (Part(time=time) for time in frame_times(file, self.name, self.frames))
            return
        from miil21k.data.pdf import count_pages

        with open_file(self.path, self.name) as file:
            count = count_pages(file, self.name)
        yield from (Part(page=page) for page in range(1, count + 1))


def _tiff_pages(path: str, name: str) -> Iterator[int]:
    """Yield the numbers of the pages, smaller copies and masks left out; ends where the file can be read no further."""
    try:
        with open_image(path, name=name) as image:
            if image.format != "TIFF":
                return
            for number in range(10 * MAX_PARTS):
                image.seek(number)
                kind = getattr(image, "tag_v2", {}).get(_SUBFILE_TYPE, 0)
                if not (isinstance(kind, int) and kind & _NOT_A_PAGE):
                    yield number + 1
    except (Miil21kError, OSError, EOFError, ValueError, SyntaxError, TypeError, KeyError):
        return  # the end; or what is wrong with the first page, which its row will say
