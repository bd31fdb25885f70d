from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from miil21k.calibrate.guarantee import calibrate, conformal_threshold, coverage_band, hedge_scores, thresholds_of
from miil21k.calibrate.record import Calibration, load_calibration, mask_digest
from miil21k.calibrate.temperature import fit_temperatures
from miil21k.decode.concept_reading import right_answers
from miil21k.decode.decoder import Decoder
from miil21k.decode.path import decode_path, hedge
from miil21k.decode.probabilities import node_probabilities
from miil21k.errors import LabelSpaceMismatch, UsageError
from miil21k.hierarchy.concepts import concepts_of
from miil21k.hierarchy.load import load_label_space
from miil21k.hierarchy.spaces import OLDER_SPACES, LabelSpace
from miil21k.hierarchy.tree import Tree
from miil21k.metrics.distance import is_correct

if TYPE_CHECKING:
    from miil21k.decode.heads import HeadKind


def _space(tree: Tree, name: str = "toy") -> LabelSpace:
    return LabelSpace(name, tree, tree.names, [""] * tree.num_nodes)


@pytest.fixture
def space() -> LabelSpace:
    """Three roots with three children each, of which the first has two more; every node a class."""
    names, parents = ["a", "b", "c"], [None, None, None]
    for root in "abc":
        names += [f"{root}{i}" for i in range(3)]
        parents += [root] * 3
        names += [f"{root}0{i}" for i in range(2)]
        parents += [f"{root}0"] * 2
    return _space(Tree.from_parents(names, parents))


def _softmax_draw(rng: np.random.Generator, logits: np.ndarray) -> np.ndarray:
    probs = np.exp(logits - logits.max(1, keepdims=True))
    return (probs.cumsum(1) / probs.sum(1, keepdims=True) > rng.random((len(logits), 1))).argmax(1)


