"""A user's own hierarchy: what it becomes, and every refusal with its line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from miil21k.errors import TreeError, UsageError
from miil21k.hierarchy.custom import from_csv, from_folder, from_list
from miil21k.hierarchy.export import to_csv, to_json
from miil21k.hierarchy.load import load_label_space, load_own
from miil21k.hierarchy.spaces import LABEL_SPACES, LabelSpace, withdrawn_classes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PETS = "child,parent,name\nanimal,,animal\nhusky,dog,husky|sled dog\ndog,animal,dog\ncat,animal,cat\n"


CYCLE = "the parents form a cycle: "
GIVE_IT_A_ROW = "give it a row of its own (with an empty parent when it is a root)."
NOT_WHOLE = " is no whole label space: expected the output of 'miil21k tree export SPACE -f json'."
ORIGINAL = "b1e5857da4d1c35883d3a3059efee902dcbe048494959e306c682df364c6227f"
CHANGED = "7d3ade7acd38d990006ba0afd917c07e950963d74fee28aa8f66a6eb541c394b"  # the husky below animal
EACH_ONCE = "the indices of the classes must be 0 to 1, each once (or leave the index column out)."


def refused(call: Callable[..., object], *args: object) -> str:
    """Return the whole message of the TreeError that a call ends with."""
    with pytest.raises(TreeError) as caught:
        call(*args)
    return str(caught.value)


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def parents(space: LabelSpace) -> dict[str, str]:
    tree = space.tree
    return {w: tree.wnids[p] if p >= 0 else "" for w, p in zip(tree.wnids, tree.parent.tolist(), strict=True)}


def images(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "1.JPEG").write_bytes(b"")


def test_the_leaves_of_a_csv_are_its_classes_in_order_of_appearance(tmp_path: Path) -> None:
    space = load_label_space(written(tmp_path, "pets.csv", PETS))
    assert space.name == "pets"
    assert space.wnids == ("husky", "cat")
    assert space.tree.wnids == ("husky", "cat", "animal", "dog")
    assert parents(space) == {"husky": "dog", "cat": "animal", "animal": "", "dog": "animal"}
    assert space.lemmas[0] == ("husky", "sled dog")
    assert space.tree.names[0] == "husky"
    assert not withdrawn_classes(space).any()


def test_all_nodes_can_be_classes(tmp_path: Path) -> None:
    space = from_csv(written(tmp_path, "pets.csv", PETS), all_nodes=True)
    assert space.wnids == ("animal", "husky", "dog", "cat")


def test_a_csv_without_titles_and_a_tsv_read_alike(tmp_path: Path) -> None:
    bare = from_csv(written(tmp_path, "pets.csv", PETS.partition("\n")[2]))
    tabs = from_csv(written(tmp_path, "pets.tsv", "\ufeff" + PETS.replace(",", "\t")))
    assert bare.sha256 == tabs.sha256 == from_csv(written(tmp_path, "again.csv", PETS)).sha256


def test_marked_rows_are_the_classes(tmp_path: Path) -> None:
    text = "parent,child,class\n,animal,0\nanimal,dog,yes\ndog,husky,0\nanimal,cat,1\n"
    space = from_csv(written(tmp_path, "pets.csv", text))
    assert space.wnids == ("dog", "cat")
    assert space.tree.num_nodes == 4


def test_an_index_column_is_the_order_of_the_logits(tmp_path: Path) -> None:
    text = "index,wnid,parent_wnid,name\n1,a,,A\n,b,a,B\n0,c,b,C\n"
    space = from_csv(written(tmp_path, "own.csv", text))
    assert space.wnids == ("c", "a")
    assert space.tree.names == ("C", "A", "B")


@pytest.mark.parametrize("name", LABEL_SPACES)
@pytest.mark.parametrize(("suffix", "export"), [(".csv", to_csv), (".json", to_json)])
def test_exports_of_shipped_spaces_are_round_trips(tmp_path: Path, name: str, suffix: str, export) -> None:
    shipped = load_label_space(name)
    again = load_label_space(written(tmp_path, name + suffix, export(shipped)))
    assert again.tree.canonical == shipped.tree.canonical
    assert (again.name, again.tree.names, again.glosses) == (shipped.name, shipped.tree.names, shipped.glosses)
    if suffix == ".json":
        assert again.lemmas == shipped.lemmas


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "child,parent\na,b\nb,c\nc,a\n",
            f", line 2: {CYCLE}'a' (line 2) -> 'b' (line 3) -> 'c' (line 4) -> 'a' (line 2).",
        ),
        ("child,parent\nr,\na,a\n", f", line 3: {CYCLE}'a' (line 3) -> 'a' (line 3)."),
        ("child,parent\na,\nb,a\nb,c\nc,b\n", f", line 4: {CYCLE}'b' (line 4) -> 'c' (line 5) -> 'b' (line 4)."),
        ("child,parent\nr,\ns,r\ns,\n", ", line 4: 's' is a root and has a parent (first: line 3)."),
        ("child,parent,index\nr,,\ns,,\na,r,0\na,s,1\n", ", line 5: 'a' has two indices (first: line 4)."),
        ("child,parent\nr,\na,r\na,r\n", ", line 4: 'a' stands twice (first: line 3)."),
        ("child,parent\nr,\na,R\n", f", line 3: the parent 'R' of 'a' is unknown; {GIVE_IT_A_ROW}"),
        ("child,parent\nr,\n,r\n", ", line 3: the node has no key."),
        ("child,parent\nr,\na\n", ", line 3: expected child, parent; found 1 fields."),
        ("child,parent\nr,\na,r,A,x\n", ", line 3: expected child, parent; found 4 fields."),
        ("child,parent\nr,\n-,r\n", ", line 3: '-' marks a root and cannot be the key of a node."),
        ("child,parent,class\nr,,maybe\n", ", line 2: class must be 1 or 0, not 'maybe'."),
        ("child,parent,class\nr,,0\n", " has 1 nodes, but none of them is a class."),
        ("index,child,parent\none,r,\n", ", line 2: the index 'one' is no number."),
        ("index,child,parent\n0,r,\n2,a,r\n", f", line 3: 'a' has the index 2 where 1 is next; {EACH_ONCE}"),
        ("index,child,parent\n0,r,\n0,a,r\n", f", line 3: 'a' has the index 0 where 1 is next; {EACH_ONCE}"),
        ("child,parent\n", " holds no node."),
        ("", " holds no node."),
    ],
)
def test_a_csv_that_is_no_forest_is_refused_by_line(tmp_path: Path, text: str, message: str) -> None:
    path = written(tmp_path, "own.csv", text)
    assert refused(load_label_space, path) == f"{path}{message}"


GRAPH = "child,parent,name\npet,,pet\ncanine,,canine\ndog,pet,dog|hound\npug,dog,pug\ndog,canine,\ncat,pet,cat\n"


def test_a_csv_may_give_a_node_several_parents_and_the_first_is_the_trees(tmp_path: Path) -> None:
    space = from_csv(written(tmp_path, "pets.csv", GRAPH))
    assert space.wnids == ("pug", "cat")
    assert parents(space) == {"pug": "dog", "cat": "pet", "pet": "", "canine": "", "dog": "pet"}
    assert space.further_parents == (("dog", "canine"),)
    assert space.lemmas[space.tree.index("dog")] == ("dog", "hound")


@pytest.mark.parametrize(
    ("ending", "export"), [(".csv", to_csv), (".json", to_json), (".tsv", lambda space: space.to_text())]
)
def test_a_graph_keeps_all_its_parents_in_every_format(tmp_path: Path, ending: str, export) -> None:
    space = from_csv(written(tmp_path, "pets.csv", GRAPH))
    again = load_label_space(written(tmp_path, "again" + ending, export(space)))
    assert again.tree.canonical == space.tree.canonical
    assert again.further_parents == (("dog", "canine"),)
    assert again.tree.names == space.tree.names


def test_a_key_with_a_bar_cannot_have_several_parents_in_a_file_of_format_2(tmp_path: Path) -> None:
    space = from_csv(written(tmp_path, "pets.csv", GRAPH.replace("canine", "a|b")))
    with pytest.raises(TreeError, match="'dog', cannot have several parents"):
        space.to_text()


def test_a_quoted_line_break_keeps_line_numbers_true(tmp_path: Path) -> None:
    text = 'child,parent,gloss\nr,,"two\nlines"\na,x,\n'
    with pytest.raises(TreeError, match="line 4: the parent 'x'"):
        from_csv(written(tmp_path, "own.csv", text))


def test_nested_folders_become_the_tree_and_folders_with_images_the_classes(tmp_path: Path) -> None:
    images(tmp_path, "animal/dog/bulldog", "animal/cat", "animal/dog", "Zebra", ".cache/x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/readme.txt").write_text("no image")
    space = load_label_space(tmp_path)
    assert space.wnids == ("Zebra", "bulldog", "cat", "dog")
    assert space.tree.wnids[4:] == ("animal", "empty", "notes")
    assert parents(space)["bulldog"] == "dog"
    assert parents(space)["dog"] == "animal"
    assert from_folder(tmp_path, all_nodes=True).num_classes == 7


def test_two_folders_of_one_name_are_refused(tmp_path: Path) -> None:
    images(tmp_path, "animal/crane", "machine/crane")
    message = (
        r"folder 'machine/crane': 'crane' has two parents, 'animal' and 'machine' \(first: folder 'animal/crane'\)"
    )
    with pytest.raises(TreeError, match=message):
        from_folder(tmp_path)


def test_a_link_to_a_folder_around_it_is_a_cycle(tmp_path: Path) -> None:
    images(tmp_path, "animal/dog")
    (tmp_path / "animal/loop").symlink_to(tmp_path / "animal", target_is_directory=True)
    with pytest.raises(TreeError, match=r"'animal/loop' leads back .*cycle"):
        from_folder(tmp_path)


def test_folders_without_images_have_no_class(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(TreeError, match="none of them is a class"):
        from_folder(tmp_path)


def test_a_list_of_wnids_gets_wordnets_ancestors(tmp_path: Path) -> None:
    path = written(tmp_path, "pets.txt", "# my pets\nn02123045  # tabby\n\nn02084071\nn02110958\n")
    space = load_label_space(path)
    assert space.wnids == ("n02123045", "n02084071", "n02110958")
    assert space.tree.names[:3] == ("tabby", "dog", "pug")
    top = [space.tree.names[n] for n in space.tree.path(0)]
    assert top == ["organism", "animal", "domestic animal", "domestic cat", "tabby"]
    assert parents(space)["n02110958"] == "n02084071"
    assert space.tree.num_nodes == 7
    assert space.glosses[0].startswith("a cat with a grey")


def test_a_list_can_make_every_ancestor_a_class(tmp_path: Path) -> None:
    path = written(tmp_path, "pets.txt", "n02123045\nn02084071\nn02110958\n")
    space = from_list(path, all_nodes=True)
    assert space.wnids[:3] == ("n02123045", "n02084071", "n02110958")
    assert space.tree.names[3:] == ("organism", "animal", "domestic animal", "domestic cat")
    assert (space.num_classes, space.tree.num_nodes) == (7, 7)
    assert space.tree.parent.tolist() == from_list(path).tree.parent.tolist()


def test_wnid_folders_side_by_side_stand_in_wordnets_tree(tmp_path: Path) -> None:
    images(tmp_path, "n02123045", "n02084071")
    space = load_label_space(tmp_path)
    assert space.wnids == ("n02084071", "n02123045")
    assert [space.tree.names[n] for n in space.tree.path(1)][-2:] == ["domestic cat", "tabby"]
    assert load_own(tmp_path, all_nodes=True).num_classes == 6
    images(tmp_path, "n02123045/n02123159")  # nested: the folders are the tree
    assert from_folder(tmp_path).tree.num_nodes == 3
    images(tmp_path, "pug")  # not all of them are wnids
    assert len(from_folder(tmp_path).tree.roots) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("n02123045\nn02084071\nn02123045\n", ", line 3: 'n02123045' stands in line 1 already."),
        ("# pets\ntabby\nn02123045\n", ", line 2: 'tabby' is no wnid ('n' and eight digits, like n02084071)."),
        ("# nothing\n", " holds no wnid; expected one per line."),
    ],
)
def test_a_bad_list_is_refused_by_line(tmp_path: Path, text: str, message: str) -> None:
    path = written(tmp_path, "own.txt", text)
    assert refused(from_list, path) == f"{path}{message}"


def test_a_wnid_that_is_no_noun_is_refused_by_its_line(tmp_path: Path) -> None:
    path = written(tmp_path, "own.txt", "n02123045\n\nn99999999\n")
    with pytest.raises(TreeError, match=r"own\.txt, line 3: ('n99999999' is no noun|WordNet 3\.0 was not found)"):
        from_list(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            '"parent_wnid": "dog"',
            '"parent_wnid": "animal"',
            f" was changed: its tree has the digest {CHANGED}, not {ORIGINAL}.",
        ),
        (
            '"parent_wnid": "dog"',
            '"parent_wnid": "god"',
            f", node 0: the parent 'god' of 'husky' is unknown; {GIVE_IT_A_ROW}",
        ),
        ('"parent_wnid": "animal"', '"parent_wnid": 7', ": a node lacks the right types in node 1."),
        ('"gloss": ""', '"gloss": null', ": a node lacks the right types in node 0."),
        ('"name": "cat"', '"name": 7', ": a node lacks the right types in node 1."),
        ('"wnid": "cat"', '"wnid": 7', ": a node lacks the right types in node 1."),
        ('"index": 1,', '"index": 5,', f", node 1: 'cat' has the index 5 where 1 is next; {EACH_ONCE}"),
        ('"index": 1,', '"index": "1",', ": a node lacks the right types in node 1."),
        ('"wnid": "cat", ', "", ": a node lacks 'wnid'."),
        ('"format": "miil21k-label-space"', '"format": "x"', NOT_WHOLE),
        ('"num_classes": 2, ', "", NOT_WHOLE),
        (', "nodes": [', ', "nods": [', ": a node lacks 'nodes'."),
    ],
)
def test_a_changed_json_is_noticed(tmp_path: Path, old: str, new: str, message: str) -> None:
    space = from_csv(written(tmp_path, "pets.csv", PETS))
    text = to_json(space)
    assert load_label_space(written(tmp_path, "pets.json", text)).sha256 == space.sha256
    assert old in text
    path = written(tmp_path, "own.json", text.replace(old, new, 1))
    assert refused(load_label_space, path) == f"{path}{message}"


def test_a_json_that_was_cut_or_is_no_object_is_refused(tmp_path: Path) -> None:
    text = to_json(from_csv(written(tmp_path, "pets.csv", PETS)))
    with pytest.raises(TreeError, match=r"own\.json' is damaged: .* in line 6"):
        load_label_space(written(tmp_path, "own.json", text.replace("}\n]", "}\n")))
    path = written(tmp_path, "own.json", "[]")
    assert refused(load_label_space, path) == f"{path}{NOT_WHOLE}"


def test_a_branch_is_not_read_as_a_whole_space(tmp_path: Path, winter21: LabelSpace) -> None:
    text = to_json(winter21, winter21.tree.index("n02084071"))
    with pytest.raises(TreeError, match="no whole label space"):
        load_label_space(written(tmp_path, "dogs.json", text))


def test_the_name_of_a_shipped_space_is_not_for_other_classes(tmp_path: Path) -> None:
    path = written(tmp_path, "fall11.csv", PETS)
    with pytest.raises(UsageError) as caught:
        load_label_space(path)
    assert str(caught.value) == (f"{path}: 'fall11' is a shipped label space with other classes; choose another name.")


def test_other_files_are_refused_by_their_ending(tmp_path: Path) -> None:
    other = written(tmp_path, "own.xlsx", PETS)
    with pytest.raises(UsageError) as caught:
        load_label_space(other)
    assert str(caught.value) == (
        f"'{other}' is no label space: give a folder, or a file that ends in .csv, .tsv, .json, .txt or .pth."
    )
    path = tmp_path / "latin.csv"
    path.write_bytes("r,\nk\u00e4se,r\n".encode("latin-1"))
    assert refused(load_label_space, path) == f"{path} is not UTF-8 text (byte 4); save it as UTF-8."


def test_an_own_tree_has_the_same_arrays_as_any_other(tmp_path: Path) -> None:
    space = from_csv(written(tmp_path, "pets.csv", PETS))
    assert space.tree.level_target[: space.num_classes].tolist() == [[2, 3, 0], [2, 1, -1]]
    assert np.array_equal(space.tree.descendants(2), [0, 1, 2, 3])
