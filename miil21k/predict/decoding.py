"""From the options of a prediction to its decoder, and from what that finds to the parts of a row."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from miil21k.decode.decoded import concept_graph
from miil21k.decode.decoder import Decoder
from miil21k.predict.options import listed
from miil21k.predict.prediction import AskedConcept, Bin, BinAnswer, Given, LevelLabel, Node, Sense, Stop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from miil21k.decode.decoded import Decoded
    from miil21k.decode.heads import HeadKind
    from miil21k.decode.topk import TopK
    from miil21k.hierarchy.concepts import Concepts
    from miil21k.hierarchy.spaces import LabelSpace
    from miil21k.hierarchy.tree import Tree
    from miil21k.predict.options import PredictOptions
    from miil21k.predict.prediction import ImagePart

__all__ = ["Answer", "answers_of", "decoder_of", "paths_of"]


class Answer(NamedTuple):
    """The decoded parts of one `Prediction`."""

    path: tuple[Node, ...]
    stop: Stop
    topk: tuple[Node, ...]
    levels: tuple[LevelLabel, ...] | None
    given: Given | None
    asked: tuple[AskedConcept, ...] | None
    concepts: tuple[Node, ...] | None
    bins: BinAnswer | None
    parts: tuple[ImagePart, ...] | None = None


def decoder_of(own: LabelSpace, space: LabelSpace, head: HeadKind, options: PredictOptions) -> Decoder:
    """Return what reads the logits of a head of `own` as answers in `space`; raises as `Decoder` does."""
    temperature = options.temperature
    decoder = Decoder(
        own,
        head,
        answer_space=space,
        rule=options.rule,
        temperature=temperature if temperature is None or isinstance(temperature, float | int) else tuple(temperature),
        hedge=options.hedge,
        max_depth=options.max_depth,
        include_withdrawn=options.include_removed_labels,
        reading=options.reading,
        min_bits=options.min_bits,
    ).restricted(under=options.under, classes=options.classes, exclude=options.exclude)
    decoder = decoder.asking(listed(options.ask))
    if options.bins is not None:
        decoder = decoder.binned(options.bin_lines)
    if options.calibration is None:
        return decoder
    from miil21k.zoo.names import named_calibration

    found = named_calibration(
        options.calibration, revision=options.revision, cache_dir=options.cache_dir, offline=options.offline
    )
    return decoder.calibrated(found)


def answers_of(found: Decoded, options: PredictOptions) -> list[Answer]:
    """Return one answer per row; raises LogitsError for NaN or infinite logits."""
    fixed = found.decoder
    tree, calibrated = fixed.space.tree, fixed.temperatures is not None
    _ = found.probabilities  # nodes and classes in one pass
    top = found.topk(options.topk)
    asked, concepts, bins = _asked(found), _concepts(found, options.min_node), _bins(found)
    word = _word(fixed)
    answers = []
    for row, (path, reason) in enumerate(zip(paths_of(found), found.reasons, strict=True)):
        likely = tuple(_listed(fixed, index, prob) for index, prob in _pairs(top, row) if index >= 0)
        best = tuple(node for node in likely if node.probability >= options.threshold)
        refused = runner_up = None
        if fixed.level is not None:
            hedged = found.hedged
            refused = word(hedged.refused[row], hedged.refused_prob[row])
            runner_up = word(hedged.runner_up[row], hedged.runner_up_prob[row])
        stop = Stop(reason, options.hedge, calibrated, refused, runner_up, fixed.level, fixed.reading)
        answers.append(
            Answer(
                path,
                stop,
                best,
                _levels(tree, found, row) if options.levels else None,
                _given(found, row),
                asked[row] if asked else None,
                concepts[row] if concepts else None,
                bins[row] if bins else None,
            )
        )
    return answers


def paths_of(found: Decoded) -> list[tuple[Node, ...]]:
    """Return the path of each row, root first; raises LogitsError for NaN or infinite logits."""
    word = _word(found.decoder)
    paths = []
    for row, length in enumerate(found.length.tolist()):
        steps = zip(found.path.nodes[row, :length].tolist(), found.path.probs[row, :length].tolist(), strict=True)
        paths.append(tuple(node for step in steps if (node := word(*step))))
    return paths


def _word(decoder: Decoder) -> Callable[[int, float], Node | None]:
    """Return what makes a node of an index of a path and its probability."""
    if decoder.reading == "concepts":
        return partial(_concept, concept_graph(decoder.space))
    return partial(_node, decoder.space.tree)


def _pairs(top: TopK, row: int) -> Iterable[tuple[int, float]]:
    return zip(top.classes[row].tolist(), top.probs[row].tolist(), strict=True)


def _listed(decoder: Decoder, index: int, probability: float) -> Node:
    """Return a class, or the concept that is answered as one with all below it."""
    tree = decoder.space.tree
    if index < tree.num_nodes:
        return Node(tree.wnids[index], tree.names[index], probability)
    graph = concept_graph(decoder.space)
    return Node(graph.wnids[index], graph.name(index), probability)


def _given(found: Decoded, row: int) -> Given | None:
    restriction, probability = found.decoder.restriction, found.given
    if restriction is None or probability is None:
        return None
    return Given(restriction.condition, float(probability[row]))


def _asked(found: Decoded) -> list[tuple[AskedConcept, ...]]:
    """Return per row what was asked, with its probability; nothing where nothing was."""
    fixed = found.decoder
    if not fixed.asked:
        return []
    graph = concept_graph(fixed.space)
    names = [(graph.wnids[question.concept], graph.name(question.concept)) for question in fixed.asked]
    senses = [tuple(Sense(graph.wnids[o], graph.name(o)) for o in question.others) for question in fixed.asked]
    texts = [question.text for question in fixed.asked]
    return [
        tuple(
            AskedConcept(text, *name, probability, others or None)
            for text, name, probability, others in zip(texts, names, row, senses, strict=True)
        )
        for row in found.asked.tolist()
    ]


def _bins(found: Decoded) -> list[BinAnswer]:
    """Return per row the answer with the user's own labels; nothing where there are none."""
    fixed = found.decoder
    if fixed.bins is None:
        return []
    labels, path = fixed.bins.labels, found.bins_path
    answers = []
    for row, (every, length) in enumerate(zip(found.bins.tolist(), path.length.tolist(), strict=True)):
        steps = zip(path.nodes[row, :length].tolist(), path.probs[row, :length].tolist(), strict=True)
        answer = tuple(Bin(labels[node], probability) for node, probability in steps)
        answers.append(BinAnswer(answer, fixed.bins_level, tuple(map(Bin, labels, every))))
    return answers


