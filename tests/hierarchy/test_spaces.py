"""The shipped label spaces: facts about them, masks, projections, and mismatches that are refused."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from miil21k.errors import LabelSpaceMismatch, TreeError, UsageError
from miil21k.hierarchy.load import load_label_space
from miil21k.hierarchy.spaces import (
    LABEL_SPACES,
    OLDER_SPACES,
    LabelSpace,
    SpaceIdentity,
    changed_since,
    known_texts,
    parse_label_space,
    projection,
    recorded_space,
    require_same,
    shipped_digest,
    withdrawn_classes,
)
from miil21k.hierarchy.tree import Tree

if TYPE_CHECKING:
    from collections.abc import Callable

OFFICIAL = "8c0edf8f8208d59b4e7911a798c86f4cd3b7120736c41105e89d1cec22853d63"
COUNTS = {"fall11": (11221, 11221), "winter21": (10450, 10450), "goog21k": (21843, 21843), "in1k": (1000, 1585)}
BRIDGED = "n02085782 n02089078 n02089867 n02089973 n02091635 n02108000 n02112706 n02113978 n04399382".split()  # noqa: SIM905


GOOD = "miil21k-label-space\t1\tpets\t1\nwnid\tparent\tlemmas\tgloss\nn1\tn2\tcat|puss\ta pet\nn2\t-\tanimal\t\n"
HEADER = (
    "pets.tsv, line 1: expected 'miil21k-label-space', '1' or '2', a name and a class count, separated by tabs; found "
)
CUT = "pets.tsv is damaged or was cut off: build or download it again."


def refused(error: type[Exception], call: Callable[..., object], *args: object) -> str:
    """Return the whole message of the error that a call ends with."""
    with pytest.raises(error) as caught:
        call(*args)
    return str(caught.value)


def names(space: LabelSpace, wnid: str) -> list[str]:
    return [space.tree.names[n] for n in space.tree.path(space.tree.index(wnid))]


def test_winter21_equals_the_official_tree(winter21: LabelSpace) -> None:
    assert winter21.sha256 == OFFICIAL
    assert winter21.num_classes == 10450
    assert len(winter21.tree.roots) == 302
    assert len(winter21.tree.leaves) == 8153
    assert np.bincount(winter21.tree.depth).tolist() == [302, 1067, 1823, 2486, 2165, 1353, 710, 289, 146, 82, 26, 1]
    assert int((winter21.tree.parent > np.arange(10450)).sum()) == 2658


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("winter21", OFFICIAL),
        ("fall11", "4359bb0d6e1543cadb92db35cfcc77eda94642b13f414b3edbec2913d1452467"),
        ("goog21k", "cebcff598602c01976ac7dff654235cb137ae74f4f9c07280d02eb9292276790"),
    ],
)
def test_a_shipped_tree_never_changes_under_its_name(name: str, digest: str) -> None:
    """A new digest needs its old tree in OLDER_SPACES, or heads and records that carry it are lost."""
    assert load_label_space(name).sha256 == digest


def test_dog_and_cat_meet_at_animal(winter21: LabelSpace) -> None:
    tree = winter21.tree
    dog, cat, domestic_cat = tree.indices(["n02084071", "n02121620", "n02121808"])
    assert [tree.names[n] for n in tree.lca(dog, np.array([cat, domestic_cat]))] == ["animal", "domestic animal"]
    assert tree.parent[tree.index("n09450163")] == -1  # the sun is a root


@pytest.mark.parametrize("name", LABEL_SPACES)
def test_every_shipped_space_has_its_classes_words_and_one_parent(name: str) -> None:
    space = load_label_space(name)
    assert (space.num_classes, space.tree.num_nodes) == COUNTS[name]
    assert list(space.wnids) == sorted(space.wnids)
    assert all(gloss for gloss in space.glosses)
    assert [lemmas[0] for lemmas in space.lemmas] == list(space.tree.names)
    assert not any("_" in lemma for lemmas in space.lemmas for lemma in lemmas)
    assert load_label_space(name) is space


def test_in1k_is_991_classes_of_winter21_and_9_bridged_ones(winter21: LabelSpace) -> None:
    space = load_label_space("in1k")
    inside = [w for w in space.wnids if w in winter21.tree.index_of]
    assert len(inside) == 991
    assert [w for w in space.wnids if w not in winter21.tree.index_of] == BRIDGED
    assert all(w in winter21.tree.index_of for w in space.tree.wnids[1000:])
    for wnid in inside:
        assert names(space, wnid) == names(winter21, wnid)


@pytest.mark.parametrize(
    ("wnid", "path"),
    [
        ("n02123045", ["animal", "domestic animal", "domestic cat", "tabby"]),
        ("n02089973", ["animal", "domestic animal", "dog", "hunting dog", "hound", "foxhound", "English foxhound"]),
        ("n02113978", ["animal", "domestic animal", "dog", "Mexican hairless"]),
        ("n04399382", ["artifact", "teddy"]),
    ],
)
def test_paths_of_in1k(wnid: str, path: list[str]) -> None:
    assert names(load_label_space("in1k"), wnid) == path


def test_fall11_loses_771_persons_and_nothing_else(winter21: LabelSpace) -> None:
    fall11 = load_label_space("fall11")
    removed = withdrawn_classes(fall11)
    assert removed.dtype == np.bool_
    assert removed.shape == (11221,)
    assert removed.sum() == 771
    assert [w for w, gone in zip(fall11.wnids, removed, strict=True) if not gone] == list(winter21.wnids)
    persons = fall11.tree.descendants(fall11.tree.index("n00007846"))
    assert set(np.flatnonzero(removed)) <= set(persons.tolist())


def test_goog21k_loses_the_persons_that_winter21_lacks(winter21: LabelSpace) -> None:
    space = load_label_space("goog21k")
    removed = withdrawn_classes(space)
    assert removed.sum() == 2732
    persons = space.tree.descendants(space.tree.index("n00007846"))
    assert removed[persons].sum() == 2732
    assert {space.wnids[n] for n in persons if not removed[n]} <= set(winter21.wnids)
    gone = {w for w, flag in zip(space.wnids, removed, strict=True) if flag}
    assert gone.isdisjoint(winter21.wnids)  # so the list that ships is exactly that of persons without winter21
    fall11 = load_label_space("fall11")
    assert {w for w, flag in zip(fall11.wnids, withdrawn_classes(fall11), strict=True) if flag} <= gone


def test_other_spaces_lose_nothing(zoo_tree: Tree, winter21: LabelSpace) -> None:
    own = LabelSpace("mine", zoo_tree, zoo_tree.names, ("",) * 9)
    for space in (winter21, load_label_space("in1k"), own):
        assert not withdrawn_classes(space).any()
        assert withdrawn_classes(space).shape == (space.num_classes,)


def test_projection_of_fall11_to_winter21_selects_columns_bit_by_bit(winter21: LabelSpace) -> None:
    fall11 = load_label_space("fall11")
    logits = np.random.default_rng(0).normal(size=(2, 11221)).astype(np.float32)
    chosen = projection(fall11, winter21)
    assert chosen.dtype == np.int32
    projected = logits[:, chosen]
    assert np.array_equal(projected, logits[:, ~withdrawn_classes(fall11)])
    for column in (0, 5327, 10449):
        assert projected[1, column] == logits[1, fall11.tree.index(winter21.wnids[column])]
    assert np.array_equal(projection(winter21, winter21), np.arange(10450))


def test_projection_to_what_the_head_lacks_names_the_classes(winter21: LabelSpace) -> None:
    with pytest.raises(LabelSpaceMismatch, match=r"771 of its 11221 classes .*--label-space winter21"):
        projection(winter21, load_label_space("fall11"))
    assert refused(LabelSpaceMismatch, projection, winter21, load_label_space("in1k")) == (
        "A head of 'winter21' cannot answer in 'in1k': 9 of its 1000 classes are missing (n02085782, n02089078, "
        "n02089867, ...). Keep the head's own label space (--label-space winter21), or choose a model whose head has "
        "them all."
    )
    letters = Tree.from_parents(["a", "b", "c"], [None] * 3)
    three = LabelSpace("abc", letters, letters.names, ("",) * 3)
    assert "3 of its 3 classes are missing (a, b, c). Keep" in refused(LabelSpaceMismatch, projection, winter21, three)


def test_inner_nodes_are_no_columns_to_project_from(winter21: LabelSpace, zoo_tree: Tree) -> None:
    source = LabelSpace("zoo", zoo_tree, zoo_tree.names, ("",) * 9)
    target_tree = Tree.from_parents(["feline"], [None])
    with pytest.raises(LabelSpaceMismatch, match=r"1 of its 1 classes are missing \(feline\)"):
        projection(source, LabelSpace("felines", target_tree, ("feline",), ("",)))


def test_spaces_are_compared_by_digest_and_the_message_gives_the_way_out(winter21: LabelSpace) -> None:
    fall11 = load_label_space("fall11")
    require_same(winter21, SpaceIdentity("winter21", OFFICIAL), "checkpoint")
    assert refused(LabelSpaceMismatch, require_same, fall11, winter21) == (
        "The head is of label space 'fall11' (4359bb0d6e15), the data set of 'winter21' (8c0edf8f8208). "
        "Project the head with --label-space winter21, or use a data set of 'fall11'."
    )
    assert refused(LabelSpaceMismatch, require_same, winter21, fall11, "checkpoint") == (
        "The head is of label space 'winter21' (8c0edf8f8208), the checkpoint of 'fall11' (4359bb0d6e15). "
        "No projection exists, since the head lacks 771 classes (n09505153, n09606527, n09607630, ...): use a model of "
        "'fall11', or a checkpoint of 'winter21'."
    )
    assert refused(LabelSpaceMismatch, require_same, winter21, SpaceIdentity("winter21", "0" * 64)) == (
        "The head is of label space 'winter21' (8c0edf8f8208), the data set of 'winter21' (000000000000). "
        "Same name, different trees: give both the same label-space file."
    )
    letters = Tree.from_parents(["a", "b", "c"], [None] * 3)
    three = LabelSpace("abc", letters, letters.names, ("",) * 3)
    assert "lacks 3 classes (a, b, c): use" in refused(LabelSpaceMismatch, require_same, winter21, three)


def test_printing_a_space_or_its_tree_is_one_short_line() -> None:
    space = load_label_space("in1k")
    assert repr(space) == "LabelSpace('in1k', 1000 classes, 1585 nodes)"
    assert repr(space.tree) == "Tree(1000 classes, 1585 nodes, 18 roots)"


def test_19_roots_of_goog21k_got_a_parent_and_the_old_tree_is_still_read() -> None:
    today, before = load_label_space("goog21k"), load_label_space("goog21k@1")
    assert (len(today.tree.roots), len(before.tree.roots)) == (515, 534)
    assert before.sha256 == OLDER_SPACES["goog21k@1"].sha256 != today.sha256
    assert (before.name, before.wnids, before.glosses) == (today.name, today.wnids, today.glosses)
    changed = np.flatnonzero(today.tree.parent != before.tree.parent)
    assert changed.size == 19
    assert (before.tree.parent[changed] == -1).all()
    person = today.tree.index("n00007846")
    assert person in changed
    assert today.tree.names[today.tree.parent[person]] == "organism"
    assert recorded_space("goog21k", before.sha256) is before
    assert recorded_space("goog21k", today.sha256) is today
    assert recorded_space("goog21k", "0" * 64) is None
    assert recorded_space("mine", today.sha256) is None
    assert known_texts("goog21k") == (today.to_text(), before.to_text())
    assert known_texts("mine") == ()


def test_a_record_of_the_old_goog21k_is_told_why_it_differs() -> None:
    today, before = load_label_space("goog21k"), load_label_space("goog21k@1")
    assert refused(LabelSpaceMismatch, require_same, today, before.identity, "checkpoint") == (
        "The head is of label space 'goog21k' (cebcff598602), the checkpoint of 'goog21k' (f020c7c67140). "
        "'goog21k' was changed: 19 of its roots hang from a hypernym since, because another of their hypernyms has a "
        "class above it. "
        "'--label-space goog21k@1' is the tree before (f020c7c67140); everything made with it stays readable."
    )
    with pytest.raises(LabelSpaceMismatch, match="goog21k@1"):
        require_same(before, today)
    assert changed_since("goog21k", today.sha256) is None


def test_shared_names_are_shown_with_their_wnid(winter21: LabelSpace) -> None:
    assert winter21.display_name(winter21.tree.index("n02012849")) == "crane (n02012849)"
    assert winter21.display_name(winter21.tree.index("n02084071")) == "dog"


@pytest.mark.parametrize("name", LABEL_SPACES)
def test_the_text_form_is_a_round_trip(name: str) -> None:
    text = (Path(sys.modules[parse_label_space.__module__].__file__).parent / f"label_spaces/{name}.tsv").read_bytes()
    assert parse_label_space(text.decode(), name).to_text().encode() == text


@pytest.mark.parametrize("name", LABEL_SPACES)
def test_a_shipped_file_has_the_digest_of_its_text(name: str) -> None:
    assert shipped_digest(name) == hashlib.sha256(load_label_space(name).to_text().encode()).hexdigest()


def test_unknown_names_bring_near_matches() -> None:
    shipped = "Shipped spaces: fall11, winter21, goog21k, in1k; a path to your own hierarchy works too."
    assert refused(UsageError, load_label_space, "Winter-21") == (
        f"No label space and no file 'Winter-21'. Did you mean 'winter21'? {shipped}"
    )
    assert refused(UsageError, load_label_space, "qq") == f"No label space and no file 'qq'. {shipped}"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (GOOD, "", f"{HEADER}''."),
        ("space\t1", "space\t3", f"{HEADER}'miil21k-label-space\\t3\\tpets\\t1'."),
        ("1\tpets", "8\t" + "p" * 80, f"{HEADER}'miil21k-label-space\\t8\\t{'p' * 38}'."),
        ("pets\t1", "pets\tx", f"{HEADER}'miil21k-label-space\\t1\\tpets\\tx'."),
        ("pets\t1", "pets", f"{HEADER}'miil21k-label-space\\t1\\tpets'."),
        ("pets\t1", "pets\t1\t1", f"{HEADER}'miil21k-label-space\\t1\\tpets\\t1\\t1'."),
        ("miil21k-label", "other", f"{HEADER}'other-space\\t1\\tpets\\t1'."),
        ("\ta pet", "", "pets.tsv, line 3: expected 4 fields (wnid, parent, lemmas, gloss)."),
        ("\ta pet\nn2", "\nn2\t", "pets.tsv, line 3: expected 4 fields (wnid, parent, lemmas, gloss)."),
        ("\tanimal", "", "pets.tsv, line 4: expected 4 fields (wnid, parent, lemmas, gloss)."),
        ("n1\tn2", "n1\tn3", "pets.tsv, line 3: the parent 'n3' is no node of this file."),
        ("n2\t-", "n2\tn4", "pets.tsv, line 4: the parent 'n4' is no node of this file."),
        ("animal\t\n", "animal\t", CUT),
        ("wnid\tparent", "wnid\tabove", CUT),
        ("n2\t-", "n2\tn1", "The parents form a cycle: n1 -> n2 -> n1."),
        (
            "1\tpets\t1\nwnid\tparent\tlemmas\tgloss\nn1\tn2",
            "2\tpets\t1\nwnid\tparent\tlemmas\tgloss\nn1\tn2|n3",
            "pets.tsv: the parent 'n3' is no node of this file.",
        ),
    ],
)
def test_damaged_label_space_files_are_refused_by_line(old: str, new: str, message: str) -> None:
    assert old in GOOD
    assert refused(TreeError, parse_label_space, GOOD.replace(old, new, 1), "pets.tsv") == message


def test_a_file_of_two_nodes_gives_its_name_words_and_parents() -> None:
    space = parse_label_space(GOOD, "pets.tsv")
    assert (space.name, space.num_classes, space.wnids, space.tree.wnids) == ("pets", 1, ("n1",), ("n1", "n2"))
    assert space.lemmas == (("cat", "puss"), ("animal",))
    assert (space.tree.names, space.glosses) == (("cat", "animal"), ("a pet", ""))
    assert (space.tree.parent.tolist(), space.further_parents) == ([1, -1], ())
    graph = GOOD.replace("\t1\tpets", "\t2\tpets").replace("n1\tn2", "n1\tn2|n3|n4") + "n3\t-\tb\t\nn4\tn3\tc\tt\n"
    several = parse_label_space(graph, "pets.tsv")
    assert several.tree.parent.tolist() == [1, -1, -1, 2]
    assert several.further_parents == (("n1", "n3"), ("n1", "n4"))
    assert several.to_text() == graph
    assert space.to_text() == GOOD


def test_words_that_do_not_fit_the_nodes_are_refused(zoo_tree: Tree) -> None:
    for lemmas, glosses in (8, 9), (9, 8), (10, 10):
        assert refused(TreeError, LabelSpace, "zoo", zoo_tree, ("",) * lemmas, ("",) * glosses) == (
            f"Label space 'zoo' has 9 nodes, but {lemmas} lemma lists and {glosses} glosses."
        )


def test_a_name_with_a_tab_cannot_become_a_broken_file() -> None:
    tree = Tree.from_parents(["a"], [None])
    for words in (("a\tb", ""), ("a", "two\nlines")):
        assert refused(TreeError, LabelSpace("x", tree, words[:1], words[1:]).to_text) == (
            "Node 'a' has a tab or a line break in its name or gloss: store it as JSON."
        )


def test_loading_spaces_imports_nothing_heavy() -> None:
    script = (
        "import sys; from miil21k.hierarchy import load, spaces; import miil21k\n"
        "spaces.withdrawn_classes(load.load_label_space('goog21k'))\n"
        "print(*sorted({'torch', 'timm', 'nltk', 'csv', 'json', 'PIL', 'huggingface_hub'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() in {"", "json"}  # some numpy releases import json themselves


def test_every_node_can_be_a_class_of_a_space_of_another_name() -> None:
    text = GOOD.replace("\t1\tpets", "\t2\tpets").replace("n1\tn2", "n1\tn2|n3") + "n3\t-\tbeast\twild\n"
    space = parse_label_space(text, "pets.tsv")
    whole = space.with_all_nodes()
    assert (whole.name, whole.num_classes, whole.wnids) == ("pets_nodes", 3, ("n1", "n2", "n3"))
    assert whole.tree.parent.tolist() == space.tree.parent.tolist()
    assert (whole.tree.names, whole.lemmas, whole.glosses) == (space.tree.names, space.lemmas, space.glosses)
    assert whole.further_parents == (("n1", "n3"),)
    assert whole.with_all_nodes() is whole