def _leaf_problem(rng: np.random.Generator, tree: Tree, n: int, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """Draw logits whose probabilities are right only after division by `temperature`."""
    logits = 1.5 * rng.standard_normal((n, tree.num_classes))
    return (logits * temperature).astype(np.float32), _softmax_draw(rng, logits)


def _correct(tree: Tree, logits: np.ndarray, labels: np.ndarray, found, level: float) -> np.ndarray:
    kind = found.head
    temperature = found.temperature if kind == "level_softmax" else found.temperature[0]
    probs = node_probabilities(tree, logits, kind, temperature=temperature)
    return is_correct(tree, hedge(tree, probs, level).node, labels)


def test_one_temperature_is_recovered_for_a_leaf_softmax_head(space) -> None:
    leaf_only = Tree.from_parents(space.tree.wnids[3:6], [None] * 3)
    logits, labels = _leaf_problem(np.random.default_rng(0), leaf_only, 20_000, 3.0)
    assert fit_temperatures(leaf_only, logits, labels, "leaf_softmax")[0] == pytest.approx(3.0, rel=0.03)


def test_each_level_gets_its_own_temperature(space) -> None:
    tree, rng = space.tree, np.random.default_rng(1)
    flat = np.zeros((20_000, tree.num_classes), np.float32)
    truth = rng.standard_normal(flat.shape)
    for level, factor in zip(tree.levels, (0.5, 2.0, 4.0), strict=True):
        flat[:, level.nodes] = factor * truth[:, level.nodes]
    deep = tree.levels[2].nodes
    labels = deep[_softmax_draw(rng, truth[:, deep])]
    fitted = fit_temperatures(tree, flat, labels, "level_softmax")
    assert fitted[2] == pytest.approx(4.0, rel=0.05)
    few = fit_temperatures(tree, flat[:29], labels[:29], "level_softmax")
    assert few == (1.0, 1.0, 1.0)


def test_a_sigmoid_head_gets_one_temperature(space) -> None:
    tree, rng = Tree.from_parents(list("pqrs"), [None] * 4), np.random.default_rng(2)
    labels = rng.integers(0, 4, 20_000)
    truth = np.where(np.arange(4) == labels[:, None], 1.0, -1.0)
    noisy = np.where(rng.random((20_000, 4)) < 1 / (1 + math.e), -truth, truth)  # right with probability sigmoid(1)
    assert fit_temperatures(tree, 2.5 * noisy, labels, "sigmoid")[0] == pytest.approx(2.5, rel=0.05)


@pytest.mark.parametrize("head", ["leaf_softmax", "level_softmax"])
@pytest.mark.parametrize("scale", [0.5, 4.0, 12.0])
def test_samples_that_are_all_right_make_no_answer_certain(scale: float, head: HeadKind) -> None:
    """60 of 60: an answer is as sure as Platt's 61 / 62, however far apart the logits are."""
    tree = Tree.from_parents(list("pqr"), [None] * 3)
    labels = np.arange(60) % 3
    logits = (scale * np.eye(3)[labels]).astype(np.float32)
    (temperature,) = fit_temperatures(tree, logits, labels, head)
    shares = np.exp(logits / temperature)
    assert (shares.max(1) / shares.sum(1))[0] == pytest.approx(61 / 62, abs=1e-4)


def test_labels_above_the_classes_are_doubted_too_and_a_root_of_all_says_nothing() -> None:
    tree = Tree.from_parents(["p", "q", "r", "s", "pq", "all"], ["pq", "pq", "all", "all", "all", None], num_classes=4)
    logits = np.array([[6, 0, 0, 0]] * 20, np.float32)
    (temperature,) = fit_temperatures(tree, logits, np.full(20, 4), "leaf_softmax")
    assert 0.5 < temperature < 2.5
    assert fit_temperatures(tree, logits, np.full(20, 5), "leaf_softmax") == (1.0,)


def test_a_sigmoid_head_whose_samples_are_all_right_is_not_certain() -> None:
    """Of 20 samples of 4 classes 20 answers are yes and 60 no: on average they are sure of 80 / 82 + 20 / 22."""
    tree = Tree.from_parents(list("pqrs"), [None] * 4)
    labels = np.arange(20) % 4
    logits = np.where(np.arange(4) == labels[:, None], 9.0, -9.0).astype(np.float32)
    (temperature,) = fit_temperatures(tree, logits, labels, "sigmoid")
    assert 1 / (1 + math.exp(-9 / temperature)) == pytest.approx((20 * 21 / 22 + 60 * 61 / 62) / 80, abs=1e-5)


def test_logits_that_hardly_differ_stop_at_the_coldest_temperature() -> None:
    tree = Tree.from_parents(["p", "q"], [None, None])
    labels = np.arange(100) % 2
    logits = np.where(np.arange(2) == labels[:, None], 0.05, -0.05)
    assert fit_temperatures(tree, logits, labels, "leaf_softmax")[0] == pytest.approx(0.05, rel=1e-3)


def test_the_threshold_takes_the_conformal_rank() -> None:
    scores = np.arange(1, 100) / 100  # 99 samples: ranks of 100
    assert conformal_threshold(scores, 0.9) == pytest.approx(0.90, abs=1e-5)
    assert conformal_threshold(scores, 0.99) == pytest.approx(0.99, abs=1e-5)
    assert conformal_threshold(scores, 0.995) == math.inf
    assert conformal_threshold(np.ones(99), 0.9) == math.inf


@pytest.mark.parametrize("head", ["leaf_softmax", "level_softmax", "sigmoid"])
def test_a_score_is_the_least_level_that_makes_the_answer_correct(space, head) -> None:
    tree, rng = space.tree, np.random.default_rng(3)
    logits = 2 * rng.standard_normal((400, tree.num_classes)).astype(np.float32)
    labels = rng.integers(0, tree.num_classes, 400)
    probs = node_probabilities(tree, logits, head)
    scores = hedge_scores(tree, decode_path(tree, probs), labels)
    assert 0 < (scores > 0).mean() <= 1
    for row in range(400):
        one, label = probs[row : row + 1], labels[row : row + 1]
        above = scores[row] + 2e-6
        if above <= 1:
            assert is_correct(tree, hedge(tree, one, above).node, label)[0]
        if scores[row] > 0:
            assert not is_correct(tree, hedge(tree, one, float(scores[row])).node, label)[0]


@pytest.mark.parametrize("head", ["leaf_softmax", "level_softmax"])
def test_the_guarantee_holds_on_held_out_samples(space, head) -> None:
    tree, share = space.tree, {0.9: [], 0.95: []}
    for seed in range(60):
        rng = np.random.default_rng(seed)
        logits, labels = _leaf_problem(rng, tree, 700, 2.0)  # overconfident; wrong model for level_softmax
        found = calibrate(Decoder(space, head), logits[:200], labels[:200], accuracies=(0.9, 0.95), seed=seed)
        for accuracy, kept in share.items():
            kept.append(_correct(tree, logits[200:], labels[200:], found, found.threshold(accuracy)).mean())
    for accuracy, kept in share.items():
        error = np.std(kept) / math.sqrt(len(kept))
        assert np.mean(kept) >= accuracy - 3 * error
        assert np.mean(kept) <= accuracy + 0.02 + 3 * error  # not bought by never answering


def test_the_band_is_that_of_repeated_draws() -> None:
    assert coverage_band(500, 0.9) == pytest.approx((0.8773, 0.9213), abs=1e-4)
    rng, count = np.random.default_rng(0), 99
    # The coverage of a threshold at the k-th smallest of uniform scores is that score.
    kept = np.sort(rng.random((20_000, count)), axis=1)[:, math.ceil((count + 1) * 0.9) - 1]
    assert coverage_band(count, 0.9) == pytest.approx(np.quantile(kept, [0.05, 0.95]), abs=3e-3)
    assert coverage_band(count, 0.9, 0.5) == pytest.approx(np.quantile(kept, [0.25, 0.75]), abs=3e-3)


@pytest.mark.parametrize("head", ["leaf_softmax", "sigmoid"])
def test_a_calibration_says_how_much_it_answered_and_how_often_rightly(space, head) -> None:
    logits, labels = _leaf_problem(np.random.default_rng(4), space.tree, 300, 2.0)
    found = calibrate(Decoder(space, head), logits, labels, accuracies=(0.8, 0.9), seed=3)
    second = np.array_split(np.random.default_rng(3).permutation(300), 2)[1]
    for (accuracy, level), outcome in zip(found.thresholds, found.outcomes, strict=True):
        decoder = Decoder(space, head, temperature=found.temperature[0], hedge=level)
        nodes = decoder.read(logits[second]).hedged.node
        right = is_correct(space.tree, nodes, labels[second])
        assert outcome == pytest.approx((accuracy, (nodes >= 0).mean(), right[nodes >= 0].mean()))
        assert right.mean() >= accuracy  # no answer counts as right
        assert outcome[1] < 1


def test_too_few_samples_leave_an_accuracy_out_and_the_message_says_so(space) -> None:
    logits, labels = _leaf_problem(np.random.default_rng(0), space.tree, 40, 1.0)
    found = calibrate(Decoder(space, "leaf_softmax"), logits, labels, accuracies=(0.8, 0.99))
    assert [accuracy for accuracy, _ in found.thresholds] == [0.8]
    with pytest.raises(UsageError, match=r"only for 0\.8"):
        found.threshold(0.99)


def test_a_calibration_file_has_equal_bytes_and_comes_back_equal(space, tmp_path) -> None:
    logits, labels = _leaf_problem(np.random.default_rng(0), space.tree, 200, 1.0)
    decoder = Decoder(space, "level_softmax")
    made = [calibrate(decoder, logits, labels, model="net.toy", weights="ab" * 32) for _ in range(2)]
    for place, found in enumerate(made):
        found.save(tmp_path / f"{place}.json")
    assert (tmp_path / "0.json").read_bytes() == (tmp_path / "1.json").read_bytes()
    assert load_calibration(tmp_path / "0.json") == made[0]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0.json", "1.json"]


def test_another_space_head_or_mask_is_refused(space, zoo_tree) -> None:
    logits, labels = _leaf_problem(np.random.default_rng(0), space.tree, 60, 1.0)
    allowed = np.ones(space.num_classes, bool)
    found = calibrate(Decoder(space, "leaf_softmax").restricted_to(allowed, "all"), logits, labels)
    found.require(space, "leaf_softmax")
    with pytest.raises(LabelSpaceMismatch, match="label space 'toy'"):
        found.require(_space(zoo_tree, "zoo"), "leaf_softmax")
    with pytest.raises(LabelSpaceMismatch, match="leaf_softmax head"):
        found.require(space, "sigmoid")
    allowed[0] = False
    with pytest.raises(
        LabelSpaceMismatch, match=r"allowed classes.* a list\): calibrate with the classes that will be allowed\.$"
    ):
        found.require(space, "leaf_softmax", allowed)
    older = replace(found, label_space="goog21k", sha256=OLDER_SPACES["goog21k@1"].sha256)
    with pytest.raises(LabelSpaceMismatch, match=r"'goog21k' was changed: 19 of its roots .*--label-space goog21k@1"):
        older.require(load_label_space("goog21k"), "leaf_softmax")
    older.require(load_label_space("goog21k@1"), "leaf_softmax")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "no calibration file"),
        ({"version": 2}, "another version"),
        ({"temperature": [0.0]}, "damaged"),
        ({"thresholds": [[0.9, 1.5]]}, "damaged"),
        ({"outcomes": [[0.9, 0.5, 1.5]]}, "damaged"),
        ({"head": "softmax"}, "damaged"),
        ({"surprise": "x"}, "damaged"),
    ],
)
def test_damaged_files_are_refused(space, tmp_path, change, message) -> None:
    logits, labels = _leaf_problem(np.random.default_rng(0), space.tree, 60, 1.0)
    data = json.loads(calibrate(Decoder(space, "leaf_softmax"), logits, labels).to_json()) | change
    path = tmp_path / "c.json"
    path.write_text(json.dumps(data))
    with pytest.raises(UsageError, match=message):
        load_calibration(path)


