"""Equal answers compare equal, embeddings included, and a prediction is one short line."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from miil21k.predict.prediction import Node, Origin, Prediction

ORIGIN = Origin("embedded", "in1k", "0" * 64, "none", "torch", "cpu", "fp32")
ANIMAL, CAT = Node("n00015388", "animal", 0.95), Node("n02121808", "domestic cat", 0.913)
ANSWER = Prediction("cat.jpg", ORIGIN, path=(ANIMAL, CAT), topk=(CAT,), embedding=np.arange(4, dtype=np.float32))


def test_two_answers_that_say_the_same_are_equal() -> None:
    same = replace(ANSWER, embedding=np.arange(4, dtype=np.float32))
    assert same == ANSWER
    assert hash(same) == hash(ANSWER)
    assert len({same, ANSWER, replace(ANSWER, input="dog.jpg")}) == 2
    without = replace(ANSWER, embedding=None)
    assert without == replace(same, embedding=None)
    assert without != ANSWER
    assert without != without.to_dict()


def test_answers_that_differ_anywhere_are_not_equal() -> None:
    assert replace(ANSWER, embedding=np.float32([0, 1, 2, 4])) != ANSWER
    assert replace(ANSWER, embedding=np.zeros(5, np.float32)) != ANSWER
    assert replace(ANSWER, topk=(CAT._replace(probability=0.9),)) != ANSWER
    assert replace(ANSWER, origin=ORIGIN._replace(device="cuda")) != ANSWER


def test_its_repr_is_one_line() -> None:
    assert repr(ANSWER) == "Prediction('cat.jpg', animal 0.95 > domestic cat 0.91)"
    deep = replace(ANSWER, path=(ANIMAL,) * 9 + (CAT,))
    assert repr(deep) == "Prediction('cat.jpg', ... > animal 0.95 > animal 0.95 > domestic cat 0.91)"
    assert repr(replace(ANSWER, path=())) == "Prediction('cat.jpg', nothing sure enough)"
    failed = Prediction("a/" * 500 + "b.jpg", ORIGIN, error="not an image" * 100)
    assert repr(failed).startswith("Prediction('...")
    assert len(repr(failed)) < 160
