"""What one trained network is measured by; all figures are on test images with their clean leaf labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from miil21k.calibrate.guarantee import calibrate
from miil21k.calibrate.temperature import fit_temperatures
from miil21k.decode.decoder import Decoder
from miil21k.decode.path import hedge
from miil21k.decode.probabilities import node_probabilities, probabilities
from miil21k.decode.rules import DEFAULT_RULE, RULES
from miil21k.hierarchy.tree import Tree
from miil21k.metrics.accuracy import SemanticAccuracy
from miil21k.metrics.distance import is_correct
from miil21k.metrics.operating import OperatingCurve

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from miil21k.decode.heads import HeadKind
    from miil21k.decode.probabilities import Probabilities
    from miil21k.hierarchy.spaces import LabelSpace

ACCURACIES = (0.9, 0.95)
SUMMARY = ("ac_depth", "ap_depth", "ac_info", "ap_info", "ac_exact", "recall_info_at_90", "recall_info_at_95")
POINTS = 60


def accuracies(tree: Tree, logits: NDArray[np.float32], labels: NDArray[np.int64], head: HeadKind) -> dict[str, float]:
    """Return semantic top-1, from the logits as published and from P(node), and the accuracy among the labels' classes.

    leaf: by P(exactly this class). leaf_logit: by the logits themselves, which a level_softmax does not make
    comparable between depths.
    """
    found = probabilities(tree, logits, head)
    return {
        "semantic_top1": _semantic(tree, logits, labels),
        "semantic_top1_tree": _semantic(tree, found.nodes, labels),
        "leaf": _among(np.unique(labels), found.classes, labels),
        "leaf_logit": _among(np.unique(labels), logits, labels),
    }


def _among(classes: NDArray[np.int64], scores: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    return float((classes[scores[:, classes].argmax(1)] == labels).mean())


def _semantic(tree: Tree, scores: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    sums = SemanticAccuracy(tree, "keep")
    sums.update(scores, labels)
    return sums.compute()["semantic_top1"]


def curves(tree: Tree, logits: NDArray[np.float32], labels: NDArray[np.int64], head: HeadKind) -> dict[str, Any]:
    """Return the operating curve of each rule (of the head itself unless it is a level_softmax).

    A label that is an inner node counts as a leaf of its own, with P(exactly this class): an answer below it is wrong.
    `raw`: on all samples. `tempered`: on every second sample, with temperatures fitted on the others. Both hold
    the summary by rule, `exact_class` the accuracy among the labelled classes by P(exactly this class), and `points`
    rule -> [recall of information, correct] of the raw curve.
    """
    rules = tuple(RULES) if head == "level_softmax" else (DEFAULT_RULE,)
    fitted = fit_temperatures(tree, logits[1::2], labels[1::2], head)
    temperature = fitted if head == "level_softmax" else fitted[0]
    classes = np.unique(labels)
    wider, own = _with_private_leaves(tree, classes)
    result: dict[str, Any] = {"raw": {}, "tempered": {}, "exact_class": {}, "points": {}, "temperature": list(fitted)}
    for rule in rules:
        name = rule if head == "level_softmax" else head
        raw = probabilities(tree, logits, head, rule=rule)
        tempered = probabilities(tree, logits[::2], head, rule=rule, temperature=temperature)
        curve = _curve(wider, own, raw, labels)
        result["raw"][name] = _summary(curve)
        result["tempered"][name] = _summary(_curve(wider, own, tempered, labels[::2]))
        result["exact_class"][name] = _among(classes, raw.classes, labels)
        result["points"][name] = _thinned(curve)
    return result


def _with_private_leaves(tree: Tree, classes: NDArray[np.int64]) -> tuple[Tree, NDArray[np.int64]]:
    """Return the tree with a leaf below each inner node of `classes`, and these inner nodes in the leaves' order."""
    own = classes[tree.num_children[classes] > 0]
    wnids = (*tree.wnids, *(f"{tree.wnids[node]} itself" for node in own))
    names = (*tree.names, *(f"{tree.names[node]} itself" for node in own))
    return Tree(wnids, names, np.concatenate([tree.parent, own.astype(np.int32)]), len(wnids)), own


def _curve(tree: Tree, own: NDArray[np.int64], found: Probabilities, labels: NDArray[np.int64]) -> OperatingCurve:
    private = np.arange(tree.num_nodes)
    private[own] = np.arange(tree.num_nodes - own.size, tree.num_nodes)
    curve = OperatingCurve(tree)
    curve.update(np.concatenate([found.nodes, found.classes[:, own]], axis=1), private[labels])
    return curve


def _summary(curve: OperatingCurve) -> dict[str, float]:
    found = curve.compute()
    return {name: round(found[name], 6) for name in SUMMARY}


def _thinned(curve: OperatingCurve) -> list[list[float]]:
    whole = curve.curve()
    reached = np.maximum.accumulate(whole.recall_info)  # a wrong deeper answer may cost a little recall
    at = np.unique(np.searchsorted(reached, np.linspace(0, reached[-1], POINTS)))
    return [np.round(values[at], 4).tolist() for values in (whole.recall_info, whole.correct)]


def guarantees(
    space: LabelSpace, logits: NDArray[np.float32], labels: NDArray[np.int64], head: HeadKind, splits: int
) -> dict[str, Any]:
    """Return, per wanted accuracy, how often hedged answers were correct on the half that did not calibrate.

    correct, depth: over random splits, the `mean` and the quantiles `q05` and `q95`; depth is the share of the label's
    path that the answer covers, 0 where it is wrong. splits: those in which a level could be guaranteed.
    uncalibrated: both on all samples, with the wanted accuracy itself as the hedge level.
    """
    seen: dict[float, list[tuple[float, float]]] = {accuracy: [] for accuracy in ACCURACIES}
    for split in range(splits):
        ours, theirs = np.array_split(np.random.default_rng([split, 7]).permutation(len(labels)), 2)
        file = calibrate(Decoder(space, head), logits[ours], labels[ours], accuracies=ACCURACIES, seed=split)
        temperature = file.temperature if head == "level_softmax" else file.temperature[0]
        nodes = node_probabilities(space.tree, logits[theirs], head, temperature=temperature)
        for accuracy, level in file.thresholds:
            seen[accuracy].append(_hedged(space.tree, nodes, labels[theirs], level))
    nodes = node_probabilities(space.tree, logits, head)
    found = {}
    for accuracy, pairs in seen.items():
        correct, depth = _hedged(space.tree, nodes, labels, accuracy)
        entry: dict[str, Any] = {"splits": len(pairs), "uncalibrated": {"correct": correct, "depth": depth}}
        if pairs:
            entry |= {
                name: _spread(values)
                for name, values in zip(("correct", "depth"), zip(*pairs, strict=True), strict=True)
            }
        found[f"{accuracy:g}"] = entry
    return found


def _spread(values: tuple[float, ...]) -> dict[str, float]:
    low, high = np.quantile(values, (0.05, 0.95))
    return {"mean": round(float(np.mean(values)), 5), "q05": round(float(low), 5), "q95": round(float(high), 5)}


def _hedged(tree: Tree, nodes: NDArray[np.float32], labels: NDArray[np.int64], level: float) -> tuple[float, float]:
    answer = hedge(tree, nodes, level)
    right = is_correct(tree, answer.node, labels)
    covered = np.where(right, np.minimum(answer.length, tree.depth[labels] + 1) / (tree.depth[labels] + 1), 0)
    return round(float(right.mean()), 5), round(float(covered.mean()), 5)