def test_text_that_is_no_json_is_refused(tmp_path) -> None:
    (tmp_path / "c.json").write_text("{")
    with pytest.raises(UsageError, match="no calibration file"):
        load_calibration(tmp_path / "c.json")


def test_labels_out_of_range_and_odd_accuracies_are_refused(space) -> None:
    logits, labels = _leaf_problem(np.random.default_rng(0), space.tree, 10, 1.0)
    decoder = Decoder(space, "leaf_softmax")
    with pytest.raises(UsageError, match="Labels must lie"):
        calibrate(decoder, logits, labels - 50)
    with pytest.raises(UsageError, match="between 0 and 1"):
        calibrate(Decoder(space, "leaf_softmax"), logits, labels, accuracies=(1.0,))
    with pytest.raises(UsageError, match="at least four"):
        calibrate(decoder, logits[:3], labels[:3])


def test_labels_must_be_integers_one_per_row_and_nodes_of_the_tree(space) -> None:
    logits, labels = _leaf_problem(np.random.default_rng(0), space.tree, 10, 1.0)
    decoder = Decoder(space, "leaf_softmax")
    for wrong, words in (
        (labels[:9], r"Expected 10 integer labels, not int64 \[9\]"),
        (labels[:, None], r"not int64 \[10, 1\]"),
        (labels.astype(float), r"not float64 \[10\]"),
        (np.full(10, space.tree.num_nodes), rf"in 0\.\.{space.tree.num_nodes - 1}, not {space.tree.num_nodes}\.\."),
        (np.arange(10) - 1, r"not -1\.\.8"),
    ):
        with pytest.raises(UsageError, match=words):
            calibrate(decoder, logits, wrong)
    calibrate(decoder, logits, np.repeat([0, space.tree.num_nodes - 1], 5))


