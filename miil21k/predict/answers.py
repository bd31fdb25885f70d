"""From a batch of logits to paths, stops and top-k, under one set of options."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np

from miil21k.decode.path import decode_path, hedge
from miil21k.decode.probabilities import probabilities
from miil21k.decode.restriction import restrict, viable
from miil21k.decode.topk import topk_classes
from miil21k.hierarchy.search import find_one
from miil21k.hierarchy.spaces import projection, removed_classes
from miil21k.predict.prediction import LevelLabel, Node, Stop

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from miil21k.calibrate.record import Calibration
    from miil21k.decode.logits import HeadKind
    from miil21k.decode.path import Paths
    from miil21k.decode.probabilities import Rule
    from miil21k.decode.topk import TopK
    from miil21k.hierarchy.spaces import LabelSpace
    from miil21k.predict.options import PredictOptions
    from miil21k.predict.prediction import RemovedLabels, StopReason

__all__ = ["Answer", "Answerer"]


class Answer(NamedTuple):
    """The decoded parts of one `Prediction`."""

    path: tuple[Node, ...]
    stop: Stop
    topk: tuple[Node, ...]
    levels: tuple[LevelLabel, ...] | None


class Answerer:
    """Decodes the logits of a head of `own` in the label space `space`.

    own: the space of the head's logits. space: the space of the answer, a subset of its classes or the same.
    Raises LabelSpaceMismatch when the head lacks a class of `space`, UnknownClass and UsageError for a restriction
    that names unknown or ambiguous nodes or leaves no class.
    Attributes: space, head, options. calibration, what the file of that option holds.
    """

    def __init__(self, own: LabelSpace, space: LabelSpace, head: HeadKind, options: PredictOptions) -> None:
        self.space, self.head, self.options = space, head, options
        self._own = own
        self._columns = None if own.sha256 == space.sha256 else projection(own, space)
        tree = space.tree
        withdrawn = removed_classes(space)
        self._hidden = withdrawn if withdrawn.any() and not options.include_removed_labels else None
        self.removed_labels: RemovedLabels = "none" if not withdrawn.any() else "included"
        if self._hidden is not None:
            self.removed_labels = "masked"
        self._allowed = restrict(
            tree,
            under=_wnids(space, options.under),
            classes=_wnids(space, options.classes),
            exclude=_wnids(space, options.exclude),
            removed=self._hidden,
        )
        self._temperature = None if options.temperature is None else np.asarray(options.temperature)
        self._rule, self._level = options.rule, options.hedge
        self.calibration: Calibration | None = None
        if options.calibration is not None:
            from miil21k.calibrate.record import load_calibration

            self.calibration = load_calibration(options.calibration)
            self._calibrate(self.calibration)
        kept = np.ones(space.num_classes, bool) if self._hidden is None else ~self._hidden
        shown = np.flatnonzero(viable(tree, kept) & (tree.parent >= 0))
        self._open_children = np.bincount(tree.parent[shown], minlength=tree.num_nodes)

    def _calibrate(self, found: Calibration) -> None:
        found.require(self.space, self.head, self._allowed)
        self._temperature = np.asarray(found.temperature if self.head == "level_softmax" else found.temperature[0])
        self._rule = cast("Rule", found.rule) if found.rule else self._rule
        if self._level is not None:
            self._level = found.threshold(self._level)

    def under(self, options: PredictOptions) -> Answerer:
        """Return the same under other options; raises as the class does."""
        return Answerer(self._own, self.space, self.head, options)

    def answer(self, logits: NDArray[np.float32]) -> list[Answer]:
        """Return one answer per row of `logits`, float32 [B, C] of the head's own space.

        Raises LogitsError for NaN or infinite logits.
        """
        if self._columns is not None:
            logits = logits[:, self._columns]
        options, tree = self.options, self.space.tree
        found = probabilities(
            tree, logits, self.head, allowed=self._allowed, temperature=self._temperature, rule=self._rule
        )
        paths, stops = self._paths(found.nodes)
        top = topk_classes(found.classes, options.topk)
        levels: list[tuple[LevelLabel, ...] | None] = [None] * len(logits)
        if options.levels:
            levels = self._levels(logits, found.nodes)
        return [
            Answer(self._chain(paths, row, length), stop, self._best(top, row), levels[row])
            for row, (length, stop) in enumerate(stops)
        ]

    def _paths(self, nodes: NDArray[np.float32]) -> tuple[Paths, list[tuple[int, Stop]]]:
        """Return the chains, and per row how much of its chain is accepted and why not more."""
        options, tree = self.options, self.space.tree
        calibrated = self._temperature is not None
        if self._level is None:
            paths = decode_path(tree, nodes, max_depth=options.max_depth, removed=self._hidden)
            lengths = paths.length.tolist()
            return paths, [
                (length, Stop(self._end(paths, row, length), None, calibrated, None, None))
                for row, length in enumerate(lengths)
            ]
        hedged = hedge(tree, nodes, self._level, max_depth=options.max_depth, removed=self._hidden)
        stops = []
        for row, length in enumerate(hedged.length.tolist()):
            refused = self._node(hedged.refused[row], hedged.refused_prob[row])
            runner_up = self._node(hedged.runner_up[row], hedged.runner_up_prob[row])
            reason: StopReason = "hedge" if refused else self._end(hedged.paths, row, length)
            stops.append((length, Stop(reason, options.hedge, calibrated, refused, runner_up)))
        return hedged.paths, stops

    def _end(self, paths: Paths, row: int, length: int) -> StopReason:
        last = int(paths.nodes[row, length - 1]) if length else -1
        if last < 0:
            return "restriction"
        if not self._open_children[last]:
            return "leaf"
        deepest = self.options.max_depth
        return "depth" if deepest is not None and self.space.tree.depth[last] >= deepest else "restriction"

    def _node(self, index: int, probability: float) -> Node | None:
        if index < 0:
            return None
        tree = self.space.tree
        return Node(tree.wnids[index], tree.names[index], float(probability))

    def _chain(self, paths: Paths, row: int, length: int) -> tuple[Node, ...]:
        nodes = zip(paths.nodes[row, :length].tolist(), paths.probs[row, :length].tolist(), strict=True)
        return tuple(node for node in (self._node(*pair) for pair in nodes) if node)

    def _best(self, top: TopK, row: int) -> tuple[Node, ...]:
        pairs = zip(top.classes[row].tolist(), top.probs[row].tolist(), strict=True)
        found = (self._node(*pair) for pair in pairs if pair[1] >= self.options.threshold)
        return tuple(node for node in found if node)

    def _levels(self, logits: NDArray[np.float32], nodes: NDArray[np.float32]) -> list[tuple[LevelLabel, ...] | None]:
        from miil21k.decode.levels import decode_levels, levels_of_nodes

        if self.head == "level_softmax":
            decoded = decode_levels(self.space.tree, logits, allowed=self._allowed, temperature=self._temperature)
        else:
            decoded = levels_of_nodes(self.space.tree, nodes, removed=self._hidden)
        rows: list[tuple[LevelLabel, ...] | None] = []
        for best, probs, kept in zip(decoded.nodes, decoded.probs, decoded.kept, strict=True):
            labels = ((depth, self._node(node, probs[depth]), kept[depth]) for depth, node in enumerate(best.tolist()))
            rows.append(tuple(LevelLabel(depth, node, bool(keep)) for depth, node, keep in labels if node))
        return rows


def _wnids(space: LabelSpace, keys: Sequence[str] | str | None) -> list[str] | None:
    """Return the wnids that `keys` stand for: wnids, or names that only one node of `space` has."""
    if keys is None:
        return None
    keys = [keys] if isinstance(keys, str) else keys
    known = space.tree.index_of
    return [key if key in known else space.tree.wnids[find_one(space, key)] for key in keys]
