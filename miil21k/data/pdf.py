"""Pages of PDF documents as pictures, by PDFium (package pypdfium2, extra `pdf`)."""

from __future__ import annotations

from contextlib import contextmanager
from threading import Lock
from typing import IO, TYPE_CHECKING, Any

from miil21k.data.limits import check_size, reader
from miil21k.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from PIL import Image

__all__ = ["DPI", "count_pages", "draw_page"]

DPI = 144  # twice the unit of PDF: an A4 page has 1,190 x 1,684 pixels
_LOCK = Lock()  # PDFium may be called by one thread at a time


def count_pages(file: IO[bytes], name: str) -> int:
    """Return the number of pages; raises ImageError for what is no readable PDF, or is locked by a password."""
    with _document(file, name) as document:
        return len(document)


def draw_page(file: IO[bytes], name: str, page: int, max_pixels: int) -> Image.Image:
    """Return page `page`, counted from 1, as RGB on white at 144 dots per inch, its size checked before it is drawn."""
    with _document(file, name) as document:
        if page > len(document):
            raise ImageError(f"'{name}' has {len(document)} page{'' if len(document) == 1 else 's'}.")
        leaf = document[page - 1]
        try:
            width, height = (max(1, round(side * DPI / 72)) for side in leaf.get_size())
            check_size((width, height), name, max_pixels)
            picture: Image.Image = leaf.render(scale=DPI / 72).to_pil().convert("RGB")
        finally:
            leaf.close()
    return picture


@contextmanager
def _document(file: IO[bytes], name: str) -> Iterator[Any]:
    pdfium = reader("pypdfium2", "pdf", name)
    with _LOCK:
        try:
            document = pdfium.PdfDocument(file)
            try:
                yield document
            finally:
                document.close()
        except pdfium.PdfiumError as error:
            words = str(error)
            locked = "password" in words.lower()
            reason = "is locked by a password" if locked else f"is damaged: {words.rstrip('.')}"
            raise ImageError(f"'{name}' {reason}.", "unreadable" if locked else "damaged") from None
