"""From image files to predictions, with the embedded network and its real weights."""

from __future__ import annotations

import dataclasses
import io
import json
import logging
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from miil21k.data.images import ImageInput, load_image
from miil21k.data.transforms import normalise
from miil21k.errors import CheckpointError, DownloadError, ImageError, UnknownClass, UnknownModel, UsageError
from miil21k.predict.options import PredictOptions, changed
from miil21k.predict.predictor import Predictor
from miil21k.runtime import loading
from miil21k.zoo import registry

IMAGES = Path(__file__).parents[2] / "examples" / "images"
CAT, COFFEE, ROCKET = (IMAGES / f"{name}.jpg" for name in ("cat", "coffee", "rocket"))
DOMESTIC_CAT = "n02121808"
GOLDEN_LOGITS = {282: 9.125, 285: 9.001, 281: 8.362}  # tiger cat, Egyptian cat, tabby of ImageNet-1K


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def embedded() -> Predictor:
    return Predictor("embedded", backend="torch", device="cpu", workers=2, batch_size=2)


def with_options(predictor: Predictor, **changes: Any) -> Predictor:
    """A predictor with other options of images and answers, around the same network: building it takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "create_model", lambda *_, **__: predictor.backend._model)
        return Predictor("embedded", options=predictor.options, **changes)


def words(nodes: tuple[Any, ...]) -> list[str]:
    return [node.name for node in nodes]


def test_the_cat_is_a_domestic_cat_and_the_breed_is_open(embedded: Predictor) -> None:
    found = embedded(CAT)
    assert (found.input, found.status, found.error) == (str(CAT), "ok", None)
    assert words(found.path) == ["animal", "domestic animal", "domestic cat"]
    assert found.label is not None
    assert found.label.wnid == DOMESTIC_CAT
    assert words(found.topk)[:3] == ["tiger cat", "Egyptian cat", "tabby"]
    assert [round(node.probability, 2) for node in found.topk[:3]] == [0.39, 0.34, 0.18]
    assert found.stop is not None
    assert (found.stop.reason, found.stop.hedge, found.stop.calibrated) == ("hedge", 0.9, False)
    assert found.stop.refused == found.topk[0]
    assert found.stop.runner_up == found.topk[1]


def test_the_logits_of_the_cat_stay_what_they_are(embedded: Predictor) -> None:
    """Pins decoding, preprocessing, weights and folding together; values from the published weights."""
    crop = embedded.crop(ImageInput("cat", CAT))
    assert isinstance(crop, np.ndarray)
    logits = embedded.backend.run(normalise(crop[None], embedded.preprocess)).logits[0]
    assert logits.shape == (1000,)
    assert {int(i): float(logits[i]) for i in np.argsort(-logits)[:3]} == pytest.approx(GOLDEN_LOGITS, abs=0.05)
    assert float(logits.std()) == pytest.approx(1.1993, abs=0.01)


def test_a_listed_inner_node_is_answered_as_one(embedded: Predictor) -> None:
    found = with_options(embedded, classes=("espresso", "domestic cat"))(CAT)
    assert words(found.topk) == ["domestic cat", "espresso"]
    assert found.topk[0].probability > 0.999
    assert words(found.path) == ["animal", "domestic animal", "domestic cat"]
    assert found.stop is not None
    assert found.stop.reason == "restriction"


def test_a_restricted_row_says_what_it_is_given_and_how_probable_that_was(embedded: Predictor) -> None:
    found = with_options(embedded, under="bird", hedge=None)(CAT)
    assert found.given is not None
    assert found.given.condition == "under bird"
    assert found.path[-2].name != "cat"
    assert (found.path[0].name, found.path[0].probability > 0.999) == ("animal", True)  # all birds are animals
    assert found.given.probability < 0.01
    assert found.to_dict()["given"]["probability"] == round(found.given.probability, 6)
    assert "given" not in embedded(CAT).to_dict()


def test_any_noun_can_be_asked(embedded: Predictor) -> None:
    found = embedded.ask(CAT, ["mammal", "vehicles", "n01503061", "dog.n.01"])
    assert found.probability("mammal") >= 0.9
    assert found.probability("vehicles") <= 0.01
    assert found.probability("n01503061") <= 0.01  # bird
    assert [asked.name for asked in found.asked or ()] == ["mammal", "vehicle", "bird", "dog"]
    assert found.to_dict()["asked"][1] == {
        "question": "vehicles",
        "wnid": "n04524313",
        "name": "vehicle",
        "probability": round(found.probability("vehicles"), 6),
    }
    assert found.topk == embedded(CAT).topk
    assert [one.probability("drink") > 0.9 for one in embedded.ask([COFFEE, CAT], "drink")] == [True, False]
    with pytest.raises(UsageError, match=r"'cat' was not asked: predictor.ask\(images, \['cat'\]\)"):
        found.probability("cat")
    with pytest.raises(UsageError, match="Nothing is known about"):
        embedded.ask("nothing.jpg", "bird").probability("bird")
    with pytest.raises(UnknownClass, match="'crane' has 2 meanings"):
        embedded.ask(CAT, ["bird", "crane"])


def test_an_answer_in_own_labels_stands_beside_the_path(embedded: Predictor, tmp_path: Path) -> None:
    (tmp_path / "bins.csv").write_text("label,concept,parent\npet,,\ndog,dog,pet\ncat,n02121808,pet\ncar,cars,\n")
    found = with_options(embedded, bins=tmp_path / "bins.csv")(CAT)
    assert found.bins is not None
    assert [one.label for one in found.bins.path] == ["pet", "cat"]
    assert (found.bins.label, found.bins.level) == ("cat", 0.9)
    labels = dict(found.bins.labels)
    assert list(labels) == ["pet", "dog", "cat", "car", "other"]
    assert labels["cat"] == pytest.approx(found.path[-1].probability, abs=1e-6)  # both are of *domestic cat*
    assert labels["pet"] + labels["car"] + labels["other"] == pytest.approx(1, abs=1e-5)
    assert found.to_dict()["bins"]["path"][1] == {"label": "cat", "probability": round(labels["cat"], 6)}
    assert (found.path, found.topk) == (embedded(CAT).path, embedded(CAT).topk)
    given = with_options(embedded, bins={"cat": "domestic cat", "lynx": "lynx"}, under="feline")(CAT)
    assert given.bins is not None
    assert given.bins.path[-1].probability > labels["cat"]
    assert "bins" not in embedded(CAT).to_dict()
    with pytest.raises(UsageError, match="is under 'dog' and under 'animal'"):
        with_options(embedded, bins={"dog": "dog", "animal": "animal"})


def test_what_was_asked_does_not_depend_on_a_restriction(embedded: Predictor) -> None:
    free = with_options(embedded, ask="mammal", min_node=0.3)(CAT)
    bound = with_options(embedded, ask="mammal", min_node=0.3, under="bird")(CAT)
    assert (bound.asked, bound.concepts) == (free.asked, free.concepts)
    assert free.concepts is not None
    names = words(free.concepts)
    assert names[:3] == ["tiger cat", "Egyptian cat", "domestic cat"]
    assert names[-1] == "entity"
    assert min(node.probability for node in free.concepts) >= 0.3
    assert embedded(CAT).concepts is None


def test_a_noun_of_several_meanings_is_noted_and_its_other_senses_stand_in_the_row(embedded: Predictor) -> None:
    asked = with_options(embedded, ask=["dish"])
    row = asked(CAT).to_dict()["asked"][0]
    (note,) = asked.notes
    assert note.startswith("'dish' is read as dish (")
    assert row["other_senses"]
    assert all(sense["wnid"] in note for sense in row["other_senses"])


def test_every_input_gets_its_own_row_in_order(embedded: Predictor, tmp_path: Path) -> None:
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(COFFEE.read_bytes()[:9000])
    text = tmp_path / "text.jpg"
    text.write_text("no picture")
    inputs = [CAT, cut, COFFEE, text, tmp_path / "absent.jpg", ROCKET, CAT]
    alone = {path: embedded(path) for path in (CAT, COFFEE, ROCKET)}
    for workers in (0, 1, 3):
        rows = with_options(embedded, workers=workers).predict(inputs)
        assert [row.input for row in rows] == [str(path) for path in inputs]
        assert [row.status for row in rows] == ["ok", "error", "ok", "error", "error", "ok", "ok"]
        for path, row in zip(inputs, rows, strict=True):
            if row.status == "ok":
                assert words(row.topk) == words(alone[path].topk)
                assert row.topk[0].probability == pytest.approx(alone[path].topk[0].probability, abs=1e-5)
            else:
                assert row.error is not None
                assert path.name in row.error
                assert (row.path, row.topk, row.stop, row.label) == ((), (), None, None)


def test_a_batch_of_errors_alone_needs_no_network(embedded: Predictor, tmp_path: Path) -> None:
    rows = embedded.predict([tmp_path / f"{i}.jpg" for i in range(5)])
    assert [row.status for row in rows] == ["error"] * 5
    assert embedded.predict([]) == []


def test_starting_at_a_batch_border_gives_the_same_numbers(embedded: Predictor, tmp_path: Path) -> None:
    inputs: list[Path] = []
    for number in range(9):
        path = tmp_path / f"{number}.jpg"
        load_image((CAT, COFFEE, ROCKET)[number % 3]).rotate(number).save(path)
        inputs.append(path)
    inputs[3].write_text("damaged")
    whole = [row.to_dict() for row in embedded.predict(inputs)]
    rest = [row.to_dict() for row in embedded.predict(inputs[4:])]
    assert rest == whole[4:]


def test_an_image_that_asks_for_a_new_batch_shares_none_with_the_one_before(
    embedded: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = with_options(embedded, workers=0, batch_size=3)
    run, sizes = predictor.backend.run, []

    def counted(images: np.ndarray, **options: Any) -> Any:
        sizes.append(len(images))
        return run(images, **options)

    monkeypatch.setattr(predictor.backend, "run", counted)
    begins = [True, False, True, False, False, False, True, True]
    rows = predictor.predict([ImageInput(str(i), CAT, new_batch=new) for i, new in enumerate(begins)])
    assert sizes == [2, 3, 1, 1, 1]
    assert [row.input for row in rows] == [str(i) for i in range(8)]


def test_every_kind_of_source_is_one_image(embedded: Predictor) -> None:
    picture = load_image(CAT)
    expected = embedded(CAT).topk
    for source in (str(CAT), CAT.read_bytes(), io.BytesIO(CAT.read_bytes()), picture, np.asarray(picture)):
        assert embedded(source).topk == expected
    batch = np.stack([np.asarray(picture), np.asarray(picture)[:, ::-1]])
    rows = embedded(batch)
    assert [row.input for row in rows] == ["image 0", "image 1"]
    assert rows[0].topk[0].probability == pytest.approx(expected[0].probability, abs=1e-5)


def test_a_source_that_is_a_function_is_called_late_and_may_fail(embedded: Predictor) -> None:
    callers: list[int] = []

    def fetched() -> bytes:
        callers.append(threading.get_ident())
        return CAT.read_bytes()

    def refused() -> bytes:
        raise ImageError("'https://example.org/x' answered 404.")

    rows = embedded.predict([ImageInput("a", fetched), ImageInput("b", refused)])
    assert [(row.input, row.error) for row in rows] == [("a", None), ("b", "'https://example.org/x' answered 404.")]
    assert callers
    assert threading.get_ident() not in callers


def test_the_stream_reads_only_a_few_batches_ahead(embedded: Predictor) -> None:
    taken = []

    def endless() -> Any:
        for number in range(10_000):
            taken.append(number)
            yield CAT

    stream = embedded.stream(endless())
    assert next(stream).status == "ok"
    assert len(taken) <= 2 * embedded.workers * embedded.batch_size
    stream.close()


def test_progress_counts_every_image(embedded: Predictor, tmp_path: Path) -> None:
    seen: list[int] = []
    embedded.predict([CAT, tmp_path / "absent.jpg", COFFEE], progress=seen.append)
    assert seen == [1, 2, 3]


def test_probabilities_fall_along_the_path_and_the_hedge_only_cuts(embedded: Predictor) -> None:
    whole = with_options(embedded, hedge=None)(CAT)
    assert words(whole.path) == ["animal", "domestic animal", "domestic cat", "tiger cat"]
    assert whole.stop is not None
    assert (whole.stop.reason, whole.stop.hedge) == ("leaf", None)
    probabilities = [node.probability for node in whole.path]
    assert probabilities == sorted(probabilities, reverse=True)
    lengths = [len(with_options(embedded, hedge=level)(CAT).path) for level in (0.3, 0.9, 0.93, 0.99)]
    assert lengths == [4, 3, 1, 0]


def test_depth_subtree_lists_and_threshold_restrict_the_answer(embedded: Predictor) -> None:
    shallow = with_options(embedded, max_depth=1)(CAT)
    assert words(shallow.path) == ["animal", "domestic animal"]
    assert shallow.stop is not None
    assert shallow.stop.reason == "depth"
    below = with_options(embedded, under=DOMESTIC_CAT)(CAT)
    assert below.path[2].probability == pytest.approx(1)
    assert sum(node.probability for node in below.topk) == pytest.approx(1, abs=1e-5)
    two = with_options(embedded, classes=["n02123045", "n02124075"])(CAT)
    assert words(two.topk) == ["Egyptian cat", "tabby"]
    without = with_options(embedded, exclude=[DOMESTIC_CAT])(CAT)
    assert without.topk[0].name == "lynx"
    assert words(with_options(embedded, threshold=0.1, topk=9)(CAT).topk) == ["tiger cat", "Egyptian cat", "tabby"]
    second = embedded(CAT).topk[1].probability  # a class that is exactly as probable is listed
    assert words(with_options(embedded, threshold=second)(CAT).topk) == ["tiger cat", "Egyptian cat"]
    assert words(with_options(embedded, threshold=float(np.nextafter(second, 1)))(CAT).topk) == ["tiger cat"]
    with pytest.raises(UnknownClass, match="n99999999"):
        with_options(embedded, under="n99999999")


def test_a_restriction_speaks_concepts(embedded: Predictor) -> None:
    mammal = with_options(embedded, under="mammal")(CAT)  # the published tree keeps cats elsewhere
    assert words(mammal.path)[-1] == "domestic cat"
    assert words(mammal.topk)[:3] == ["tiger cat", "Egyptian cat", "tabby"]
    assert mammal.given is not None
    assert mammal.given.probability == pytest.approx(embedded.ask(CAT, "mammal").probability("mammal"), abs=1e-6)
    free = embedded(CAT)
    for given, before in zip(mammal.topk[:4], free.topk[:4], strict=True):
        assert given.wnid == before.wnid
        assert given.probability * mammal.given.probability == pytest.approx(before.probability, abs=1e-6)
    listed = with_options(embedded, classes=["instrumentality", "mammal", "lynx"])
    answer = listed(CAT)
    assert words(answer.topk) == ["mammal", "instrumentality", "lynx"]
    assert answer.given is not None
    before = {node.wnid: node.probability for node in free.topk}["n02127052"]
    assert answer.topk[2].probability * answer.given.probability == pytest.approx(before, abs=1e-6)


def test_a_restriction_takes_names_that_only_one_node_has(embedded: Predictor) -> None:
    assert (
        with_options(embedded, under="domestic cat")(CAT).topk == with_options(embedded, under=DOMESTIC_CAT)(CAT).topk
    )
    assert words(with_options(embedded, classes="Tabby")(CAT).topk) == ["tabby"]
    assert with_options(embedded, exclude=["domestic_cat"])(CAT).topk[0].name == "lynx"
    with pytest.raises(UnknownClass, match=r"'crane' has 2 meanings.*n03126707.*n02012849"):
        with_options(embedded, under="crane")
    with pytest.raises(UnknownClass, match="Near: 'dog'"):
        with_options(embedded, under="dogg")


def test_what_is_no_image_is_named_by_its_type(embedded: Predictor) -> None:
    assert "'image 0' is a Tensor: give a path" in str(embedded(torch.zeros(3, 8, 8)).error)
    (nothing,) = embedded([None])
    assert "'image 0' is a NoneType" in str(nothing.error)
    with pytest.raises(UsageError, match="A NoneType is neither an image nor several"):
        embedded(None)


def test_an_address_is_fetched_unless_the_predictor_is_offline(embedded: Predictor) -> None:
    address = "http://127.0.0.1:9/cat.jpg"  # the discard port: nobody answers
    assert "cannot be reached" in str(embedded(address).error)
    assert "offline" in str(with_options(embedded, offline=True)(address).error)


def test_temperature_flattens_and_counts_as_calibrated(embedded: Predictor) -> None:
    found = with_options(embedded, temperature=2.0)(CAT)
    assert found.topk[0].probability < 0.39
    assert found.stop is not None
    assert found.stop.calibrated


def test_the_row_is_plain_json_with_the_documented_keys(embedded: Predictor) -> None:
    row = json.loads(json.dumps(with_options(embedded, embeddings=True)(CAT).to_dict()))
    assert list(row) == [
        "schema", "input", "status", "error", "model", "label_space", "label_space_sha256", "removed_labels",
        "backend", "device", "dtype", "path", "stop", "topk", "embedding",
    ]  # fmt: skip
    assert (row["schema"], row["status"], row["model"], row["label_space"]) == (1, "ok", "embedded", "in1k")
    assert list(row["topk"][0]) == ["wnid", "name", "probability"]
    assert row["removed_labels"] == "none"
    assert len(row["embedding"]) == 1280
    error = embedded("absent.jpg").to_dict()
    assert (error["status"], error["path"], error["topk"], error["stop"]) == ("error", [], [], None)


def test_image_options_change_what_the_network_sees(embedded: Predictor) -> None:
    larger = with_options(embedded, img_size=288, crop_pct=1.0, interpolation="bilinear", crop_mode="squash")
    assert (larger.preprocess.input_size, larger.preprocess.crop_pct) == ((3, 288, 288), 1.0)
    assert "changed by the user" in larger.preprocess.source
    seen = larger(CAT)
    assert {"tiger cat", "tabby"} & set(words(seen.topk))
    assert seen.topk[0].probability != embedded(CAT).topk[0].probability
    turned = io.BytesIO()
    exif = Image.Exif()
    exif[274] = 6
    load_image(CAT).transpose(Image.Transpose.ROTATE_90).save(turned, "PNG", exif=exif)
    upright = embedded(turned.getvalue())
    assert upright.topk == embedded(load_image(CAT)).topk
    assert with_options(embedded, exif=False)(turned.getvalue()).topk != upright.topk
    assert "limit of 10" in str(with_options(embedded, max_pixels=10)(CAT).error)


def test_options_that_make_no_sense_are_refused() -> None:
    with pytest.raises(UsageError, match="Did you mean 'topk'"):
        changed(PredictOptions(), {"top_k": 3})
    for wrong in (
        *({"topk": 0}, {"hedge": 0.0}, {"hedge": 1.5}, {"workers": -1}, {"threshold": 2}, {"dtype": "fp8"}),
        *({"img_size": 0}, {"img_size": 10**7}, {"crop_pct": 0}, {"crop_pct": float("nan")}),
        *({"interpolation": "nearest"}, {"crop_mode": "corner"}),
    ):
        with pytest.raises(UsageError, match=next(iter(wrong))):
            changed(PredictOptions(), wrong)
    with pytest.raises(UnknownModel, match="tresnet_m"):
        Predictor("tresnet_m_22k")


def test_without_a_name_and_a_network_the_embedded_model_answers_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="miil21k.predict"):
        predictor = Predictor(offline=True, cache_dir=tmp_path, device="cpu")
    assert predictor.origin.model == "embedded"
    assert predictor.notice is not None
    assert "'tresnet_m_21k' is neither cached nor reachable" in predictor.notice
    assert predictor.notice in caplog.text
    with pytest.raises(DownloadError, match="tresnet_m"):
        Predictor("tresnet_m_21k", offline=True, cache_dir=tmp_path)


@pytest.fixture(scope="module")
def fall11_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random head that prefers the classes that ImageNet withdrew."""
    from safetensors.torch import save_file

    from miil21k.hierarchy.load import load_label_space
    from miil21k.hierarchy.spaces import withdrawn_classes
    from miil21k.zoo.registry import create_model

    torch.manual_seed(0)
    model = create_model("mobilenetv3_large_100.miil_in21k")
    state = {key: tensor.contiguous() for key, tensor in model.state_dict().items()}
    removed = torch.tensor(withdrawn_classes(load_label_space("fall11")))
    state["classifier.bias"] = state["classifier.bias"] + 30 * removed
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    save_file(state, path)
    return path