@pytest.mark.parametrize("head", ["leaf_softmax", "level_softmax"])
def test_a_calibration_records_what_it_was_made_of(space, head) -> None:
    logits, labels = _leaf_problem(np.random.default_rng(0), space.tree, 301, 2.0)
    found = calibrate(Decoder(space, head, hedge=0.3), logits, labels, model="net.toy", weights="ab" * 32)
    assert (found.label_space, found.sha256, found.head) == ("toy", space.sha256, head)
    assert (found.model, found.weights, found.allowed) == ("net.toy", "ab" * 32, mask_digest(None))
    assert found.rule == ("coherent" if head == "level_softmax" else "")
    assert found.samples == (151, 150)
    assert [accuracy for accuracy, _ in found.thresholds] == [0.8, 0.9, 0.95, 0.99]
    assert [level for _, level in found.thresholds] == sorted(level for _, level in found.thresholds)
    plain = calibrate(Decoder(space, head), logits, labels)
    assert (plain.model, plain.weights) == ("", "")
    assert replace(plain, model="net.toy", weights="ab" * 32) == found  # the hedge level plays no part
    assert calibrate(Decoder(space, head), logits, labels, seed=0) == plain
    assert calibrate(Decoder(space, head), logits, labels, seed=1) != plain
    twice = calibrate(Decoder(space, head), logits, labels, accuracies=(0.9, 0.8, 0.9))
    assert twice.thresholds == plain.thresholds[:2]


