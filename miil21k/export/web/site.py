"""A folder of static files that names what is in pictures, in the browser: page, model, words and runtime."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miil21k.data.transforms import decode_edge
from miil21k.decode.decoded import concept_graph
from miil21k.environment import silence_telemetry
from miil21k.errors import ExportError, UsageError
from miil21k.export.web.graph import web_graph
from miil21k.export.web.runtime import PACKAGE, SCRIPT, WASM, require_runtime, runtime_of
from miil21k.files import atomic_folder
from miil21k.zoo.export_card import read_export_card

if TYPE_CHECKING:
    from collections.abc import Callable

    from miil21k.export.web.runtime import WebRuntime
    from miil21k.zoo.export_card import ExportCard

__all__ = ["Site", "SitePart", "export_web", "labels_of"]

silence_telemetry()

_FILES = Path(__file__).parent / "files"
_PAGE = ("index.html", "page.css", "page.mjs", "worker.mjs", "service-worker.js", "manifest.webmanifest", "icon.svg")
_MODEL, _LABELS, _SITE, _LICENSES = "model.onnx", "labels.json", "site.json", "LICENSES.txt"
# What is asked unless the export asks: animal, bird, dog, person, plant, food, vehicle, building.
_QUESTIONS = (
    *("n00015388", "n01503061", "n02084071", "n00007846"),
    *("n00017222", "n00021265", "n04524313", "n02913152"),
)


@dataclass(frozen=True)
class SitePart:
    """A file of the site: its name, the bytes of what it holds, and the bytes that travel (compressed or as it is)."""

    name: str
    raw: int
    sent: int


@dataclass(frozen=True)
class Site:
    """What was written: the folder, what it answers with, and its files, in the order in which a browser asks."""

    folder: Path
    model: str
    precision: str
    runtime: str
    parts: tuple[SitePart, ...]

    @property
    def raw(self) -> int:
        """Bytes of all files that the first answer needs, as they are in memory."""
        return sum(part.raw for part in self.parts)

    @property
    def sent(self) -> int:
        """Bytes that travel before the first answer, from a server that compresses nothing."""
        return sum(part.sent for part in self.parts)


def export_web(
    model: Path, folder: Path, *, runtime: Path | None = None, say: Callable[[str], None] = lambda _: None
) -> Site:
    """Write a static site for the export at `model`, of the form full and any precision, to `folder`.

    runtime: an unpacked package onnxruntime-web; None takes the pinned version from npm. say: told each step. A folder
    that is there is replaced by the whole new one, or stays as it was.
    Raises CheckpointError for a file that is no export, UsageError for one of the form tensor or above 2 GB, without
    npm, and for a folder that holds something else; ExportError when npm fails or the folder cannot be written.
    """
    card = read_export_card(model)
    require_runtime(runtime)
    if folder.exists() and not (folder / _SITE).is_file():
        raise UsageError(f"'{folder}' exists and is no site of miil21k, so it is not replaced: give another name.")
    say(f"adding P of every concept to the graph of {card.model}")
    content = web_graph(model, card).SerializeToString()
    say(f"reading {PACKAGE} from {'npm' if runtime is None else runtime}")
    engine = runtime_of(runtime)
    labels = json.dumps(labels_of(card), ensure_ascii=False, separators=(",", ":")).encode()
    say("compressing")
    large = {_LABELS: labels, WASM: engine.wasm, _MODEL: content}
    packed = {name: gzip.compress(raw, 9, mtime=0) for name, raw in large.items()}
    page = {name: (_FILES / name).read_bytes() for name in _PAGE} | {SCRIPT: engine.script}
    facts = _facts(card, {name: len(raw) for name, raw in large.items()})
    content_of = [*packed.values(), *page.values(), json.dumps(facts).encode()]
    digest = hashlib.sha256(b"".join(content_of)).hexdigest()[:16]
    facts["version"] = digest
    page[_SITE] = (json.dumps(facts, ensure_ascii=False, indent=1) + "\n").encode()
    page["service-worker.js"] = re.sub(rb"@VERSION@", digest.encode(), page["service-worker.js"])
    try:
        with atomic_folder(folder) as part:
            for name, raw in page.items():
                (part / name).write_bytes(raw)
            for name, small in packed.items():
                (part / f"{name}.gz").write_bytes(small)
            (part / _LICENSES).write_text(_licenses(card, engine), encoding="utf-8")
    except OSError as error:
        raise ExportError(f"Cannot write '{folder}': {error.strerror or error}.") from None
    sizes = [SitePart(name, len(raw), len(raw)) for name, raw in page.items()]
    sizes += [SitePart(f"{name}.gz", len(raw), len(packed[name])) for name, raw in large.items()]
    return Site(folder, card.model, card.precision, f"{PACKAGE} {engine.version}", tuple(sizes))


def labels_of(card: ExportCard) -> dict[str, list[Any]]:
    """Return the words of every concept, by its number in the answers; those of hidden classes are empty.

    wnids; names; words: all lemmas, joined by `|`; above: the number of the first hypernym, -1 for a root.
    """
    graph = concept_graph(card.space)
    hidden = {graph.index_of[wnid] for wnid in card.decoder().record()["masked"]}
    names = [*card.space.tree.names, *map(graph.name, range(card.space.tree.num_nodes, len(graph)))]
    words = ["|".join(lemma.word for lemma in graph.lemmas(concept)) for concept in range(len(graph))]
    above = [next(iter(graph.parents(concept).tolist()), -1) for concept in range(len(graph))]
    return {
        "wnids": list(graph.wnids),
        "names": ["" if concept in hidden else name for concept, name in enumerate(names)],
        "words": ["" if concept in hidden else word for concept, word in enumerate(words)],
        "above": above,
    }


def _facts(card: ExportCard, sizes: dict[str, int]) -> dict[str, Any]:
    """Return what the page has to know before it runs, as JSON values."""
    decoding = card.decoder().record()
    graph = concept_graph(card.space)
    asked = [one["wnid"] for one in decoding["asked"]] or [q for q in _QUESTIONS if q not in decoding["masked"]]
    return {
        "model": card.model,
        "label_space": card.space.name,
        "num_classes": card.space.num_classes,
        "licence": card.licence or "not stated",
        "precision": card.precision,
        "reading": decoding["reading"],
        "hedge": decoding["hedge"],
        "calibrated": decoding["calibration"] is not None,
        "questions": [graph.index_of[wnid] for wnid in asked if wnid in graph.index_of],
        "bins": [one["label"] for one in decoding.get("bins", ())],
        "decode_edge": decode_edge(card.preprocess),
        "crop": card.preprocess.crop_mode,
        "script": SCRIPT,
        "files": {"labels": _LABELS, "wasm": WASM, "model": _MODEL},
        "bytes": sizes,
    }


def _licenses(card: ExportCard, engine: WebRuntime) -> str:
    """Return the licences of what the folder holds."""
    wordnet = Path(__file__).parents[2] / "hierarchy" / "label_spaces" / "LICENSE.wordnet"
    parts = (
        (
            "The page (index.html, page.css, page.mjs, worker.mjs, service-worker.js, manifest.webmanifest, icon.svg)",
            "Written by miil21k, Apache-2.0: https://www.apache.org/licenses/LICENSE-2.0\n",
        ),
        (
            f"The weights in {_MODEL}.gz: {card.model}",
            f"{card.licence or 'Their licence is not stated; ask whoever trained them.'}\n",
        ),
        (
            f"{PACKAGE} {engine.version} ({SCRIPT}, {WASM}.gz)",
            (_FILES / f"LICENSE.{PACKAGE}").read_text(encoding="utf-8"),
        ),
        (f"WordNet 3.0, whose words {_LABELS}.gz holds", wordnet.read_text(encoding="utf-8")),
    )
    return "\n\n".join(f"{title}\n{'-' * len(title)}\n\n{text.strip()}\n" for title, text in parts)