def test_withdrawn_classes_are_masked_unless_they_are_asked_for(fall11_checkpoint: Path) -> None:
    from miil21k.hierarchy.load import load_label_space
    from miil21k.hierarchy.spaces import withdrawn_classes

    space = load_label_space("fall11")
    withdrawn = {space.wnids[i] for i in np.flatnonzero(withdrawn_classes(space))}
    name = "mobilenetv3_large_100_21k"
    options = PredictOptions(checkpoint=fall11_checkpoint, device="cpu", topk=50, hedge=None, levels=True)
    masked = Predictor(name, options=options)
    found = masked(CAT)
    assert masked.origin.removed_labels == "masked"
    assert found.levels is not None
    shown = {node.wnid for node in (*found.path, *found.topk, *(level.node for level in found.levels))}
    assert not shown & withdrawn
    included = Predictor(name, options=options, include_removed_labels=True)
    assert included.origin.removed_labels == "included"
    levels = included(CAT).levels
    assert levels is not None
    assert {level.node.wnid for level in levels} & withdrawn
    winter = Predictor(name, options=options, label_space="winter21")
    answer = winter(CAT)
    assert (winter.origin.label_space, winter.origin.removed_labels) == ("winter21", "none")
    assert {node.wnid for node in answer.topk} <= set(load_label_space("winter21").wnids)
    with pytest.raises(UsageError, match="cannot answer in 'goog21k'"):
        Predictor(name, options=options, label_space="goog21k")