def test_four_samples_are_enough_to_begin_with(space) -> None:
    logits, labels = _leaf_problem(np.random.default_rng(0), space.tree, 4, 1.0)
    found = calibrate(Decoder(space, "leaf_softmax"), logits, labels)
    assert (found.samples, found.thresholds) == ((2, 2), ())


def test_what_is_right_lies_on_the_branch_of_the_label(zoo_tree) -> None:
    """One chain, animal > dog > husky; its score is the probability of the first node off the label's branch."""
    names = ("animal", "dog", "husky", "pug", "cat", "car")
    labels = np.array([zoo_tree.index(name) for name in names])
    logits = np.zeros((6, 7), np.float32)
    logits[:, zoo_tree.index("husky")] = 3
    paths = decode_path(zoo_tree, node_probabilities(zoo_tree, logits, "leaf_softmax"))
    animal, dog, husky = paths.probs[0, :3].tolist()
    assert hedge_scores(zoo_tree, paths, labels).tolist() == [0, 0, 0, husky, dog, animal]


def test_one_calibration_serves_both_readings_and_each_keeps_its_promise() -> None:
    space = load_label_space("in1k")
    rng = np.random.default_rng(0)
    logits = (4 * rng.standard_normal((2400, 1000))).astype(np.float32)
    labels = _softmax_draw(rng, logits / 1.5)
    found = calibrate(Decoder(space, "leaf_softmax"), logits[:1200], labels[:1200], accuracies=(0.8, 0.9))
    graph = concepts_of(space)
    assert found.concepts == graph.sha256
    assert found.min_bits == 1
    assert found.threshold(0.9, "concepts") != found.threshold(0.9)
    for (accuracy, answered, right), (_, level) in zip(found.concept_outcomes, found.concept_thresholds, strict=True):
        decoder = Decoder(space, "leaf_softmax", hedge=accuracy, reading="concepts").calibrated(found)
        assert decoder.level == level
        answers = decoder.read(logits[1200:]).hedged.node
        fine = right_answers(graph, answers, labels[1200:])
        assert fine.mean() == pytest.approx(accuracy, abs=0.05)
        shown = answers >= 0
        assert shown.mean() == pytest.approx(answered, abs=0.05)
        assert fine[shown].mean() == pytest.approx(right, abs=0.05)


