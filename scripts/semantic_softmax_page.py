"""Draw docs/softmax_per_level.svg, one image under semantic softmax, and write its numbers into the page beside it.

The label is an inner node, *domestic cat*: nobody said which breed. What the network says at each level is read from
the embedded model: P(node) of the tree of ImageNet-1K, divided by its sum over the nodes of that depth.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from miil21k import Predictor, load_label_space  # noqa: E402 - the clone's package, installed or not

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axes import Axes

PAGE = ROOT / "docs" / "softmax_per_level.md"
PICTURE = PAGE.with_suffix(".svg")
PHOTO = ROOT / "examples" / "images" / "cat.jpg"
LABEL = "n02121808"  # domestic cat
SHOWN = 6  # levels that are drawn; the deeper ones are one line
OPENING, CLOSING = "<!-- levels: written by scripts/semantic_softmax_page.py -->\n", "<!-- /levels -->"
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#8a8a8a"


class LevelTerm(NamedTuple):
    """One level: how many classes it has, the best of them with their shares, the label's name, share and cost."""

    depth: int
    size: int
    best: tuple[tuple[str, float], ...]
    name: str | None
    share: float
    weight: float
    entropy: float

    @property
    def term(self) -> float:
        """What the level adds to the loss."""
        return self.weight * self.entropy


def levels() -> list[LevelTerm]:
    """Return the trained levels for the photograph and its label, computed by the loss that training uses."""
    import torch

    from miil21k.data.images import ImageInput
    from miil21k.train.level_order import level_table
    from miil21k.train.losses import semantic_softmax_levels

    space = load_label_space("in1k")
    tree = space.with_all_nodes().tree
    predictor = Predictor("embedded", backend="torch", device="cpu", decode="full", resizer="pillow")
    crop = predictor.crop(ImageInput("cat.jpg", PHOTO))
    assert not isinstance(crop, str), crop
    nodes = predictor.decoder.read(predictor.outputs(crop[None]).logits).nodes[0].astype(np.float64)
    table = level_table(tree)
    label = tree.index(LABEL)
    entropies = semantic_softmax_levels(
        torch.from_numpy(np.log(nodes.clip(1e-12))[None]), torch.tensor([label]), table, smoothing=0.0
    )
    path = dict(enumerate(tree.path(label)))
    found = []
    for k, depth in enumerate(table.depths):
        members = np.flatnonzero(tree.depth == depth)
        shares = nodes[members] / nodes[members].sum()
        order = np.argsort(-shares, kind="stable")[:3]
        at = path.get(depth)
        found.append(
            LevelTerm(
                depth,
                len(members),
                tuple((tree.names[members[i]], float(shares[i])) for i in order),
                None if at is None else tree.names[at],
                0.0 if at is None else float(shares[members == at][0]),
                float(table.weights[k]),
                float(entropies[k]),
            )
        )
    return found


def page(found: list[LevelTerm]) -> str:
    """Return the page with its table renewed."""
    table = OPENING + "\n".join(_table(found)) + "\n" + CLOSING
    pattern = re.escape(OPENING) + ".*?" + re.escape(CLOSING)
    text, times = re.subn(pattern, lambda _: table, PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert times == 1, f"{PAGE} has no place for the levels"
    return text


def _table(found: list[LevelTerm]) -> Iterator[str]:
    yield "| level | classes | on the label's path | its share | W | W times -log of the share |"
    yield "|---:|---:|---|---:|---:|---:|"
    for row in found:
        said = f"{row.name} | {row.share:.2f} | {row.weight:.2f} | {row.term:.3f}" if row.name else " | | | masked"
        yield f"| {row.depth} | {row.size} | {said} |"
    yield f"| | | | | the loss | {sum(row.term for row in found):.2f} |"


def draw(path: Path, found: list[LevelTerm]) -> None:
    """Write the picture."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from PIL import Image

    plt.rcParams.update({"font.size": 10, "svg.hashsalt": "miil21k"})
    figure = plt.figure(figsize=(11, 6.4), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, 11), ylim=(6.4, 0))
    axes.axis("off")
    with Image.open(PHOTO) as opened:
        photo = opened.convert("RGB")
    photo.thumbnail((220, 220))
    edge = 1.9 * photo.height / photo.width
    axes.imshow(photo, extent=(0.2, 2.1, 1.0 + edge, 1.0), aspect="auto", zorder=2)
    axes.text(0.2, 0.45, "The label: domestic cat", weight="bold", fontsize=11)
    axes.text(0.2, 0.75, "Nobody said which breed.", color=GREY)
    for x, words in ((2.6, "level"), (4.05, "softmax over the classes of this level"), (8.35, "its part of the loss")):
        axes.text(x, 0.45, words, weight="bold")
    for line, row in enumerate(found[:SHOWN]):
        _draw_level(axes, 0.75 + 0.82 * line, row)
    rest = found[SHOWN:]
    y = 0.75 + 0.82 * SHOWN
    sizes = ", ".join(str(row.size) for row in rest)
    axes.text(2.6, y + 0.2, f"{rest[0].depth} to {rest[-1].depth}", color=GREY, va="center")
    axes.text(4.05, y + 0.2, f"softmax over {sizes} classes", color=GREY, va="center")
    axes.text(8.35, y + 0.2, "masked", color=GREY, va="center", style="italic")
    terms = " + ".join(f"{row.term:.3f}" for row in found if row.name)
    axes.text(8.35, y + 0.62, f"{terms} = {sum(row.term for row in found):.2f}", weight="bold", color=ORANGE)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _draw_level(axes: Axes, y: float, row: LevelTerm) -> None:
    """Draw one level from `y` on: its number, the best three classes as bars, its part of the loss."""
    on = row.name is not None
    ink = "black" if on else GREY
    axes.text(2.6, y + 0.28, f"{row.depth}", color=ink, va="center", fontsize=12)
    axes.text(2.95, y + 0.28, f"{row.size} classes", color=GREY, va="center", fontsize=8.5)
    for place, (name, share) in enumerate(row.best):
        height = y + 0.05 + 0.22 * place
        mine = name == row.name
        axes.barh(height, share * 2.0, 0.17, 5.75, color=ORANGE if mine else BLUE if on else "#d4d4d4", zorder=2)
        weight = "bold" if mine else "normal"
        axes.text(5.65, height, name, ha="right", va="center", fontsize=8.5, color=ink, weight=weight)
        axes.text(5.8 + share * 2.0, height, f"{share:.2f}", va="center", fontsize=8.5, color=ink, weight=weight)
    if on:
        said = rf"${row.weight:.2f} \cdot -\log\,{row.share:.2f}$ = {row.term:.3f}"
        axes.text(8.35, y + 0.28, said, va="center", color=ORANGE)
        axes.plot([2.45, 2.45], [y - 0.02, y + 0.6], color=ORANGE, linewidth=3, solid_capstyle="butt")
    else:
        axes.text(8.35, y + 0.28, "masked: the label says nothing here", va="center", color=GREY, style="italic")
    axes.plot([2.4, 10.8], [y + 0.7, y + 0.7], color="#e2e2e2", linewidth=0.8)


def main() -> None:
    """Write page and picture, each at once."""
    found = levels()
    draft = PAGE.with_suffix(".md.part")
    draft.write_text(page(found), encoding="utf-8")
    draft.replace(PAGE)
    picture = PICTURE.with_suffix(".part.svg")
    draw(picture, found)
    picture.replace(PICTURE)


if __name__ == "__main__":
    main()