def _concepts(found: Decoded, least: float | None) -> list[tuple[Node, ...]]:
    """Return per row the concepts that are at least so probable; nothing where that was not asked."""
    if least is None:
        return []
    graph = concept_graph(found.decoder.space)
    return [
        tuple(Node(graph.wnids[one], graph.name(one), float(row[one])) for one in likely)
        for row, likely in zip(found.concepts, found.likely_concepts(least), strict=True)
    ]


def _levels(tree: Tree, found: Decoded, row: int) -> tuple[LevelLabel, ...]:
    decoded = found.levels
    labels = (
        (depth, _node(tree, node, decoded.probs[row, depth]), decoded.kept[row, depth])
        for depth, node in enumerate(decoded.nodes[row].tolist())
    )
    return tuple(LevelLabel(depth, node, bool(kept)) for depth, node, kept in labels if node)


def _nodes(tree: Tree, indices: Iterable[int], probs: Iterable[float]) -> tuple[Node, ...]:
    found = (_node(tree, index, prob) for index, prob in zip(indices, probs, strict=True))
    return tuple(node for node in found if node)


def _concept(graph: Concepts, index: int, probability: float) -> Node | None:
    return None if index < 0 else Node(graph.wnids[index], graph.name(index), float(probability))


def _node(tree: Tree, index: int, probability: float) -> Node | None:
    return None if index < 0 else Node(tree.wnids[index], tree.names[index], float(probability))