def test_a_calibration_is_refused_for_concepts_that_it_does_not_know() -> None:
    space = load_label_space("in1k")
    rng = np.random.default_rng(0)
    logits = (4 * rng.standard_normal((60, 1000))).astype(np.float32)
    found = calibrate(Decoder(space, "leaf_softmax"), logits, logits.argmax(1), accuracies=(0.8,), model="resnet50.bit")
    decoder = Decoder(space, "leaf_softmax", hedge=0.8, reading="concepts")
    with pytest.raises(UsageError, match=r"make one that does: miil21k calibrate DATA --model resnet50\.bit"):
        decoder.calibrated(replace(found, concepts="", concept_thresholds=()))
    other = (
        rf"^The calibration was made with another graph of concepts \(000000000000\) than that of 'in1k' here "
        rf"\({concepts_of(space).sha256[:12]}\): calibrate again: miil21k calibrate DATA --model resnet50\.bit "
        r"--output FILE$"
    )
    with pytest.raises(LabelSpaceMismatch, match=other):
        decoder.calibrated(replace(found, concepts="0" * 64))
    with pytest.raises(UsageError, match=r"at least 1 bits: ask for no less than that, not 0\.5"):
        replace(decoder, min_bits=0.5).calibrated(found)
    with pytest.raises(UsageError, match=r"accuracy 0\.7 of answers on concepts, only for 0\.8"):
        replace(decoder, hedge=0.7).calibrated(found)
    assert replace(decoder, reading="published").calibrated(replace(found, concepts="")).level == found.threshold(0.8)


def test_a_file_keeps_what_it_knows_of_concepts(tmp_path, space) -> None:
    logits, labels = _leaf_problem(np.random.default_rng(0), space.tree, 200, 1.0)
    found = calibrate(Decoder(space, "leaf_softmax", min_bits=0), logits, labels, accuracies=(0.5, 0.6))
    found.save(tmp_path / "c.json")
    assert load_calibration(tmp_path / "c.json") == found
    assert found.concept_thresholds
    data = json.loads((tmp_path / "c.json").read_text())
    for key in ("concepts", "concept_thresholds", "concept_outcomes", "min_bits"):
        del data[key]
    (tmp_path / "c.json").write_text(json.dumps(data))
    older = load_calibration(tmp_path / "c.json")
    assert (older.concepts, older.concept_thresholds, older.min_bits) == ("", (), 1)
    (tmp_path / "c.json").write_text(json.dumps(data | {"min_bits": -1}))
    with pytest.raises(UsageError, match="damaged calibration"):
        load_calibration(tmp_path / "c.json")


@pytest.mark.parametrize("head", ["leaf_softmax", "level_softmax", "sigmoid"])
def test_the_levels_are_those_of_the_second_half_at_the_temperatures_of_the_first(space, head) -> None:
    rng, depths = np.random.default_rng(7), np.array([1.0, 4.0, 0.5])
    scale = depths[space.tree.depth[: space.num_classes]] if head == "level_softmax" else 2.0
    logits = rng.normal(size=(400, space.num_classes)) * 3
    labels = (logits + rng.normal(size=logits.shape)).argmax(1)
    found = calibrate(Decoder(space, head), logits * scale, labels, accuracies=(0.7, 0.8), seed=5)
    second = np.array_split(np.random.default_rng(5).permutation(400), 2)[1]
    temperature = found.temperature if head == "level_softmax" else found.temperature[0]
    fitted = Decoder(space, head, temperature=temperature, hedge=None)
    scores = hedge_scores(space.tree, fitted.read((logits * scale)[second]).path, labels[second])
    assert found.thresholds == thresholds_of(scores, (0.7, 0.8))
    assert found.samples == (200, 200)


