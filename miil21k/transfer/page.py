"""The report of a transfer as one HTML file that needs nothing beside it."""

from __future__ import annotations

import base64
import io
from html import escape
from typing import TYPE_CHECKING, Any

from miil21k.data.images import load_image
from miil21k.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

__all__ = ["page"]

EDGE = 160  # pixels of a thumbnail
MOST_SHOWN = 48
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


def page(report: Mapping[str, Any], read: Callable[[str], bytes], pictures: Sequence[Path] = ()) -> str:
    """Return the HTML of a report; read: the bytes of an image in doubt, by its name. pictures: shown as they are."""
    title = f"{report['classes']:,} classes from {report['num_train']:,} images"
    headline = (
        f"<p><span class='big'>{report['accuracy']:.1%}</span> of {report['num_test']:,} images that were not learnt "
        f"from are right (95 % band {report['accuracy_low']:.1%} to {report['accuracy_high']:.1%}).</p>"
        f"<p>{escape(report['title'])} with <b>{escape(report['base'])}</b>, in {report['seconds']:.0f} seconds. "
        f"{escape(report['why'])}</p>"
    )
    parts = [
        f"<h1>{escape(title)}</h1>",
        headline,
        f"<p>Predict: <code>{escape(report['command'])}</code></p>",
        _notes(report["notes"]),
        *(_picture(path) for path in pictures if path.exists()),
        "<h2>Classes</h2>",
        _table(
            ("class", "learnt from", "judged by", "found", "answers right"),
            (
                (row["name"], row["train"], row["test"], _share(row["recall"]), _share(row["precision"]))
                for row in report["per_class"]
            ),
        ),
    ]
    if report["confusions"]:
        parts += [
            "<h2>What is confused</h2>",
            _table(
                ("label", "taken for", "images", "edges of the tree between"),
                ((row["label"], row["answer"], row["images"], row["edges"]) for row in report["confusions"]),
            ),
        ]
    parts += _doubts(report["doubts"], read)
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def _doubts(rows: Sequence[Mapping[str, Any]], read: Callable[[str], bytes]) -> list[str]:
    if not rows:
        return ["<h2>Labels in doubt</h2><p>None.</p>"]
    shown = "".join(_figure(row, read) for row in rows[:MOST_SHOWN])
    more = f" The first {MOST_SHOWN} are shown; report.json has all." if len(rows) > MOST_SHOWN else ""
    wrong = sum(row["kind"] == "likely mislabelled" for row in rows)
    words = (
        f"<p>{wrong} images are likely mislabelled and {len(rows) - wrong} doubtful, by classifiers that did not see "
        f"them.{more}</p><div class='photos'>{shown}</div>"
    )
    return ["<h2>Labels in doubt</h2>", words]


def _figure(row: Mapping[str, Any], read: Callable[[str], bytes]) -> str:
    words = (
        f"<b>{escape(row['label'])}</b>? looks like <b>{escape(row['looks_like'])}</b> ({row['probability']:.0%})"
        f"<br><span class='soft'>{escape(row['kind'])}, {escape(row['image'])}</span>"
    )
    return f"<figure>{_thumbnail(row['image'], read)}<figcaption>{words}</figcaption></figure>"


def _thumbnail(name: str, read: Callable[[str], bytes]) -> str:
    try:
        image = load_image(read(name), name=name)
    except (ImageError, OSError) as error:
        return f"<p class='soft'>{escape(str(error))}</p>"
    image.thumbnail((EDGE, EDGE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return f"<img alt='{escape(name, quote=True)}' src='data:image/jpeg;base64,{_text(buffer.getvalue())}'>"


def _picture(path: Path) -> str:
    return f"<img class='wide' alt='{escape(path.stem)}' src='data:image/png;base64,{_text(path.read_bytes())}'>"


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _notes(notes: Iterable[str]) -> str:
    lines = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f"<ul>{lines}</ul>" if lines else ""


def _table(titles: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    def cells(values: Sequence[Any], tag: str) -> str:
        kinds = (
            "" if place == 0 or (isinstance(v, str) and not v.endswith("%")) else " class='n'"
            for place, v in enumerate(values)
        )
        return "".join(f"<{tag}{k}>{escape(str(v))}</{tag}>" for k, v in zip(kinds, values, strict=True))

    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    return f"<table><tr>{cells(titles, 'th')}</tr>{body}</table>"


def _share(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"
