"""The published tree file: read without running it, and equal to ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from miil21k.errors import TreeError
from miil21k.hierarchy.load import load_label_space

if TYPE_CHECKING:
    from pathlib import Path

    from miil21k.hierarchy.spaces import LabelSpace


def content(space: LabelSpace) -> dict[str, Any]:
    """Return the dict that the official file of `space` holds."""
    tree = space.tree
    return {
        "class_list": list(tree.wnids),
        "class_tree_list": [list(reversed(tree.path(n))) for n in range(tree.num_nodes)],
        "class_description": {w: n.replace(" ", "_") for w, n in zip(tree.wnids, tree.names, strict=True)},
        "child_2_parent": {w: tree.wnids[p] for w, p in zip(tree.wnids, tree.parent.tolist(), strict=True) if p >= 0},
    }


MUST_BEGIN = "of 'class_tree_list' must be a list that begins with"
NO_TREE = " is no official tree: expected a dict with class_description, class_list, class_tree_list."


def saved(folder: Path, value: object) -> Path:
    path = folder / "imagenet21k_miil_tree.pth"
    torch.save(value, path)
    return path


def test_the_official_file_of_winter21_equals_ours(tmp_path: Path, winter21: LabelSpace) -> None:
    loaded = load_label_space(saved(tmp_path, content(winter21)))
    assert loaded.name == "winter21"
    assert loaded.sha256 == winter21.sha256
    assert loaded.tree.names == winter21.tree.names
    assert loaded.glosses == winter21.glosses


def test_another_tree_over_the_same_classes_replaces_ours(tmp_path: Path, winter21: LabelSpace) -> None:
    value = content(winter21)
    value["class_tree_list"] = [[n] for n in range(10450)]
    loaded = load_label_space(saved(tmp_path, value))
    assert (loaded.name, len(loaded.tree.roots)) == ("winter21", 10450)
    assert loaded.sha256 != winter21.sha256


def test_other_classes_take_the_name_of_the_file(tmp_path: Path) -> None:
    value = {
        "class_list": ["n1", "n2"],
        "class_tree_list": [[0, 1], [1]],
        "class_description": {"n1": "big_cat", "n2": "animal"},
    }
    loaded = load_label_space(saved(tmp_path, value))
    assert (loaded.name, loaded.tree.names) == ("imagenet21k_miil_tree", ("big cat", "animal"))
    assert loaded.tree.parent.tolist() == [1, -1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class_tree_list": [[0, 1]]}, ": 'class_list' and 'class_tree_list' must be lists of one length."),
        ({"class_list": ("n1", "n2")}, ": 'class_list' and 'class_tree_list' must be lists of one length."),
        ({"class_tree_list": ([0, 1], [1])}, ": 'class_list' and 'class_tree_list' must be lists of one length."),
        ({"class_tree_list": [[0, 1], [0]]}, f": entry 1 {MUST_BEGIN} 1."),
        ({"class_tree_list": [[0, 1], (1,)]}, f": entry 1 {MUST_BEGIN} 1."),
        ({"class_tree_list": [[], [1]]}, f": entry 0 {MUST_BEGIN} 0."),
        ({"class_tree_list": [[0, 1, 0], [1]]}, ": the chain of 'n1' contradicts the chains of its ancestors."),
        ({"class_description": None}, NO_TREE),
        ({"class_description": ["n1", "n2"]}, NO_TREE),
    ],
)
def test_a_damaged_tree_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    value = {"class_list": ["n1", "n2"], "class_tree_list": [[0, 1], [1]], "class_description": {}}
    path = saved(tmp_path, value | change)
    with pytest.raises(TreeError) as caught:
        load_label_space(path)
    assert str(caught.value) == f"{path}{message}"


@pytest.mark.parametrize("missing", ["class_list", "class_tree_list", "class_description"])
def test_a_file_that_lacks_a_part_is_no_official_tree(tmp_path: Path, missing: str) -> None:
    value = {"class_list": ["n1"], "class_tree_list": [[0]], "class_description": {}}
    assert load_label_space(saved(tmp_path, value)).tree.names == ("n1",)  # not described: its wnid
    del value[missing]
    for content in (value, list(value)):
        path = saved(tmp_path, content)
        with pytest.raises(TreeError) as caught:
            load_label_space(path)
        assert str(caught.value) == f"{path}{NO_TREE}"


@pytest.mark.parametrize(
    ("chains", "message"), [([[0, 1], [1, 0]], "cycle"), ([[0, 7], [1]], "parent of 'n1' is 7, outside -1..1")]
)
def test_chains_that_are_no_forest_are_refused(tmp_path: Path, chains: list[list[int]], message: str) -> None:
    value = {"class_list": ["n1", "n2"], "class_tree_list": chains, "class_description": {}}
    with pytest.raises(TreeError, match=message):
        load_label_space(saved(tmp_path, value))


class Hostile:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (self.mark.touch, ())


def test_a_hostile_pickle_is_refused_and_not_run(tmp_path: Path, winter21: LabelSpace) -> None:
    mark = tmp_path / "was_run"
    path = saved(tmp_path, content(winter21) | {"class_description": Hostile(mark)})
    with pytest.raises(TreeError, match="cannot be loaded safely"):
        load_label_space(path)
    assert not mark.exists()
    torch.load(path, weights_only=False)
    assert mark.exists()  # so the file was hostile indeed


def test_a_file_that_is_no_pickle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tree.pth"
    kinds = {b"": "EOFError", b"<html>403</html>": "UnpicklingError", b"PK\x03\x04broken": "RuntimeError"}
    for junk, kind in kinds.items():
        path.write_bytes(junk)
        with pytest.raises(TreeError) as caught:
            load_label_space(path)
        assert str(caught.value) == (
            f"{path} cannot be loaded safely ({kind}): it is damaged, or holds more than plain data."
        )