def test_a_named_model_uses_the_checkpoint_and_nothing_else(fall11_checkpoint: Path, tmp_path: Path) -> None:
    predictor = Predictor("mobilenetv3_large_100_21k", checkpoint=fall11_checkpoint, offline=True, cache_dir=tmp_path)
    assert (predictor.origin.model, predictor.notice) == ("mobilenetv3_large_100.miil_in21k", None)
    assert not any(tmp_path.iterdir())
    copy = tmp_path / "copy.safetensors"
    shutil.copy(fall11_checkpoint, copy)
    with pytest.raises(CheckpointError, match="--model"):  # it does not say which model it is of
        Predictor(checkpoint=copy)


def test_predictions_are_frozen(embedded: Predictor) -> None:
    found = embedded(CAT)
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.input = "dog.jpg"  # type: ignore[misc]
    assert loading.DEFAULT_MODEL == "tresnet_m_21k"


def test_folders_globs_and_lists_are_several_images(embedded: Predictor, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        shutil.copy(CAT, tmp_path / name)
    (tmp_path / "list.txt").write_text(f"{COFFEE}\n{tmp_path}\n")
    whole = [str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    assert [found.input for found in embedded.predict(str(tmp_path))] == whole
    assert [found.input for found in embedded.stream(f"{tmp_path}/?.png")] == whole
    assert [found.input for found in embedded.stream([ROCKET, tmp_path])] == [str(ROCKET), *whole]
    assert [found.input for found in embedded.predict(f"@{tmp_path}/list.txt")] == [str(COFFEE), *whole]
    assert embedded.predict(str(tmp_path / "gone.png")).status == "error"
    with pytest.raises(UsageError, match="No images match"):
        embedded.predict(f"{tmp_path}/*.jpg")


def test_a_run_writes_rows_that_it_goes_on_with(embedded: Predictor, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("a.jpg", "deep/b.jpg", "deep/c.jpg"):
        shutil.copy(CAT, tmp_path / name)
    out, vectors = tmp_path / "rows.jsonl", tmp_path / "e.npy"
    first = embedded.run(tmp_path, out, recursive=True, embeddings=vectors)
    assert first[:3] == ("complete", 3, 0)
    inputs = [json.loads(line)["input"] for line in out.read_bytes().splitlines()]
    assert inputs == [str(tmp_path / name) for name in ("a.jpg", "deep/b.jpg", "deep/c.jpg")]
    assert np.load(vectors).shape == (3, 1280)
    assert embedded.run(tmp_path, out, recursive=True, resume=True)[:3] == ("already", 3, 0)
    with pytest.raises(UsageError, match="Did you mean 'recursive'"):
        embedded.run(tmp_path, out, recursiv=True)
    with pytest.raises(UsageError, match="names no format"):
        embedded.run(CAT, tmp_path / "rows.xls")
