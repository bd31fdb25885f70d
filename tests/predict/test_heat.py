"""Where the evidence is: the map shares out the gradient of log P over the places of the features, to the digit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from miil21k.cli.main import main
from miil21k.data.images import ImageInput
from miil21k.data.transforms import normalise
from miil21k.decode.decoded import concept_graph
from miil21k.decode.decoder import Decoder
from miil21k.errors import ImageError, UnknownClass, UsageError
from miil21k.hierarchy.load import load_label_space
from miil21k.predict.heat import HeatMaps, evidence
from miil21k.predict.options import RunOptions
from miil21k.predict.predictor import Predictor
from miil21k.runtime.torch_backend import TorchBackend

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from miil21k.decode.heads import HeadKind
    from miil21k.hierarchy.spaces import LabelSpace

IMAGES = Path(__file__).parents[2] / "examples" / "images"
CAT = IMAGES / "cat.jpg"


@pytest.fixture(scope="module")
def embedded() -> Predictor:
    return Predictor("embedded", backend="torch", device="cpu", threads=1)


def log_p(decoder: Decoder, logits: NDArray[np.float64], concept: str) -> float:
    return float(np.log(decoder.asking(concept).read(logits[None]).asked[0, -1]))


@pytest.mark.parametrize("concept", ["cat", "mammal", "vehicle"])
def test_the_mean_of_the_map_is_the_gradient_times_the_pooled_features(embedded: Predictor, concept: str) -> None:
    found = embedded.heat(CAT, concept)
    assert found.shape == (7, 7)
    assert found.dtype == np.float32
    crop = embedded.crop(ImageInput("cat", CAT))
    assert not isinstance(crop, str)
    model: Any = embedded.backend._model  # type: ignore[attr-defined]
    graph = concept_graph(embedded.space)
    below = graph.classes(HeatMaps(embedded, concept)._decoder.asked[0].concept)
    with torch.no_grad():
        pooled = model.forward_head(
            model.forward_features(torch.from_numpy(normalise(crop[None], embedded.preprocess))), pre_logits=True
        )[0].double()
    pooled.requires_grad_(True)
    weight, bias = (part.detach().double() for part in (model.classifier.weight, model.classifier.bias))
    shares = torch.log_softmax(weight @ pooled + bias, 0)[torch.from_numpy(below.astype(np.int64))]
    shares.logsumexp(0).backward()  # type: ignore[no-untyped-call]
    assert pooled.grad is not None
    expected = float((pooled.grad * pooled.detach()).sum())
    assert abs(expected) > 0.05
    assert found.mean(dtype=float) == pytest.approx(expected, rel=1e-4)


def test_the_cat_speaks_for_a_cat_and_against_a_vehicle(embedded: Predictor) -> None:
    cat, vehicle = embedded.heat(CAT, "cat"), embedded.heat(CAT, "vehicle")
    assert cat.mean() > 0 > vehicle.mean()
    assert np.corrcoef(cat.ravel(), vehicle.ravel())[0, 1] < -0.5


def numbers(space: LabelSpace, rows: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    random = np.random.default_rng(3)
    return random.normal(0, 2, space.num_classes), random.normal(0, 3, (rows, space.num_classes))


@pytest.mark.parametrize(
    ("head", "rule", "temperature"),
    [
        ("leaf_softmax", None, None),
        ("leaf_softmax", None, 1.7),
        ("sigmoid", None, None),
        ("sigmoid", None, 0.6),
        ("level_softmax", "coherent", None),
        ("level_softmax", "sibling", 1.3),
        ("level_softmax", "product", None),
    ],
)
def test_evidence_is_the_slope_of_log_p_for_every_head(
    embedded: Predictor, head: HeadKind, rule: str | None, temperature: float | None
) -> None:
    space = load_label_space("fall11") if head == "level_softmax" else embedded.space
    decoder = Decoder(space, head, rule=rule, temperature=temperature).asking("mammal")
    logits, directions = numbers(space, 4)
    below = concept_graph(space).classes(decoder.asked[0].concept)
    found = evidence(decoder, logits, directions, below)
    step = 2e-3
    plain = Decoder(space, head, rule=rule, temperature=temperature)
    slopes = [
        (log_p(plain, logits + step * one, "mammal") - log_p(plain, logits - step * one, "mammal")) / (2 * step)
        for one in directions
    ]
    assert found == pytest.approx(np.array(slopes), rel=5e-3, abs=3e-3)
    total = evidence(decoder, logits, directions.mean(axis=0, keepdims=True), below)[0]
    assert found.mean() == pytest.approx(total, rel=1e-3, abs=1e-4)  # linear: shares add up


def test_a_probability_near_one_keeps_its_gradient(embedded: Predictor) -> None:
    decoder = Decoder(embedded.space, "leaf_softmax").asking("mammal")
    below = concept_graph(embedded.space).classes(decoder.asked[0].concept)
    logits = np.zeros(embedded.space.num_classes)
    logits[below[0]] = 60
    direction = np.zeros((1, logits.size))
    direction[0, below[0]] = 1
    others = logits.size - below.size
    assert evidence(decoder, logits, direction, below)[0] == pytest.approx(others * np.exp(-60), rel=1e-6)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "mobilenetv3_small_050", "convnext_atto"])
def test_a_head_that_is_not_linear_over_the_mean_is_refused(name: str) -> None:
    torch.manual_seed(0)
    backend = TorchBackend(timm.create_model(name, num_classes=5), 5, device="cpu")
    with pytest.raises(UsageError, match="not one linear layer over average-pooled features"):
        backend.feature_map(np.random.default_rng(0).normal(size=(1, 3, 224, 224)).astype(np.float32))


def test_a_residual_network_gives_its_features() -> None:
    backend = TorchBackend(timm.create_model("resnet18", num_classes=5), 5, device="cpu")
    image = np.random.default_rng(0).normal(size=(1, 3, 96, 64)).astype(np.float32)
    found = backend.feature_map(image)
    assert (found.features.shape, found.weight.shape) == ((512, 3, 2), (5, 512))
    assert found.logits == pytest.approx(backend.run(image).logits[0], abs=1e-5)


def test_what_cannot_be_shown_is_an_error(embedded: Predictor, tmp_path: Path) -> None:
    with pytest.raises(UnknownClass):
        embedded.heat(CAT, "mamal")
    with pytest.raises(ImageError):
        embedded.heat(tmp_path / "none.jpg", "cat")
    with pytest.raises(UsageError, match="add --save-plots"):
        RunOptions(heat="cat")


def test_the_command_pales_what_the_network_did_not_see(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib", reason="the extra 'plots' is not installed")
    photo = tmp_path / "grey.png"
    Image.new("L", (448, 224), 128).save(photo)  # the crop is the middle 43.75 %
    command = ["predict", str(photo), "-m", "embedded", "--device", "cpu", "--save-plots"]
    assert main([*command, str(tmp_path / "heat"), "--heat", "mammal"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["backend"] == "torch"
    with Image.open(tmp_path / "heat" / "000001_grey.png") as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    seen = pixels[150, 50:580].max(axis=1) < 150  # 150 DPI, a margin of 0.3 and a width of 3.6 inches
    columns = np.flatnonzero(seen | (np.ptp(pixels[150, 50:580], axis=1) > 20))
    middle = (columns + 5) / 540
    assert middle.min() == pytest.approx(0.28125, abs=0.02)
    assert middle.max() == pytest.approx(0.71875, abs=0.02)
