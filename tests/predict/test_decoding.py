"""From options to a decoder, and from what it finds to the parts of a row."""

from __future__ import annotations

import numpy as np
import pytest

from miil21k.errors import UsageError
from miil21k.hierarchy.load import load_label_space
from miil21k.predict.decoding import Answer, answers_of, decoder_of
from miil21k.predict.options import PredictOptions

IN1K = load_label_space("in1k")


def answer(options: PredictOptions, *names: str) -> Answer:
    """Return the answer to a picture that is as probably one of the classes as another."""
    logits = np.full((1, 1000), -20, np.float32)
    logits[0, [IN1K.tree.names.index(name) for name in names]] = 10
    return answers_of(decoder_of(IN1K, IN1K, "leaf_softmax", options).read(logits), options)[0]


def test_a_row_read_on_concepts_names_concepts() -> None:
    found = answer(PredictOptions(reading="concepts"), "Great Pyrenees", "timber wolf")
    assert found.stop.to_dict()["reading"] == "concepts"
    assert [node.name for node in found.path] == ["animal", "vertebrate", "mammal", "carnivore", "canine"]
    assert found.path[-1].wnid == "n02083346"
    assert found.path[-1].probability == pytest.approx(1, abs=1e-4)
    assert found.stop.refused is not None
    assert found.stop.runner_up is not None
    assert {found.stop.refused.name, found.stop.runner_up.name} == {"dog", "wolf"}
    assert {node.name for node in found.topk[:2]} == {"Great Pyrenees", "timber wolf"}
    published = answer(PredictOptions(), "Great Pyrenees", "timber wolf")
    assert [node.name for node in published.path] == ["animal"]


@pytest.mark.parametrize("reading", ["published", "concepts"])
def test_an_answer_of_too_few_bits_is_an_empty_path(reading: str) -> None:
    found = answer(PredictOptions(reading=reading), "acoustic guitar", "church")
    assert (found.path, found.stop.reason) == ((), "bits")
    assert [
        node.name for node in answer(PredictOptions(reading=reading, min_bits=0.9), "acoustic guitar", "church").path
    ] == ["artifact"]


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(UsageError, match="reading must be published or concepts"):
        PredictOptions(reading="tree")
    with pytest.raises(UsageError, match="min_bits must be"):
        PredictOptions(min_bits=-1)
    with pytest.raises(UsageError, match="depth is one of the published tree"):
        decoder_of(IN1K, IN1K, "leaf_softmax", PredictOptions(reading="concepts", max_depth=2))
