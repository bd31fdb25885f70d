"""A card for every row of `weights_manifest.json`: what it is, where it comes from, how to load it, what it is for."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from miil21k.cli.info import AVAILABILITY, parameters_of
from miil21k.zoo.manifest import load_manifest
from miil21k.zoo.registry import hub_entrypoints

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from miil21k.zoo.manifest import Metric, Preprocess, Source, Weights

__all__ = ["FAMILIES", "card", "cards", "stem", "stems"]

FAMILIES = {
    "miil21k": "ImageNet-21K Pretraining for the Masses (MIIL)",
    "usi": "Solving ImageNet: a Unified Scheme (USI)",
    "ssl": "Semi-supervised, YFCC-100M (Facebook)",
    "swsl": "Semi-weakly supervised, IG-1B (Facebook)",
    "bit": "Big Transfer (BiT, Google)",
    "embedded": "The embedded default",
}
HEADS = {
    "level_softmax": "one softmax per level of the tree ([semantic softmax](../softmax_per_level.md))",
    "leaf_softmax": "one softmax over all classes",
    "sigmoid": "one sigmoid per class",
}
SPACES = {
    "fall11": "11,221 classes of ImageNet-21K-P as it was first released, with their tree",
    "winter21": "10,450 classes of ImageNet-21K-P of winter 2021, with their tree",
    "goog21k": "the 21,843 classes of the whole ImageNet-21K, with their tree",
    "in1k": "the 1,000 classes of ImageNet-1K, hung onto the same tree",
}
# What a network of these classes is good for, by label space; None: nobody has said which classes it has.
USES = {
    "in1k": "Photographs with one thing in the middle, of everyday objects and animals: 118 of the 1,000 classes are "
    "breeds of dogs. It knows few plants, dishes and tools, and no people.",
    None: "A start for training on your own classes. Its authors did not publish which classes its head has, so no "
    "answer can be read from it.",
}
MANY = (
    "Photographs with one thing in the middle, of nearly anything that a noun names, and a start for training on "
    "your own classes."
)


def stem(weights: Weights) -> str:
    """Return the name of the page of a row, without its extension."""
    return re.sub(r"[^a-z0-9]+", "-", weights.name.lower())


def cards() -> dict[str, str]:
    """Return every page by its file name: a card for each row, and `index.md` that lists them by family."""
    rows = load_manifest().models
    return {"index.md": "\n".join(_index(rows)) + "\n", **{f"{stem(row)}.md": card(row) for row in rows}}


def stems() -> Iterator[tuple[str, str]]:
    """Yield the name of the page and the name of the row, for each row."""
    yield from ((stem(row), row.name) for row in load_manifest().models)


def card(weights: Weights) -> str:
    """Return the card of one row, in Markdown."""
    return "\n".join(_lines(weights)) + "\n"


def _index(rows: Iterable[Weights]) -> Iterator[str]:
    yield "# Model cards"
    yield "\nOne for each published checkpoint, written from `weights_manifest.json` when this site is built."
    yield "[Models](../models.md) compares them in one table and one picture."
    for family, title in FAMILIES.items():
        yield f"\n## {title}\n"
        yield "```{toctree}\n:maxdepth: 1\n"
        yield from (stem(row) for row in rows if row.family == family)
        yield "```"


def _lines(weights: Weights) -> Iterator[str]:
    yield f"# {weights.name}\n"
    yield _summary(weights)
    yield from ("\n## Load it\n", *_loading(weights))
    yield from ("\n## What it is\n", *_facts(weights))
    yield from ("\n## How images are prepared\n", *_preprocessing(weights))
    yield from ("\n## Published numbers\n", *_metrics(weights))
    yield from ("\n## Where the file comes from\n", *_sources(weights))
    yield from ("\n## Intended use and limits\n", *_limits(weights))
    if weights.papers:
        yield "\n## Papers\n"
        yield from (f"- {_paper(p.title, p.arxiv, p.venue)}" for p in weights.papers)


def _summary(weights: Weights) -> str:
    metric = weights.headline
    which = "semantic top-1 on ImageNet-21K-P" if metric and metric.name == "semantic_top1" else "top-1 on ImageNet-1K"
    said = f" Published: {metric.value:g} % {which}." if metric else ""
    size = f", {weights.params / 1e6:.1f} million parameters" if weights.params else ""
    role = f" Its part: {weights.role}." if weights.role else ""
    return f"`{weights.arch}`{size}. {FAMILIES[weights.family]}.{role}{said} Licence: {weights.licence}."


def _loading(weights: Weights) -> Iterator[str]:
    if not weights.buildable:
        yield "It cannot be loaded: the configuration of its architecture was never published."
        return
    answers = weights.label_space is not None
    if answers:
        yield f"```bash\nmiil21k-predict -m {weights.name} photo.jpg\n```\n"
    python = ["from miil21k import Predictor, create_model\n" if answers else "from miil21k import create_model\n"]
    if answers:
        python.append(f'answer = Predictor("{weights.name}")("photo.jpg")')
        python.append(f'network = create_model("{weights.name}", pretrained=True)  # a torch module, without the tree')
    else:
        python.append(f'network = create_model("{weights.name}", pretrained=True, num_classes=17)  # a fresh head')
    yield "```python\n" + "\n".join(python) + "\n```\n"
    entry = weights.name.replace(".", "_").replace("-", "_")
    assert entry in hub_entrypoints(), f"torch.hub does not know {entry}"
    yield "```python\nimport torch\n"
    yield f'network = torch.hub.load("path/to/a/clone", "{entry}", source="local")\n```'
    if weights.family == "miil21k" and weights.head == "level_softmax":
        name = f"{weights.arch.removesuffix('_miil')}_miil_in21k"
        yield "\n```python\nimport timm\n\nimport miil21k.zoo.timm_names\n"
        yield f'network = timm.create_model("{name}", pretrained=True)\n```'


def _facts(weights: Weights) -> Iterator[str]:
    yield "| property | value |\n|---|---|"
    facts = {
        "names": ", ".join(f"`{name}`" for name in weights.names),
        "architecture": f"`{weights.arch}`" + "".join(f", `{k}={v}`" for k, v in weights.arch_kwargs.items()),
        "parameters": parameters_of(weights),
        "multiply-adds": f"{weights.gmacs:g} G ({weights.gmacs_source})" if weights.gmacs else "not published",
        "label space": _space(weights),
        "head": HEADS[weights.head],
        "licence": f"{weights.licence} ({weights.licence_source})"
        + (f"; timm says {weights.licence_timm}" if weights.licence_timm else ""),
        "uncertain": ", ".join(f"`{name}`" for name in weights.uncertain) or "nothing",
    }
    yield from (f"| {name} | {_cell(value)} |" for name, value in facts.items())


def _space(weights: Weights) -> str:
    if weights.label_space:
        return f"`{weights.label_space}`, {SPACES[weights.label_space]}: [label spaces](../label_spaces.md)"
    return "not published; " + " or ".join(f"`{c.label_space}` ({c.num_classes:,} classes)" for c in weights.candidates)


def _preprocessing(weights: Weights) -> Iterator[str]:
    yield f"By default as `{weights.preprocess_default}`. {weights.preprocess_reason}\n"
    yield "| name | size | resize | crop | mean | standard deviation | stated in |\n|---|---|---|---|---|---|---|"
    yield from (f"| `{name}` | {_prepared(found)} |" for name, found in weights.preprocessings.items())


def _prepared(found: Preprocess) -> str:
    _, height, width = found.input_size
    crop = f"{found.crop_mode}, {found.crop_pct:g}"
    cells = (f"{height} x {width}", found.interpolation, crop, _triple(found.mean), _triple(found.std), found.source)
    return " | ".join(_cell(cell) for cell in cells)


def _triple(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.4g}" for value in (values[:1] if len(set(values)) == 1 else values))


def _metrics(weights: Weights) -> Iterator[str]:
    if not weights.metrics:
        yield "None."
        return
    yield "As others printed them. None was measured again here.\n"
    yield "| number | value | data set | image size | said besides | source |\n|---|---:|---|---:|---|---|"
    yield from (f"| {_metric(metric)} |" for metric in weights.metrics)


def _metric(metric: Metric) -> str:
    value = f"{metric.value:g}{f' {metric.unit}' if metric.unit else ''}"
    cells = (f"`{metric.name}`", value, metric.dataset, metric.img_size, metric.conditions, metric.source)
    return " | ".join(_cell("" if cell is None else str(cell)) for cell in cells)


def _sources(weights: Weights) -> Iterator[str]:
    yield f"The file lies {AVAILABILITY[weights.availability]}. The sources are tried in this order;"
    yield "[weights](../weights.md) says how a file is checked.\n"
    yield "| source | put there by | layout | size | digest (SHA-256) | remark |\n|---|---|---|---|---|---|"
    yield from (f"| {_source(source)} |" for source in weights.sources)
    if weights.unverified_copies:
        yield "\nCopies that nobody has compared with the original. They are never fetched unasked:\n"
        yield "| source | put there by | layout | size | digest (SHA-256) | remark |\n|---|---|---|---|---|---|"
        yield from (f"| {_source(source)} |" for source in weights.unverified_copies)


def _source(source: Source) -> str:
    digest = f"`{source.sha256}`" if source.sha256 else "none published"
    if source.sha256_prefix and not source.sha256:
        digest = f"begins with `{source.sha256_prefix}`"
    size = f"{source.size:,} bytes" if source.size else source.size_seen or ""
    cells = (
        f"`{source.where}`",
        source.origin.replace("_", " "),
        f"`{source.layout}`",
        size,
        digest,
        source.status or "",
    )
    return " | ".join(_cell(cell) for cell in cells)


def _limits(weights: Weights) -> Iterator[str]:
    yield f"- {USES.get(weights.label_space, MANY)}"
    if weights.label_space:
        yield "- It answers on any picture, also of what it has no class for. Measure it on your own pictures before"
        yield "  you rely on it (`miil21k validate`). An uncalibrated 0.9 is what the network says, not how often it is"
        yield "  right: `miil21k calibrate`."
    yield "- Not for deciding about people: who somebody is, or what somebody is like."
    if weights.label_space in ("fall11", "goog21k"):
        yield "- Some of its classes name people, several by slurs. The 771 that ImageNet withdrew are masked unless"
        yield "  `--include-removed-labels` asks for them."
    if weights.licence.startswith("CC-BY-NC"):
        yield "- Its licence excludes commercial use."
    if weights.family != "embedded":
        yield "- Its file was never opened here: its layout is known from the code of those who published it."
    yield from (f"- {_cell(note)}" for note in weights.notes)


def _paper(title: str, arxiv: str, venue: str | None) -> str:
    return f"{title}, [arXiv {arxiv}](https://arxiv.org/abs/{arxiv})" + (f", {venue}" if venue else "")


def _cell(text: str) -> str:
    """Return text whose bars do not end the cell of a table."""
    return text.replace("|", r"\|")
