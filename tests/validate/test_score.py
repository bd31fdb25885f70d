from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from forests import named

from miil21k.decode.decoder import Decoder
from miil21k.hierarchy.labels import find_label
from miil21k.hierarchy.load import load_label_space
from miil21k.validate.inference import Scored
from miil21k.validate.score import Scorecard

if TYPE_CHECKING:
    from miil21k.hierarchy.tree import Tree


def scored(logits: np.ndarray, labels: list[int]) -> Scored:
    return Scored(logits, np.array(labels, np.int32), np.arange(len(labels)))


@pytest.mark.parametrize("head", ["leaf_softmax", "sigmoid"])
def test_a_path_through_an_inner_node_that_is_no_class_counts_that_node(zoo_tree: Tree, head: str) -> None:
    cat = zoo_tree.index("cat")
    logits = np.full((2, 7), -9, np.float32)
    logits[0, cat] = 9  # animal, feline, cat
    logits[1, [zoo_tree.index("husky"), zoo_tree.index("pug"), cat]] = 2, 2, 1.9  # dog in place of feline
    card = Scorecard(Decoder(named(zoo_tree), head))  # type: ignore[arg-type]
    card.update(scored(logits, [cat, cat]))
    found = card.metrics()["semantic"]
    assert found["semantic_top1_level_00"] == 1
    assert found["semantic_top1_level_01"] == 0.5  # feline against dog
    assert found["path_accuracy"] == 0.5 == card.metrics()["flat"]["top1"]


def test_what_is_not_answered_is_counted_apart(zoo_tree: Tree) -> None:
    dog, car = zoo_tree.index("dog"), zoo_tree.index("car")
    logits = np.zeros((4, 7), np.float32)
    logits[0, dog] = logits[1, dog] = 20
    card = Scorecard(Decoder(named(zoo_tree), "leaf_softmax"))
    card.update(scored(logits, [dog, car, dog, dog]))
    hedged = card.metrics()["hedged"]
    assert (hedged["answered"], hedged["correct"], hedged["correct_of_answered"]) == (0.5, 0.75, 0.5)


def test_a_label_that_is_no_class_is_scored_by_what_lies_above_it() -> None:
    space = load_label_space("in1k")
    tree = space.tree
    outside = [label for label in (find_label(space, "okapi"),) if label is not None]
    okapi, dog = tree.num_nodes, tree.index("n02084071")
    impala, pug, cat = tree.index("n02422699"), tree.index("n02110958"), tree.index("n02123045")
    logits = np.zeros((4, 1000), np.float32)
    logits[range(4), [impala, pug, impala, cat]] = 30
    card = Scorecard(Decoder(space, "leaf_softmax"), outside)
    card.update(scored(logits, [okapi, dog, impala, impala]))
    found = card.metrics()
    assert card.samples == 4
    assert found["flat"]["top1"] == 0.5  # of the two that are labelled with classes
    assert found["top_class"]["correct"] == 0.5  # a pug is a dog, but an impala is no okapi
    assert found["hedged"]["correct"] == 0.5
    assert found["semantic"]["path_accuracy"] == 0.75  # okapi: animal, vertebrate, ..., ruminant
    assert card.other_labels() == [
        {"wnid": "n02084071", "name": "dog", "node": "n02084071", "images": 1},
        {"wnid": "n02439398", "name": "okapi", "node": "n02399000", "images": 1},
    ]
    unsure = Scorecard(Decoder(space, "leaf_softmax"), outside)
    even = np.zeros((1, 1000), np.float32)
    even[0, tree.descendants(tree.index("n02399000"))[:9]] = 30  # some ruminant
    unsure.update(scored(even, [okapi]))
    hedged = unsure.metrics()["hedged"]
    assert (hedged["answered"], hedged["correct"], hedged["exact"], hedged["recall_depth"]) == (1, 1, 1, 1)


def test_hedged_answers_on_concepts_are_scored_by_the_graph() -> None:
    space = load_label_space("in1k")
    names = space.tree.names
    logits = np.full((3, 1000), -20, np.float32)
    for row, said in enumerate((("Great Pyrenees", "timber wolf"), ("tabby", "lion"), ("tabby", "espresso"))):
        logits[row, [names.index(name) for name in said]] = 10
    okapi = find_label(space, "okapi")
    assert okapi is not None
    labels = [names.index("timber wolf"), space.tree.num_nodes, names.index("church")]
    card = Scorecard(Decoder(space, "leaf_softmax", reading="concepts"), [okapi])
    card.update(scored(logits, labels))
    hedged = card.metrics()["hedged"]  # canine for a wolf, feline for an okapi, nothing for a church
    assert hedged["answered"] == pytest.approx(2 / 3)
    assert (hedged["correct"], hedged["correct_of_answered"]) == (pytest.approx(2 / 3), 0.5)
    assert hedged["right_bits"] == pytest.approx(np.log2(1000 / 130) / 3)
    assert hedged["mean_length"] == pytest.approx(10 / 3)
    assert card.metrics()["top_class"]["answered"] == 1