WHOLE = Calibration(
    label_space="toy",
    sha256="ab" * 32,
    model="net.toy",
    weights="cd" * 32,
    head="level_softmax",
    rule="min",
    allowed="ef" * 32,
    temperature=(1.0, 2.5),
    thresholds=((0.9, 0.5),),
    samples=(3, 4),
    outcomes=((0.9, 0.75, 1.0),),
    concepts="01" * 32,
    concept_thresholds=((0.8, 0.25),),
    concept_outcomes=((0.8, 0.5, 0.875),),
    min_bits=2.0,
    bins="23" * 32,
    bin_thresholds=((0.7, 1.0),),
    bin_outcomes=((0.7, 0.0, 1.0),),
)


def test_a_file_keeps_every_field_under_its_own_name_in_one_order(tmp_path) -> None:
    text = WHOLE.to_json()
    assert text.startswith(f'{{\n  "allowed": "{WHOLE.allowed}",\n  "bin_outcomes": [\n    [\n      0.7,\n')
    assert text.endswith('  ],\n  "version": 1,\n' + f'  "weights": "{WHOLE.weights}"\n}}\n')
    fields = json.loads(text)
    assert list(fields) == sorted(fields)
    assert fields.pop("format") == "miil21k-calibration"
    assert fields.pop("version") == 1
    assert fields == json.loads(json.dumps(asdict(WHOLE)))
    WHOLE.save(tmp_path / "c.json")
    assert load_calibration(tmp_path / "c.json") == WHOLE


def test_a_file_of_fewer_fields_knows_less(tmp_path) -> None:
    path, fields = tmp_path / "c.json", json.loads(WHOLE.to_json())
    later = ("outcomes", "concepts", "concept_thresholds", "concept_outcomes", "min_bits")
    for name in (*later, "bins", "bin_thresholds", "bin_outcomes"):
        del fields[name]
    path.write_text(json.dumps(fields))
    found = load_calibration(path)
    assert (found.outcomes, found.concepts, found.concept_thresholds, found.concept_outcomes) == ((), "", (), ())
    assert (found.min_bits, found.bins, found.bin_thresholds, found.bin_outcomes) == (1.0, "", (), ())
    assert found.thresholds == WHOLE.thresholds
    assert [found.knows(reading) for reading in ("published", "concepts", "bins")] == [True, False, False]
    assert [WHOLE.knows(reading) for reading in ("published", "concepts", "bins")] == [True, True, True]
    assert not replace(WHOLE, thresholds=()).knows("published")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"temperature": [0.0, 1.0]}, "temperatures (0.0, 1.0)"),
        ({"thresholds": [[0.9, 0.0]]}, "thresholds ((0.9, 0.0),), ((0.8, 0.25),), ((0.7, 1.0),)"),
        ({"bin_thresholds": [[1.0, 0.5]]}, "thresholds ((0.9, 0.5),), ((0.8, 0.25),), ((1.0, 0.5),)"),
        ({"concept_thresholds": [[0.0, 0.5]]}, "thresholds ((0.9, 0.5),), ((0.0, 0.5),), ((0.7, 1.0),)"),
        (
            {"bin_outcomes": [[0.7, -0.1, 1]]},
            "outcomes ((0.9, 0.75, 1.0),), ((0.8, 0.5, 0.875),), ((0.7, -0.1, 1.0),)",
        ),
        ({"min_bits": -1}, "min_bits -1.0"),
        ({"head": "softmax"}, "head 'softmax'"),
        ({"rule": 3}, "head 'level_softmax'"),
    ],
)
def test_a_damaged_field_is_named_with_its_value(tmp_path, change, reason) -> None:
    path = tmp_path / "c.json"
    path.write_text(json.dumps(json.loads(WHOLE.to_json()) | change))
    with pytest.raises(UsageError) as caught:
        load_calibration(path)
    assert str(caught.value) == f"{path} is a damaged calibration ({reason}): calibrate again."


