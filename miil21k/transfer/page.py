"""The report of a transfer as one HTML file that needs nothing beside it."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from miil21k.predict.html_page import html_page, inline_image, table, thumbnail

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

__all__ = ["page"]

MOST_SHOWN = 48


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
        table(
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
            table(
                ("label", "taken for", "images", "edges of the tree between"),
                ((row["label"], row["answer"], row["images"], row["edges"]) for row in report["confusions"]),
            ),
        ]
    parts += _doubts(report["doubts"], read)
    return html_page(title, parts)


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
    return f"<figure>{thumbnail(row['image'], read)}<figcaption>{words}</figcaption></figure>"


def _picture(path: Path) -> str:
    return inline_image(path.stem, "image/png", path.read_bytes(), "wide")


def _notes(notes: Iterable[str]) -> str:
    lines = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f"<ul>{lines}</ul>" if lines else ""


def _share(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"
