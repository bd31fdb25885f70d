"""A few pictures, and a real browser that acts on the page of their gallery as a person does."""

from __future__ import annotations

import json
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pictures import made_up
from PIL import Image

from miil21k.hierarchy.load import load_label_space

if TYPE_CHECKING:
    from miil21k.find.store import Index

ANIMAL, BIRD, COCK = ("n00015388", "animal"), ("n01503061", "bird"), ("n01514668", "cock")
VERTEBRATE = ("n01471682", "vertebrate")
ODD = "<b>o'd\"d & %2f#\udcff.jpg"
BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
ACT = Path(__file__).with_name("gallery_act.js").read_bytes()
_SHOWN = ODD.replace("\udcff", "\\udcff")
EXPECTED = {
    "cells": 4,
    "tree": ["everything 4", "animal 3", "not sure enough 1"],
    "below": ["everything 4", "animal 3", "vertebrate 2", "not sure enough 1"],
    "birds": ["bird.jpg", "cock.jpg"],
    "no cocks": ["bird.jpg"],
    "unknown": True,
    "cranes": 2,
    "crane": "n02012849",
    "odd": _SHOWN,
    "bold": 0,
    "corrections": [["cock.jpg", "n01514668", "right"], [_SHOWN, "n01531178", "is"]],
    "saved": 2,
    "after": ["not sure enough"],
    "errors": [],
}


def odd_birds(folder: Path) -> Index:
    """Index two birds, a picture without an answer, and one whose name is as odd as names get."""
    (folder / "photos").mkdir()
    files = [folder / "photos" / name for name in ("cock.jpg", "bird.jpg", "unsure.jpg", ODD)]
    for number, file in enumerate(files):
        Image.new("RGB", (300, 200), (60 * number, 120, 90)).save(str(folder / "one.jpg"))
        (folder / "one.jpg").rename(file)
    paths = [[ANIMAL, VERTEBRATE, BIRD, COCK], [ANIMAL, VERTEBRATE, BIRD], [], [ANIMAL]]
    cock, goldfinch, cat = (load_label_space("in1k").tree.index(w) for w in ("n01514668", "n01531178", "n02123045"))
    classes = [[cock], [goldfinch], [cat], [cat]]
    shares = [np.array([p], np.float16) for p in (0.95, 0.9, 0.4, 0.3)]
    return made_up(folder / "photos.index", files, paths, classes=classes, probabilities=shares)


def acting(page: bytes) -> bytes:
    """Return the page with the script that acts on it."""
    return page.replace(b"</body>", b'<script src="act.js"></script></body>')


def seen_by_browser(url: str, profile: Path) -> Any:
    """Return what the acting script saw on the page at `url`."""
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1200,800", "--virtual-time-budget=20000"]
    command = [str(BROWSER), *flags, f"--user-data-dir={profile}", "--dump-dom", url]
    dump = subprocess.run(command, capture_output=True, timeout=600, check=True).stdout.decode()
    return json.loads(unescape(dump.partition('<pre id="seen">')[2].partition("</pre>")[0]))
