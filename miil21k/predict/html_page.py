"""A page of HTML that needs nothing beside it: one look for every report, with the pictures inside."""

from __future__ import annotations

import base64
import io
from html import escape
from typing import TYPE_CHECKING, Any

from miil21k.data.images import load_image
from miil21k.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

__all__ = ["html_page", "inline_image", "table", "thumbnail"]

EDGE = 160  # pixels of a thumbnail
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem; color: #222 }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2.2rem }
table { border-collapse: collapse } td, th { padding: .15rem .8rem .15rem 0; text-align: left }
td.n, th.n { text-align: right } tr + tr td { border-top: 1px solid #eee } th { color: #666; font-weight: 500 }
.big { font-size: 2.2rem; font-weight: 600 } .soft { color: #666 }
code { background: #f3f3f3; padding: .15rem .35rem; border-radius: 3px; overflow-wrap: anywhere }
.photos { display: grid; grid-template-columns: repeat(auto-fill, minmax(165px, 1fr)); gap: 1rem }
figure { margin: 0; font-size: 13px } figure img { max-width: 160px; max-height: 160px; display: block }
figcaption { overflow-wrap: anywhere } img.wide { max-width: 100% }
@media (prefers-color-scheme: dark) {
  body { background: #161616; color: #ddd } code { background: #2a2a2a } tr + tr td { border-top-color: #2c2c2c }
  img.wide { background: white }
}
"""


def html_page(title: str, parts: Iterable[str]) -> str:
    """Return a page of `parts`, which are HTML; title: text."""
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def thumbnail(name: str, read: Callable[[str], bytes]) -> str:
    """Return an image as an `<img>`, or why it cannot be read. read: its bytes, by its name."""
    try:
        image = load_image(read(name), name=name)
    except (ImageError, OSError) as error:
        return f"<p class='soft'>{escape(str(error))}</p>"
    image.thumbnail((EDGE, EDGE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return inline_image(name, "image/jpeg", buffer.getvalue())


def inline_image(name: str, kind: str, content: bytes, css: str = "") -> str:
    """Return an `<img>` that holds its picture. name: text, for who cannot see it. css: its class."""
    data = base64.b64encode(content).decode()
    return f"<img class='{css}' alt='{escape(name, quote=True)}' src='data:{kind};base64,{data}'>"


def table(titles: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a table; titles and values are text, numbers stand to the right."""

    def cells(values: Sequence[Any], tag: str) -> str:
        kinds = (
            "" if place == 0 or (isinstance(v, str) and not v.endswith("%")) else " class='n'"
            for place, v in enumerate(values)
        )
        return "".join(f"<{tag}{k}>{escape(str(v))}</{tag}>" for k, v in zip(kinds, values, strict=True))

    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    return f"<table><tr>{cells(titles, 'th')}</tr>{body}</table>"
