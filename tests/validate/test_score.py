from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from forests import named

from miil21k.decode.decoder import Decoder
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
