"""Print how long decoding takes, as ratios to one softmax over the same logits and to the published loop.

    python benchmarks/decode.py --repeats 7
    python benchmarks/decode.py --repeats 7 --concepts --space winter21

Everything runs in one process on one thread, so CPU time is counted, which a busy machine disturbs least. In each
round every contender runs in turn; the fastest round counts. The published visualiser is MIIL's, restated: per
image, a gather per level, then level by level a softmax, a top-1 and a comparison with 0.5. The two rows below it do
the same work with more batching than was published. `--concepts` times what concepts cost beyond the class
probabilities, with the bounds that they are held to; `benchmarks/export.py ask` times a process.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from miil21k.decode.concept_reading import hedge_concepts
from miil21k.decode.concepts import asked_probabilities, class_masses, concept_probabilities
from miil21k.decode.decoder import Decoder
from miil21k.decode.heads import HEAD_KINDS
from miil21k.decode.levels import decode_levels, level_order
from miil21k.decode.path import decode_path, hedge
from miil21k.decode.probabilities import node_probabilities, probabilities
from miil21k.decode.topk import topk_classes
from miil21k.hierarchy.concepts import concepts_of
from miil21k.hierarchy.load import load_label_space

if TYPE_CHECKING:
    from collections.abc import Callable

    from miil21k.decode.probabilities import Probabilities
    from miil21k.hierarchy.spaces import LabelSpace
    from miil21k.hierarchy.tree import Tree

ALL_CONCEPTS = "`concept_probabilities` from masses"
HEDGED_CONCEPTS = "the same, and `hedge_concepts` at 0.9"
TEN_CONCEPTS = "`asked_probabilities` from masses, ten concepts"
BOUNDS = {ALL_CONCEPTS: 3, HEDGED_CONCEPTS: 4, TEN_CONCEPTS: 1.2}
QUESTIONS = ("bird", "vehicle", "musical instrument", "dog", "food", "mammal", "person", "cat", "tool", "fish")
SOFTMAX = "one softmax over all logits (NumPy)"
PUBLISHED = "published visualiser, image by image (torch)"


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def published_visualiser(logits: torch.Tensor, levels: list[torch.Tensor]) -> list[list[int]]:
    """Return the kept classes of every image, as a script calls the published code: one image at a time."""
    return [level_loop(logits[image : image + 1], levels)[0] for image in range(len(logits))]


def level_loop(logits: torch.Tensor, levels: list[torch.Tensor], threshold: float = 0.5) -> list[list[int]]:
    """Return the kept classes of every image, gathering each level once for the whole batch."""
    split = [logits[:, classes] for classes in levels]
    kept = []
    for image in range(len(logits)):
        labels = []
        for level, classes in zip(split, levels, strict=True):
            probs = torch.softmax(level[image], dim=0)
            top_prob, top_index = torch.topk(probs, 1)
            if top_prob > threshold:
                labels.append(int(classes[top_index[0]]))
        kept.append(labels)
    return kept


def batched_loop(logits: torch.Tensor, levels: list[torch.Tensor], threshold: float = 0.5) -> list[list[int]]:
    """Return the kept classes of every image, one softmax per level for the whole batch."""
    best = [torch.softmax(logits[:, classes], dim=1).max(dim=1) for classes in levels]
    nodes = torch.stack([classes[found.indices] for classes, found in zip(levels, best, strict=True)], dim=1)
    kept = torch.stack([found.values for found in best], dim=1) > threshold
    return [row[ok].tolist() for row, ok in zip(nodes.numpy(), kept.numpy(), strict=True)]


def realistic_logits(tree: Tree, batch: int, seed: int = 0) -> np.ndarray:
    """Return noise with a bump along the path of one class per image, so that levels pass 0.5 as on a photograph."""
    rng = np.random.default_rng(seed)
    logits = (3 * rng.standard_normal((batch, tree.num_classes))).astype(np.float32)
    chains = tree.level_target[rng.integers(0, tree.num_classes, batch)]
    row, level = np.nonzero(chains >= 0)
    logits[row, chains[row, level]] += 15
    return logits


def concept_contenders(space: LabelSpace, logits: np.ndarray) -> dict[str, Callable[[], object]]:
    """Return what concepts cost beyond the class probabilities: all, ten that are asked about, and answers on them."""
    concepts = concepts_of(space)
    masses = class_masses(space.tree, logits, "leaf_softmax")
    ten = np.argsort(-concepts.num_below, kind="stable")[20:120:10].tolist()
    words = Decoder(space, "leaf_softmax", reading="concepts").answer_vocabulary

    def hedged() -> object:
        return hedge_concepts(concepts, words, concept_probabilities(concepts, masses), 0.9)

    return {
        ALL_CONCEPTS: partial(concept_probabilities, concepts, masses),
        HEDGED_CONCEPTS: hedged,
        TEN_CONCEPTS: partial(asked_probabilities, concepts, masses, ten),
    }


def decoded_contenders(space: LabelSpace, logits: np.ndarray) -> dict[str, Callable[[], object]]:
    """Return the same through a `Decoder`, whose class probabilities are there: of each kind of head, by its name."""
    runs: dict[str, Callable[[], object]] = {}
    for head in HEAD_KINDS:
        if head == "level_softmax" and space.tree.num_nodes > space.num_classes:
            continue
        decoder = Decoder(space, head, reading="concepts", hedge=0.9)
        asked = decoder.asking(QUESTIONS)
        read = decoder.read(logits).probabilities
        for title, fixed, part in (("hedged", decoder, "hedged"), ("asked, ten concepts", asked, "asked")):

            def run(fixed: Decoder = fixed, part: str = part, read: Probabilities = read) -> object:
                found = fixed.read(logits)
                vars(found).update(probabilities=read)  # as if they had just been computed
                return getattr(found, part)

            runs[f"`Decoded.{title}`, {head}"] = run
    return runs


def contenders(space: LabelSpace, logits: np.ndarray) -> dict[str, Callable[[], object]]:
    tree = space.tree
    order = level_order(tree)
    stored = np.ascontiguousarray(logits[:, order.classes])
    tensor = torch.from_numpy(logits)
    levels = [torch.from_numpy(classes) for classes in np.split(order.classes, order.starts[1:])]
    read = probabilities(tree, logits, "level_softmax")
    nodes = partial(node_probabilities, tree, logits)
    return {
        SOFTMAX: partial(softmax, logits),
        PUBLISHED: partial(published_visualiser, tensor, levels),
        "its level loop, each level gathered once per batch (torch)": partial(level_loop, tensor, levels),
        "its arithmetic without a loop over images (torch)": partial(batched_loop, tensor, levels),
        "`decode_levels`": partial(decode_levels, tree, logits),
        "`decode_levels`, head stored in level order": partial(decode_levels, tree, stored, in_level_order=True),
        "`node_probabilities`, leaf_softmax": partial(nodes, "leaf_softmax"),
        "`node_probabilities`, sigmoid": partial(nodes, "sigmoid"),
        **{
            f"`node_probabilities`, level_softmax, {rule}": partial(nodes, "level_softmax", rule=rule)
            for rule in ("coherent", "min", "sibling", "product")
        },
        "`probabilities` (nodes and classes), level_softmax": partial(probabilities, tree, logits, "level_softmax"),
        "`decode_path` from P(node)": partial(decode_path, tree, read.nodes),
        "`hedge` from P(node)": partial(hedge, tree, read.nodes),
        **concept_contenders(space, logits),
        "`topk_classes`, k = 5": partial(topk_classes, read.classes, 5),
    }


def fastest(runs: dict[str, Callable[[], object]], repeats: int, calls: int) -> dict[str, float]:
    """Return CPU seconds per call of each contender, the best of `repeats` rounds of `calls` calls."""
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.process_time()
            for _ in range(calls):
                run()
            best[name] = min(best[name], (time.process_time() - start) / calls)
    return best


def check_same_answers(tree: Tree, logits: np.ndarray) -> None:
    """Stop unless all four ways to decode by the published rule keep the same classes."""
    order = level_order(tree)
    levels = [torch.from_numpy(classes) for classes in np.split(order.classes, order.starts[1:])]
    found = decode_levels(tree, logits)
    ours = [nodes[kept].tolist() for nodes, kept in zip(found.nodes, found.kept, strict=True)]
    for loop in (published_visualiser, level_loop, batched_loop):
        if loop(torch.from_numpy(logits), levels) != ours:
            raise SystemExit(f"{loop.__name__} keeps other classes than decode_levels")


def main() -> None:
    parser = argparse.ArgumentParser(description="Time decoding; prints a Markdown table of ratios.")
    parser.add_argument("--repeats", type=int, default=7, help="rounds; the fastest one counts (default 7)")
    parser.add_argument("--space", default="fall11", help="label space (default fall11)")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 64, 1024], help="batch sizes")
    parser.add_argument("--concepts", action="store_true", help="only what concepts cost")
    args = parser.parse_args()
    torch.set_num_threads(1)
    space = load_label_space(args.space)
    columns = {}
    for batch in args.batch:
        logits = realistic_logits(space.tree, batch)
        if args.concepts:
            runs = {SOFTMAX: partial(softmax, logits)}
            runs |= {**concept_contenders(space, logits), **decoded_contenders(space, logits)}
        else:
            check_same_answers(space.tree, logits)
            runs = contenders(space, logits)
        columns[batch] = fastest(runs, args.repeats, calls=max(1, 128 // batch))
    print(f"{args.space}, C = {space.num_classes:,}, float32, one thread. Time / time of one softmax.\n")
    print("\n".join(table(columns)))


def table(columns: dict[int, dict[str, float]]) -> list[str]:
    """Return the lines of a Markdown table: a row per contender, a column per batch, and the bounds that rows have."""
    lines = ["| | " + " | ".join(f"batch {batch:,}" for batch in columns) + " |", "|---|" + "---:|" * len(columns)]
    for name in next(iter(columns.values())):
        cells = [f"{times[name] / times[SOFTMAX]:.2f}" for times in columns.values()]
        if name == SOFTMAX:
            cells = [f"1 ({times[SOFTMAX] * 1e3:.3g} ms)" for times in columns.values()]
        bound = f" (at most {BOUNDS[name]:g})" if name in BOUNDS else ""
        lines.append(f"| {name}{bound} | " + " | ".join(cells) + " |")
    if PUBLISHED in next(iter(columns.values())):
        gains = [f"{times[PUBLISHED] / times['`decode_levels`']:.1f}x" for times in columns.values()]
        lines.append("| **`decode_levels` is faster than the published visualiser by** | " + " | ".join(gains) + " |")
    return lines


if __name__ == "__main__":
    main()
