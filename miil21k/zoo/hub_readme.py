"""The model card of a repository of the Hub: what the model is, how good, whose, and the command that uses it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miil21k import __version__
from miil21k.errors import UnknownModel
from miil21k.text import printable
from miil21k.zoo.manifest import find_weights
from miil21k.zoo.names import HUB_PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from miil21k.zoo.checkpoint_card import TrainedCard

__all__ = ["readme"]

_SHOWN_CLASSES = 30
_HEADS = {
    "level_softmax": "one softmax per level of the tree",
    "leaf_softmax": "one softmax over all classes",
    "sigmoid": "one sigmoid per class",
}


def readme(
    repo: str,
    card: TrainedCard,
    report: Mapping[str, Any],
    parameters: int,
    licence: str,
    intended_use: str,
    *,
    calibrated: bool,
) -> str:
    """Return the Markdown of the card, with the header that the Hub reads.

    report: of `miil21k transfer`, empty for other checkpoints. licence, intended_use: what the author said, or empty.
    """
    name = repo.partition("/")[2]
    scores = dict(_scores(card, report))
    parts = [
        _header(name, licence, scores, card, report),
        f"# {name}\n\n{_summary(card, report, parameters)}",
        _use(repo, card, calibrated=calibrated),
        _metrics(scores, card, report, calibrated=calibrated),
        _classes(card),
        f"## Intended use and limits\n\n{_intended(card, intended_use)}",
        f"## Licence\n\n{_licence(licence, report)}",
        f"Written by miil21k {__version__}.",
    ]
    return "\n\n".join(parts) + "\n"


def _scores(card: TrainedCard, report: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield the measured numbers by name: of a transfer's report, else what the checkpoint itself says."""
    for key in ("accuracy", "accuracy_of_classes"):
        if isinstance(report.get(key), int | float):
            yield key, float(report[key])
    if report:
        return
    for key, text in card.extra.items():
        try:
            value = float(text)
        except ValueError:
            continue
        if key not in {"epoch", "update"}:
            yield key, value


def _header(name: str, licence: str, scores: Mapping[str, float], card: TrainedCard, report: Mapping[str, Any]) -> str:
    """Return the YAML header; its values are JSON, which is YAML."""
    tags = ["image-classification", "hierarchical-classification", "miil21k", "timm", "transformers"]
    fields: dict[str, Any] = {"library_name": "timm", "pipeline_tag": "image-classification", "tags": tags}
    if licence:
        fields["license"] = licence
    if scores:
        data = printable(_last(report.get("data")) or card.space.name)
        result = {
            "task": {"type": "image-classification"},
            "dataset": {"name": data, "type": data},
            "metrics": [{"type": key, "value": value} for key, value in scores.items()],
        }
        fields["model-index"] = [{"name": name, "results": [result]}]
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in fields.items()]
    return "\n".join(["---", *lines, "---"])


def _summary(card: TrainedCard, report: Mapping[str, Any], parameters: int) -> str:
    base = f", from the weights `{_code(_last(report['base']))}`" if report.get("base") else ""
    height, width = card.preprocess.input_size[1:]
    how = f" Trained by the recipe `{_code(card.recipe)}`{base}." if card.recipe else ""
    return (
        f"An image classifier of {card.space.num_classes:,} classes that answers with a path through their tree and "
        f"stops where it is no longer sure.\n\n"
        f"`{card.arch}`, {parameters / 1e6:.1f} million parameters, images of {height} x {width} pixels, "
        f"{_HEADS[card.head]}.{how}"
    )


def _use(repo: str, card: TrainedCard, *, calibrated: bool) -> str:
    calibration = f" --calibration hf-hub:{repo}" if calibrated else ""
    timm_needs = (
        "import miil21k.models.ofa  # the architecture, which timm lacks\n" if card.arch.startswith("ofa_") else ""
    )
    return f"""## Use

```bash
pip install miil21k
miil21k-predict -m hf-hub:{repo}{calibration} photo.jpg
```

```python
{timm_needs}import timm

model = timm.create_model("hf-hub:{repo}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
```

`transformers` loads it too: `pipeline("image-classification", "{repo}")`. Both give one number per class and know
nothing of the tree."""


def _metrics(scores: Mapping[str, float], card: TrainedCard, report: Mapping[str, Any], *, calibrated: bool) -> str:
    if not scores:
        return "## Metrics\n\nNone were measured when this checkpoint was written."
    rows = "\n".join(f"| {_cell(key.replace('_', ' '))} | {value:.4g} |" for key, value in scores.items())
    notes = []
    if "accuracy_low" in report and "num_test" in report:
        notes.append(
            f"Measured on {report['num_test']:,} images that were held out; 95 % of such samples give an accuracy from "
            f"{report['accuracy_low']:.1%} to {min(1.0, report['accuracy_high']):.1%}."
        )
    elif card.extra.get("epoch"):
        notes.append(f"Measured on the images for validation after epoch {_code(card.extra['epoch'])}.")
    if calibrated:
        notes.append("The probabilities are calibrated: `calibration.json`.")
    return f"## Metrics\n\n| metric | value |\n|---|---|\n{rows}\n\n{' '.join(notes)}".rstrip()


def _classes(card: TrainedCard) -> str:
    space = card.space
    shown = ", ".join(_cell(space.display_name(node)) for node in range(min(space.num_classes, _SHOWN_CLASSES)))
    more = f", and {space.num_classes - _SHOWN_CLASSES:,} more" if space.num_classes > _SHOWN_CLASSES else ""
    return (
        f"## Classes\n\n{shown}{more}.\n\nThe label space `{_code(space.name)}` with its tree is `label_space.tsv`; "
        f"its digest is `{space.sha256}`."
    )


def _intended(card: TrainedCard, stated: str) -> str:
    said = printable(stated, lines=True) if stated else "The author has not said what it is meant for."
    return (
        f"{said}\n\nIt knows {card.space.num_classes:,} classes and answers with one of them, or with a group of them, "
        "on any picture, also of something else. Numbers above hold for pictures like those it was measured on: "
        "measure it on your own before you rely on it (`miil21k validate`)."
    )


def _licence(licence: str, report: Mapping[str, Any]) -> str:
    said = f"`{_code(licence)}`." if licence else "The author has not said under which licence it may be used: ask."
    try:
        base = find_weights(str(report.get("base", "")))
    except UnknownModel:
        return said
    return f"{said} It was made from `{base.name}`, whose licence is {base.licence} ({base.licence_source})."


def _last(name: object) -> str:
    """Return a name as it is, and the last part of a path: the others are the author's own business."""
    text = str(name or "")
    return text if text.startswith(HUB_PREFIX) else Path(text).name


def _code(text: object) -> str:
    return printable(text).replace("`", "'")


def _cell(text: object) -> str:
    """Return text that means nothing to Markdown or HTML."""
    found = printable(text)
    for mark in "\\`*_[]<>|":
        found = found.replace(mark, f"\\{mark}")
    return found
