from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from shapes import shape_space, write_folders

from miil21k.data.datasets import open_source
from miil21k.errors import LabelSpaceMismatch, UsageError
from miil21k.validate.inference import Scored
from miil21k.validate.mapped import MappedCard, read_class_map, view_of_map
from miil21k.validate.score import Scorecard
from miil21k.validate.views import choose_view

if TYPE_CHECKING:
    from pathlib import Path

SPACE = shape_space()
MAP = "label,class\nhot,red_circle\nhot,red_square\nhot,yellow\nice,blue_circle\nice,blue\nleaf,green\n"


def logits(*best: tuple[str, ...]) -> np.ndarray:
    """Return logits whose classes rank as named, first best."""
    found = np.zeros((len(best), SPACE.num_classes), np.float32)
    for row, names in enumerate(best):
        for place, name in enumerate(names):
            found[row, SPACE.tree.index(name)] = 20 - 2 * place
    return found


def test_many_classes_mean_one_label_by_hand(tmp_path: Path) -> None:
    root = write_folders(tmp_path / "x", 1, names=("red", "blue", "warm"))
    for old, new in (("red", "hot"), ("blue", "ice"), ("warm", "sand")):
        (root / old).rename(root / new)
    (tmp_path / "map.csv").write_text(MAP)
    found = read_class_map(str(tmp_path / "map.csv"), SPACE)
    assert found.labels == ("hot", "ice", "leaf")
    view = view_of_map(open_source(str(root)), SPACE, found, present=False)
    assert view.notes == ("1 class folders are meant by no class and were left out: sand.",)
    answers = logits(
        ("red_circle",),  # hot: right
        ("warm", "red_square"),  # means nothing, the second means hot: among five
        ("green", "yellow"),  # leaf, of which there is no image; the second means hot
        ("blue", "red"),  # ice: right
    )
    batch = Scored(answers, np.array([0, 0, 0, 1], np.int32), np.array([0, 0, 0, 1]))
    card = MappedCard(view.decoder(SPACE, "leaf_softmax"), found)
    card.update(batch)
    metrics = card.metrics()["mapped"]
    assert metrics == {"top1": 0.5, "top5": 1.0, "label_mean": pytest.approx((1 / 3 + 1) / 2), "unmapped": 0.25}
    present = view_of_map(open_source(str(root)), SPACE, found, present=True)
    card = MappedCard(present.decoder(SPACE, "leaf_softmax"), found)
    card.update(batch)
    assert card.metrics()["mapped"] == {"top1": 1.0, "top5": 1.0, "label_mean": 1.0, "unmapped": 0.0}
    weighted = MappedCard(view.decoder(SPACE, "leaf_softmax"), found, np.array([2.0, 3.0]))
    weighted.update(batch)  # hot counts twice, ice thrice: (2 + 3) / 9
    assert weighted.metrics()["mapped"]["top1"] == pytest.approx(5 / 9)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("class,label\nred,hot\nred,ice\n", "line 3: the class 'red' means two labels"),
        ("class,label\nqwerty,hot\n", "line 2: 'qwerty' is no class of 'shapes'"),
        ("class,label\n14,hot\n", "line 2: '14' is no class of 'shapes'"),
        ("class,name\nred,hot\n", "must have one column for the label, called label or dataset_class or folder"),
    ],
)
def test_a_map_that_does_not_fit_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "map.csv").write_text(text)
    with pytest.raises(UsageError, match=sentence):
        read_class_map(str(tmp_path / "map.csv"), SPACE)


def test_only_classes_that_are_present_can_be_the_answer(tmp_path: Path) -> None:
    root = write_folders(tmp_path, 1, names=("red", "blue"))
    answers = logits(("warm", "red", "blue"), ("green", "red", "blue"), ("yellow", "cold", "blue"))
    batch = Scored(answers, np.array([SPACE.tree.index(name) for name in ("red", "blue", "blue")]), np.arange(3))
    top1 = {}
    for present in (False, True):
        view = choose_view(open_source(str(root)), SPACE, present=present)
        card = Scorecard(view.decoder(SPACE, "leaf_softmax"))
        card.update(batch)
        top1[present] = card.metrics()["flat"]["top1"]
    assert top1 == {False: 0, True: pytest.approx(2 / 3)}
    (tmp_path / "map.csv").write_text(MAP)
    found = read_class_map(str(tmp_path / "map.csv"), SPACE)
    with pytest.raises(LabelSpaceMismatch, match="No class means any"):
        view_of_map(open_source(str(root)), SPACE, found, present=True)
