"""Every public value says in a line what it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import miil21k
from miil21k.calibrate.record import mask_digest
from miil21k.data.images import ImageInput
from miil21k.hierarchy.concepts import concepts_of
from miil21k.predict.options import RunOptions
from miil21k.text import brief
from miil21k.zoo.checkpoint_card import TrainedCard
from miil21k.zoo.export_card import ExportCard
from miil21k.zoo.manifest import load_manifest

SPACE = miil21k.load_label_space("fall11")
DECODER = miil21k.Decoder(SPACE, "level_softmax")
ROW = miil21k.find_weights("tresnet_m_21k")
DECODING = {"masked": list(SPACE.wnids[:900])}
CALIBRATION = miil21k.Calibration(
    "fall11", SPACE.sha256, ROW.name, "0" * 64, "level_softmax", "coherent", mask_digest(None), (1.5,) * 11,
    ((0.8, 0.7), (0.9, 0.95)), (500, 500), ((0.8, 0.9, 0.85),) * 2,
)  # fmt: skip


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (SPACE, "LabelSpace('fall11', 11221 classes, "),
        (SPACE.tree, "Tree(11221 classes, "),
        (concepts_of(SPACE), "Concepts('fall11', 13034 concepts, "),
        (DECODER, "Decoder(own='fall11', head='level_softmax')"),
        (DECODER.restricted(under="n02084071").restriction, "Restriction('under "),
        (DECODER.read(np.zeros((64, 11221), np.float32)), "Decoded(64 rows of Decoder("),
        (ROW, "Weights('tresnet_m.miil_in21k', fall11, level_softmax, 52,331,861 parameters, mirrored)"),
        (load_manifest(), "Manifest("),
        (CALIBRATION, "Calibration('tresnet_m.miil_in21k', fall11, level_softmax, right at least: 0.8, 0.9)"),
        (miil21k.PredictOptions(topk=3, hedge=None), "PredictOptions(topk=3, hedge=None)"),
        (RunOptions(output="a.csv", resume=True), "RunOptions(output='a.csv', resume=True)"),
        (miil21k.MeasureOptions(batch_size=8), "MeasureOptions(batch_size=8)"),
        (miil21k.MeasureRequest("images", "embedded"), "MeasureRequest(data='images', model='embedded')"),
        (miil21k.ExportOptions(calibration=CALIBRATION), "ExportOptions(calibration=Calibration("),
        (miil21k.QuantizeOptions(method="entropy"), "QuantizeOptions(method='entropy')"),
        (miil21k.Recipe("cross_entropy", lr=1e-3), "Recipe(objective='cross_entropy', lr=0.001)"),
        (
            miil21k.TrainRequest("images", "resnet50", "usi", miil21k.get_recipe("usi"), Path("run")),
            "TrainRequest(data='images', model='resnet50', recipe_name='usi', recipe=Recipe(",
        ),
        (
            ExportCard("m", "TResNet", "full", "level_softmax", SPACE, ROW.preprocess, DECODING, "MIT", "0" * 64, {}),
            "ExportCard(model='m', ",
        ),
        (TrainedCard("resnet50", {}, "level_softmax", SPACE, ROW.preprocess, "usi", {}), "TrainedCard(arch='resnet50'"),
        (ImageInput("x", bytes(10_000)), "ImageInput(name='x', source=b'"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_says_in_a_line_what_it_is(value: object, said: str) -> None:
    assert repr(value).startswith(said)
    assert len(repr(value)) < 400
    assert "\n" not in repr(value)


def test_every_named_recipe_fits_in_a_few_lines() -> None:
    from miil21k.train.recipes import RECIPES

    assert max(len(repr(recipe)) for recipe in RECIPES.values()) < 700


def test_a_default_of_another_type_is_no_default() -> None:
    recipe = miil21k.Recipe("cross_entropy")
    assert brief(recipe) == "Recipe(objective='cross_entropy')"
    assert brief(replace(recipe, zero_head=0)) == "Recipe(objective='cross_entropy', zero_head=0)"  # type: ignore[arg-type]
