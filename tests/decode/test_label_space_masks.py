import numpy as np
import pytest

from miil21k.decode.levels import decode_levels
from miil21k.decode.path import decode_path, hedge
from miil21k.decode.probabilities import class_probabilities, probabilities
from miil21k.decode.topk import topk_classes, topk_paths
from miil21k.hierarchy.load import load_label_space
from miil21k.hierarchy.spaces import projection, withdrawn_classes

FALL11 = load_label_space("fall11")
WINTER21 = load_label_space("winter21")
WITHDRAWN = withdrawn_classes(FALL11)
LOGITS = (3 * np.random.default_rng(0).standard_normal((4, 11221))).astype(np.float32)
LOGITS[:2, WITHDRAWN] += 20  # two rows that would answer with a withdrawn class


@pytest.mark.parametrize("head", ["leaf_softmax", "sigmoid", "level_softmax"])
def test_the_771_withdrawn_classes_of_fall11_get_0_and_are_never_shown(head: str) -> None:
    withdrawn = np.flatnonzero(WITHDRAWN)
    assert withdrawn.size == 771
    found = probabilities(FALL11.tree, LOGITS, head, allowed=~WITHDRAWN)
    assert (found.classes[:, withdrawn] == 0).all()
    assert (found.classes[:, ~WITHDRAWN] > 0).mean() > 0.5
    top, paths = topk_paths(FALL11.tree, found, 50, withdrawn=WITHDRAWN)
    hedged = hedge(FALL11.tree, found.nodes, 0.3, withdrawn=WITHDRAWN)
    for shown in (top.classes, paths.nodes, hedged.node, hedged.refused, hedged.runner_up, hedged.paths.nodes):
        assert not np.isin(shown, withdrawn).any()


def test_withdrawn_classes_win_no_level() -> None:
    found = decode_levels(FALL11.tree, LOGITS, allowed=~WITHDRAWN)
    assert not np.isin(found.nodes, np.flatnonzero(WITHDRAWN)).any()
    assert np.isin(decode_levels(FALL11.tree, LOGITS).nodes, np.flatnonzero(WITHDRAWN)).any()


def test_below_a_removed_class_its_remaining_children_can_still_be_reached() -> None:
    inner = [c for c in np.flatnonzero(WITHDRAWN) if not WITHDRAWN[FALL11.tree.children(int(c))].all()]
    assert len(inner) > 10
    child = next(int(c) for c in FALL11.tree.children(int(inner[0])) if not WITHDRAWN[c])
    logits = np.zeros((1, 11221), np.float32)
    logits[0, child] = 30
    nodes = probabilities(FALL11.tree, logits, "leaf_softmax", allowed=~WITHDRAWN).nodes
    path = decode_path(FALL11.tree, nodes, withdrawn=WITHDRAWN)
    steps = path.nodes[0, : path.length[0]].tolist()
    assert child in steps
    assert inner[0] not in steps


def test_fall11_logits_projected_to_winter21_answer_bit_equally() -> None:
    index = projection(FALL11, WINTER21)
    projected = LOGITS[:, index]
    masked = class_probabilities(FALL11.tree, LOGITS, "sigmoid", allowed=~WITHDRAWN)
    assert np.array_equal(class_probabilities(WINTER21.tree, projected, "sigmoid"), masked[:, index])
    masked = class_probabilities(FALL11.tree, LOGITS, "leaf_softmax", allowed=~WITHDRAWN)
    plain = class_probabilities(WINTER21.tree, projected, "leaf_softmax")
    np.testing.assert_allclose(plain, masked[:, index], rtol=1e-5, atol=1e-12)
    ours = topk_classes(masked, 5).classes
    theirs = topk_classes(plain, 5).classes
    assert [[FALL11.wnids[c] for c in row] for row in ours] == [[WINTER21.wnids[c] for c in row] for row in theirs]