def test_what_is_no_calibration_of_this_version_says_so(tmp_path) -> None:
    path, fields = tmp_path / "c.json", json.loads(WHOLE.to_json())
    no = f"{path} is no calibration file: "
    for text, message in (
        ("{", f"{no}it is not JSON."),
        ("[]", f"{no}it lacks 'format': 'miil21k-calibration'."),
        (json.dumps({**fields, "format": "x"}), f"{no}it lacks 'format': 'miil21k-calibration'."),
        (json.dumps({**fields, "version": 2}), f"{path} is a calibration of another version than 1: calibrate again."),
    ):
        path.write_text(text)
        with pytest.raises(UsageError) as caught:
            load_calibration(path)
        assert str(caught.value) == message
    with pytest.raises(UsageError) as caught:
        load_calibration(tmp_path / "absent.json")
    assert str(caught.value) == f"The calibration {tmp_path / 'absent.json'} cannot be read: No such file or directory."


def test_an_accuracy_without_a_level_says_which_there_are() -> None:
    only = (
        "ask for one of these, or calibrate again with it (an accuracy that the samples could not guarantee was left "
        "out)."
    )
    known = (("published", "", 0.9), ("concepts", " of answers on concepts", 0.8), ("bins", " of bins", 0.7))
    for reading, where, held in known:
        assert WHOLE.threshold(held, reading) == {0.9: 0.5, 0.8: 0.25, 0.7: 1.0}[held]
        with pytest.raises(UsageError) as caught:
            WHOLE.threshold(0.6, reading)
        assert str(caught.value) == (
            f"This calibration holds no threshold for accuracy 0.6{where}, only for {held}: {only}"
        )
    assert repr(WHOLE) == "Calibration('net.toy', toy, level_softmax, right at least: 0.9)"
    assert repr(replace(WHOLE, thresholds=(), concept_thresholds=(), bin_thresholds=())).endswith("at least: none)")


@pytest.mark.parametrize("head", ["leaf_softmax", "level_softmax"])
def test_blocks_of_rows_change_nothing_and_the_floor_is_that_of_the_decoder(space, head, monkeypatch) -> None:
    logits, labels = _leaf_problem(np.random.default_rng(2), space.tree, 90, 1.0)
    decoder = replace(Decoder(space, head), min_bits=0.5)
    whole = calibrate(decoder, logits, labels, accuracies=(0.6, 0.8))
    assert len(whole.thresholds) == len(whole.concept_thresholds) == 2
    assert whole.min_bits == 0.5
    sizes: list[int] = []

    def blocks(rows: np.ndarray, _: int) -> list[np.ndarray]:
        found = np.array_split(rows, 4)
        sizes.extend(part.size for part in found)
        return found

    monkeypatch.setattr("miil21k.calibrate.guarantee.row_blocks", blocks)
    assert calibrate(decoder, logits, labels, accuracies=(0.6, 0.8)) == whole
    assert sizes == [12, 11, 11, 11] * 2
    assert all(isinstance(share, float) for outcome in whole.concept_outcomes for share in outcome)


def test_a_level_may_be_one_and_no_more() -> None:
    assert conformal_threshold(np.full(9, 1 - 2e-6), 0.9) == 1.0
    assert conformal_threshold(np.full(9, 1 - 1e-6), 0.9) == math.inf
    assert conformal_threshold(np.full(8, 0.5), 0.9) == math.inf  # nine samples are the fewest


def test_a_level_of_two_classes_gets_a_temperature_of_its_own() -> None:
    rng, pair = np.random.default_rng(0), Tree.from_parents(["a", "b"], [None, None])
    logits = 2 * rng.standard_normal((4000, 2))
    labels = _softmax_draw(rng, logits)
    found = fit_temperatures(pair, (3 * logits).astype(np.float32), labels, "level_softmax")
    assert found == (pytest.approx(3, rel=0.1),)
