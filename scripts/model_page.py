"""Write docs/models.md, docs/models.svg and the README's table from the manifest: `python scripts/model_page.py`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

from site_pages.cards import FAMILIES  # noqa: E402 - the card of each row is headed alike

from miil21k.zoo.manifest import load_manifest  # noqa: E402 - the clone's package, installed or not

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from matplotlib.axes import Axes

    from miil21k.zoo.manifest import Weights

PAGE = ROOT / "docs" / "models.md"
PICTURE = ROOT / "docs" / "models.svg"
README = ROOT / "README.md"
OPENING, CLOSING = "<!-- models: written by scripts/model_page.py -->\n", "<!-- /models -->"

# Okabe and Ito's palette, which colour-blind readers can tell apart.
COLOURS = {"miil21k": "#0072B2", "usi": "#D55E00", "ssl": "#009E73", "swsl": "#CC79A7", "bit": "#E69F00"}
# Where a label stands beside its point: offset in points, horizontal alignment.
PLACES = {
    "miil21k": ((7, -3), "left"),
    "usi": ((0, 7), "center"),
    "ssl": ((7, -9), "left"),
    "swsl": ((-7, 4), "right"),
    "bit": ((7, -3), "left"),
}
# Labels that would lie on another point or label there, by family and architecture.
MOVED = {
    ("miil21k", "tresnet_m"): ((4, -14), "center"),
    ("swsl", "resnext101_32x8d"): ((0, 7), "center"),
    ("bit", "resnetv2_50x1_bit"): ((-7, -3), "right"),
    ("bit", "resnetv2_50x3_bit"): ((-7, 3), "right"),
    ("bit", "resnetv2_101x1_bit"): ((0, -12), "center"),
}
SHORT = {"mobilenetv3_large_100": "MobileNetV3-L", "ofa_flops_595m_s": "OFA-595", "mixer_b16_224": "Mixer-B/16"}
SHORT |= {"vit_base_patch16_224_miil": "ViT-B/16", "tresnet_m": "TResNet-M", "tresnet_v2_l": "TResNet-L-V2"}
SHORT |= {"edgenext_small": "EdgeNeXt-S", "edgenext_base": "EdgeNeXt-B"}
LEGEND = "filled: MIT or Apache-2.0, hollow: CC-BY-NC\ncross: only in the MIIL bucket"
TICKS = (5, 10, 20, 50, 100, 200, 500, 1000)
LABELS = {"miil21k": "MIIL", "usi": "USI", "ssl": "SSL", "swsl": "SWSL", "bit": "BiT"}


USE = """## How to get one

```python
import miil21k

model = miil21k.create_model("tresnet_m_21k", pretrained=True)  # a fresh head: num_classes=17
model.weights, model.label_space  # its manifest row, and "fall11"
```

- A file of your own, in any published layout: `create_model("tresnet_m_21k", checkpoint="tresnet_m_miil_21k.pth")`.
- torch.hub: `torch.hub.load("path/to/a/clone", "resnet50_swsl", source="local")`, with '.' and '-' of a name as '_'.
- timm: after `import miil21k.zoo.timm_names`, `timm.create_model` answers to `<architecture>_miil_in21k` for all seven
  21K backbones. The names that timm lacks (`resnet50_`, `ofa_flops_595m_s_`, `tresnet_v2_l_miil_in21k`) load their
  weights through this package; the tags `resnet50.miil_in21k` and `ofa_flops_595m_s.miil_in21k` build the network only.
- A training that timm publishes (`resnet50.a1_in1k`, `hf-hub:OWNER/REPOSITORY`) works wherever a name is taken; its
  files are checked and pinned like ours. To predict with it, `--label-space` says what its classes are.
- A bare architecture (`tresnet_m`) is built with random weights. With `pretrained=True` it is refused, since it does
  not say which of its weights is meant. `model.loaded_from` says which file filled a model, None for random weights.
- TResNet-L V2 answers to both of its names, `tresnet_v2_l` (timm) and `tresnet_l_v2` (its authors). Its leaky ReLUs
  have the slopes of ImageNet21K's code and of timm, 0.01 in the stem and 0.001 in the blocks; the TResNet repository,
  which published the weights fine-tuned on ImageNet-1K, sets all of them to 0.000001. timm measured those weights with
  its own slopes.

The seven MIIL 21K backbones are preprocessed by default as their published semantic accuracy was measured: squashed to
224x224, without crop. timm crops the centre for the same weights; `miil21k info NAME` shows both, and
`model.weights.preprocessings["timm"]` holds the other.
"""


def page() -> str:
    """Return the text of docs/models.md."""
    return "\n".join(_lines()) + "\n"


def readme() -> str:
    """Return the text of README.md with its table of the 21K backbones and the embedded model renewed."""
    before, rest = README.read_text(encoding="utf-8").split(OPENING)
    rows = [w for w in load_manifest().models if w.family == "embedded" or w.name.endswith("miil_in21k")]
    rows += [w for w in load_manifest().models if w.name == "vit_base_patch16_224_miil.in21k"]
    return before + OPENING + "\n".join(_table(rows)) + "\n" + CLOSING + rest.split(CLOSING)[1]


def _lines() -> Iterator[str]:
    manifest = load_manifest()
    yield "# Models"
    yield ""
    yield "Written by `python scripts/model_page.py` from `weights_manifest.json`; edit that file, not this one."
    yield f"{len(manifest.models)} trained checkpoints. `miil21k info NAME` tells everything about one of them:"
    yield "every published number with its source, preprocessing, addresses, digests and what is uncertain."
    yield ""
    yield "![ImageNet top-1 against parameters](models.svg)"
    yield ""
    yield "- **accuracy**: `semantic` is the semantic top-1 on ImageNet-21K-P as published; `top-1` is on the"
    yield "  validation set of ImageNet-1K, as timm measured the file where it did, else as published."
    yield "- **space**: what the classes are; `?` where the authors published neither the release nor the class count."
    yield "- **where**: `mirrored` on several hosts, `one host`, `bucket` only in a bucket that has answered 403,"
    yield "  `package` in an installable package."
    yield "- **licence**: as the repository of the weights states it for its code, since most state none for weights;"
    yield "  in brackets what timm states for the same weights where that differs. CC-BY-NC 4.0 excludes commerce."
    yield "  The terms of ImageNet apply besides."
    yield from ("", USE.rstrip("\n"))
    for family, title in FAMILIES.items():
        yield from ("", f"## {title}", "")
        yield from _table(w for w in manifest.models if w.family == family)
    yield from ("", "## Published scores without weights", "")
    yield "These numbers were printed, but the weights behind them were never released."
    yield from ("", "| model | ImageNet top-1 | why | source |", "|---|---:|---|---|")
    for entry in manifest.unreleased:
        yield f"| {entry.model} | {entry.metric.value:g} | {entry.reason} | {entry.metric.source} |"


def _table(rows: Iterable[Weights]) -> Iterator[str]:
    yield "| name | also | space | parameters | GMACs | accuracy | where | licence |"
    yield "|---|---|---|---:|---:|---:|---|---|"
    for weights in rows:
        params = f"{weights.params:,}" if weights.params else "?"
        gmacs = f"{weights.gmacs:g}" if weights.gmacs else ""
        where = {"single_host": "one host", "bucket_only": "bucket"}.get(weights.availability, weights.availability)
        cells = (
            f"`{weights.name}`",
            f"`{weights.aliases[0]}`" if weights.aliases else "",
            weights.label_space or "?",
            params,
            gmacs,
            _accuracy(weights),
            where,
            _licence(weights),
        )
        yield f"| {' | '.join(cells)} |"


def _licence(weights: Weights) -> str:
    """Return the licence that the weights' repository states, and timm's word where that is another one."""
    theirs = weights.licence_timm
    same = theirs is None or theirs.replace("-", " ").lower() == weights.licence.replace("-", " ").lower()
    return weights.licence if same else f"{weights.licence} (timm: {theirs})"


def _accuracy(weights: Weights) -> str:
    metric = weights.headline
    if metric is None:
        return ""
    return f"{'semantic' if metric.name == 'semantic_top1' else 'top-1'} {metric.value:.1f}"


def draw(path: Path) -> None:
    """Write the picture: accuracy against parameters, ImageNet-1K beside ImageNet-21K-P."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    plt.rcParams.update(
        {"font.size": 9, "svg.hashsalt": "miil21k", "axes.spines.top": False, "axes.spines.right": False}
    )
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 5), width_ratios=(2.2, 1), layout="constrained")
    _panel(left, "top1", "ImageNet-1K top-1 (%)")
    _panel(right, "semantic_top1", "ImageNet-21K-P semantic top-1 (%)")
    left.set(xlim=(4, 1300), ylim=(71.5, 86))
    right.set(xlim=(14, 140), ylim=(72.5, 78.2))
    left.legend(loc="lower right", frameon=False, title=LEGEND)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _panel(axes: Axes, metric: str, label: str) -> None:
    for family, colour in COLOURS.items():
        rows = [w for w in load_manifest().models if w.family == family and w.params]
        rows = [w for w in rows if w.headline is not None and w.headline.name == metric]
        hollow = any(w.licence.startswith("CC-BY-NC") for w in rows)
        face = "white" if hollow else colour
        for weights in rows:
            marker = "X" if weights.availability == "bucket_only" else "o"
            axes.scatter(_millions(weights), _value(weights), 42, face, marker=marker, edgecolors=colour, zorder=3)
        if rows:
            axes.scatter([], [], 42, face, edgecolors=colour, label=LABELS[family])
        for weights in _best_of_each_architecture(rows):
            offset, side = MOVED.get((family, weights.arch), PLACES[family])
            at = (_millions(weights), _value(weights))
            axes.annotate(
                _short(weights.arch), at, offset, textcoords="offset points", ha=side, fontsize=7, color=colour
            )
    axes.set(xscale="log", xlabel="parameters (millions)", ylabel=label)
    axes.set_xticks(TICKS, [f"{t}" for t in TICKS])
    axes.minorticks_off()
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)


def _best_of_each_architecture(rows: Iterable[Weights]) -> Iterable[Weights]:
    best: dict[str, Weights] = {}
    for weights in rows:
        if weights.arch not in best or _value(weights) > _value(best[weights.arch]):
            best[weights.arch] = weights
    return best.values()


def _short(arch: str) -> str:
    bit = arch.removeprefix("resnetv2_").removesuffix("_bit")
    if bit != arch:
        return f"R{bit}"
    return SHORT.get(arch) or arch.replace("resnext", "X").replace("resnet", "R").replace("_", " ")


def _millions(weights: Weights) -> float:
    return (weights.params or 0) / 1e6


def _value(weights: Weights) -> float:
    return weights.headline.value if weights.headline else 0.0


def main() -> None:
    """Write the three files, each at once."""
    for path, text in ((PAGE, page()), (README, readme())):
        draft = path.with_suffix(".md.part")
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    picture = PICTURE.with_suffix(".part.svg")
    draw(picture)
    picture.replace(PICTURE)


if __name__ == "__main__":
    main()
