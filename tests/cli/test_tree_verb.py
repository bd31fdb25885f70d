"""`miil21k tree` as a user runs it."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from miil21k.cli.main import main
from miil21k.hierarchy import spaces
from miil21k.hierarchy.load import load_label_space
from miil21k.hierarchy.wordnet import find_wordnet

if TYPE_CHECKING:
    from miil21k.hierarchy.spaces import LabelSpace

PETS = "child,parent\nanimal,\nhusky,dog\ndog,animal\ncat,animal\n"


def test_csv_of_winter21_is_the_official_tree(capsys: pytest.CaptureFixture[str], winter21: LabelSpace) -> None:
    assert main(["tree", "export", "winter21", "-f", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert set(rows[0]) >= {"index", "wnid", "parent_wnid", "name"}
    assert [int(row["index"]) for row in rows] == list(range(10450))
    text = "".join(f"{row['wnid']} {row['parent_wnid'] or '-'}\n" for row in rows)
    assert text == winter21.tree.canonical
    assert rows[1574]["name"] == "tabby"


def test_show_summarises_a_space(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tree", "show", "winter21", "-f", "json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["classes"], summary["roots"], summary["leaves"]) == (10450, 302, 8153)
    assert summary["nodes_by_depth"][:3] == [302, 1067, 1823]
    assert summary["largest_roots"][0] == {"wnid": "n00021939", "name": "artifact", "nodes": 4623}
    assert main(["tree", "show", "winter21"]) == 0
    text = capsys.readouterr().out
    assert "winter21: 10450 classes, 10450 nodes, 302 roots, 8153 leaves, depth 0 to 11" in text
    assert "    1   1067" in text
    assert f"sha256 {summary['sha256']}" in text


def test_show_prints_path_gloss_and_children_to_a_depth(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tree", "show", "in1k", "n02121808"]) == 0
    text = capsys.readouterr().out
    assert "path      animal > domestic animal > domestic cat\n" in text
    assert "no class, an inner node of in1k" in text
    assert "below     5 nodes, 5 of them classes" in text
    assert "\n  n02124075  Egyptian cat" in text
    assert main(["tree", "show", "winter21", "n02084071", "--depth", "2", "-f", "json"]) == 0
    (dog,) = json.loads(capsys.readouterr().out)
    corgi = next(child for child in dog["children"] if child["name"] == "corgi")
    assert {child["name"] for child in corgi["children"]} == {"Pembroke", "Cardigan"}
    assert "children" not in corgi["children"][0]
    assert main(["tree", "show", "winter21", "dog", "--depth", "0"]) == 0
    assert "corgi" not in capsys.readouterr().out


def test_a_shared_name_shows_every_node_with_its_wnid(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tree", "show", "winter21", "CRANE"]) == 0
    text = capsys.readouterr().out
    assert "2 concepts are named 'CRANE'" in text
    assert "n02012849  crane" in text
    assert "n03126707  crane" in text


def test_show_knows_every_way_up_and_all_classes_of_a_concept(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tree", "show", "in1k", "mammal"]) == 0
    text = capsys.readouterr().out
    assert "below     148 nodes, 95 of them classes" in text
    assert "concept   218 classes at or below it along any edge\n" in text
    assert main(["tree", "show", "winter21", "n02084071", "-f", "json"]) == 0
    (dog,) = json.loads(capsys.readouterr().out)
    assert [parent["name"] for parent in dog["concept"]["parents"]] == ["domestic animal", "canine"]
    assert [[step["name"] for step in path][-2:] for path in dog["concept"]["paths"]] == [
        ["domestic animal", "dog"],
        ["canine", "dog"],
    ]
    assert main(["tree", "show", "physical", "entity"]) == 0  # in no tree; the space is that of the default model
    text = capsys.readouterr().out
    assert "n00001930  physical entity  (no class, a concept outside of the tree of fall11)\n" in text
    assert "path " not in text
    assert "\n  n00002684  object" in text


def test_why_says_where_two_concepts_meet(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tree", "why", "winter21", "cat", "dog"]) == 0
    done = capsys.readouterr()
    assert "tree       both under animal\n" in done.out
    assert "concepts   both are carnivore, 271 classes: a terrestrial" in done.out
    assert "           carnivore > canine > dog\n" in done.out
    assert "'dog' is read as dog (n02084071" in done.err
    assert main(["tree", "why", "in1k", "tabby", "minivan", "-f", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tree"] is None
    assert found["wordnet"]["name"] == "whole"
    assert [chain[-1]["name"] for chain in found["chains"]] == ["tabby", "minivan"]


def test_why_of_an_own_forest_may_have_no_meeting(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text("child,parent\na,\nb,\nc,a\n")
    assert main(["tree", "why", str(path), "c", "b"]) == 0
    assert "concepts   they do not meet\n" in capsys.readouterr().out


def test_the_neighbourhood_of_a_concept_is_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tree", "show", "winter21", "n02084071", "-f", "dot"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == 'digraph "dog" {'
    assert '  "n02084071" [label="dog (159)", shape=box];' in lines
    assert '  "n01317541" -> "n02084071" [style=bold];' in lines  # the tree's own edge
    assert '  "n02083346" -> "n02084071";' in lines
    assert '  "n02084071" -> "n02110958" [style=bold];' in lines  # the pug
    assert len(lines) == len(set(lines))


def test_search_finds_concepts_outside_of_the_tree(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tree", "search", "in1k", "living thing", "-n", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[:2] == [
        "n00004258  living thing",
        "           outside of the tree of 'in1k'",
    ]


def test_search_prints_wnid_name_path_and_gloss(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tree", "search", "winter21", "siamese cat"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "n02123597  Siamese cat"
    assert lines[1].strip() == "animal > domestic animal > domestic cat > Siamese cat"
    assert lines[2].strip().startswith("a slender short-haired blue-eyed breed of cat")


def test_search_without_a_space_is_in_that_of_the_default_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tree", "search", "fall11", "siamese cat"]) == 0
    named = capsys.readouterr().out
    assert named.startswith("n02123597  Siamese cat")
    assert main(["tree", "search", "siamese", "cat"]) == 0
    assert capsys.readouterr().out == named
    assert main(["tree", "search", "dog"]) == 0
    assert capsys.readouterr().out.startswith("n02084071  dog")


def test_search_reads_synonyms_and_glosses_and_limits(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tree", "search", "winter21", "Felis catus", "-f", "json"]) == 0
    assert [found["wnid"] for found in json.loads(capsys.readouterr().out)] == ["n02121808"]
    assert main(["tree", "search", "winter21", "grey tawny mottled", "-f", "json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["wnid"] == "n02123045"
    assert main(["tree", "search", "winter21", "cat", "-n", "2", "-f", "json"]) == 0
    done = capsys.readouterr()
    first, second = json.loads(done.out)
    assert first["wnid"] == "n02121620"  # the exact name comes first
    assert second["wnid"] != first["wnid"]
    assert "more; --limit" in done.err


def test_search_brings_near_spellings_only_when_nothing_matches(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tree", "search", "winter21", "siamse catt"]) == 1
    done = capsys.readouterr()
    assert "Nothing in 'winter21' holds 'siamse catt'. Near:" in done.err
    assert done.out.startswith("n02123597  Siamese cat")


def test_export_of_a_branch_starts_at_its_root(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tree", "export", "winter21", "-f", "csv", "--under", "domestic cat"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["wnid"] for row in rows if not row["parent_wnid"]] == ["n02121808"]
    assert {row["parent_wnid"] for row in rows} == {"", "n02121808"}
    assert len(rows) == 16


def test_dot_draws_every_node_and_edge_once(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    source = tmp_path / "pets.csv"
    source.write_text('child,parent,name\nanimal,,\ndog,animal,"the ""dog"""\n')
    assert main(["tree", "export", str(source), "-f", "dot"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        'digraph "pets" {',
        '  rankdir="LR";',
        '  "dog" [label="the \\"dog\\"", shape=box];',
        '  "animal" [label="animal", shape=ellipse];',
        '  "animal" -> "dog";',
        "}",
    ]


@pytest.mark.slow
def test_concepts_are_built_with_their_arrays_beside_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("nltk")
    if find_wordnet() is None:
        pytest.skip("no WordNet 3.0 here (Debian: apt install wordnet-base)")
    assert main(["tree", "build", "concepts", "-o", str(tmp_path / "concepts.tsv")]) == 0
    for name in ("concepts.tsv", "concepts.bin"):
        assert (tmp_path / name).read_bytes() == (Path(spaces.__file__).parent / "label_spaces" / name).read_bytes()
    assert "concepts.bin, which follows from it" in capsys.readouterr().err


@pytest.mark.parametrize("ending", [".tsv", ".json", ".csv"])
def test_an_own_csv_is_built_exported_and_shown(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, ending: str
) -> None:
    source, built = tmp_path / "pets.csv", tmp_path / f"built{ending}"
    source.write_text(PETS)
    assert main(["tree", "build", "--from-csv", str(source), "-o", str(built)]) == 0
    space = load_label_space(built)
    assert space.wnids == ("husky", "cat")
    assert space.tree.canonical == load_label_space(source).tree.canonical
    assert f"2 classes, 4 nodes, {space.sha256}" in capsys.readouterr().err
    assert main(["tree", "show", str(built), "husky"]) == 0
    assert "path      animal > dog > husky" in capsys.readouterr().out
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["pets.csv", built.name])
    assert main(["tree", "build", "--from-csv", str(source), "--all-nodes", "-o", str(built)]) == 0
    assert load_label_space(built).num_classes == 4


def test_folders_and_lists_are_built(tmp_path: Path) -> None:
    (tmp_path / "images/animal/cat").mkdir(parents=True)
    (tmp_path / "images/animal/cat/1.jpg").touch()
    (tmp_path / "list.txt").write_text("n02123045\n")
    out = tmp_path / "out.tsv"
    assert main(["tree", "build", "--from-folder", str(tmp_path / "images"), "-o", str(out)]) == 0
    assert load_label_space(out).wnids == ("cat",)
    assert main(["tree", "build", "--from-list", str(tmp_path / "list.txt"), "-o", str(out)]) == 0
    assert load_label_space(out).tree.num_nodes == 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["show", "wintr21"], "Did you mean 'winter21'?"),
        (
            ["show", "winter21", "tabyb"],
            "'tabyb' is no concept of 'winter21' and no noun of WordNet 3.0. Near: 't",
        ),
        (["show", "winter21", "n02084072"], "Near: "),
        (["show", "winter21", "crane", "-f", "dot"], "'crane' has 2 meanings with classes of 'winter21'"),
        (["show", "winter21", "-f", "dot"], "'miil21k tree export winter21 -f dot' draws a space"),
        (["show", "in1k", "unicorn"], "'unicorn' (n10737964) has no class of 'in1k' at or below it"),
        (["why", "winter21", "dog"], "compares two concepts, not 1"),
        (["why", "winter21", "dog", "crane"], "'crane' has 2 meanings"),
        (["export", "winter21", "--under", "crane"], "2 nodes of 'winter21' are named 'crane', say which by wnid"),
        (["export", "winter21", "-o", "/no/such/folder/x.json"], "Cannot write '/no/such/folder/x.json'"),
        (["build", "winter21", "-o", "x.txt"], "must end in .tsv, .json or .csv"),
        (["build", "mine", "-o", "x.tsv"], "'mine' is none of fall11"),
        (["build", "--from-csv", "no.csv", "-o", "x.tsv"], "'no.csv' does not exist"),
        (["build", "winter21", "--all-nodes", "-o", "x.tsv"], "--all-nodes goes with --from-csv, --from-folder and"),
        (["build", "--from-list", "no.txt", "--wordnet", "d", "-o", "x.tsv"], "--wordnet go with NAME"),
    ],
)
def test_usage_errors_are_one_sentence_and_exit_2(
    capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(["tree", *words]) == 2
    done = capsys.readouterr()
    assert message in done.err
    assert done.err.startswith("miil21k tree: ")
    assert done.out == ""


def test_a_hierarchy_that_is_no_forest_exits_1(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    source = tmp_path / "own.csv"
    source.write_text("child,parent\na,b\nb,a\n")
    assert main(["tree", "build", "--from-csv", str(source), "-o", str(tmp_path / "x.tsv")]) == 1
    assert "line 2: the parents form a cycle" in capsys.readouterr().err
    assert not (tmp_path / "x.tsv").exists()


@pytest.mark.parametrize("words", [["show", "goog21k", "dog"], ["search", "winter21", "cat"], ["--help"]])
def test_looking_at_a_tree_imports_nothing_heavy(words: list[str]) -> None:
    script = (
        "import sys; from miil21k.cli.main import main\n"
        "try: main(['tree', *sys.argv[1:]])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'timm', 'nltk', 'onnxruntime', 'PIL', 'huggingface_hub'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_spaces_are_built_from_wordnet_by_the_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "in1k.tsv"
    if main(["tree", "build", "in1k", "-o", str(out)]):
        assert "WordNet 3.0 was not found" in capsys.readouterr().err
        assert not os.environ.get("CI"), "CI must rebuild the label spaces: install WordNet 3.0"
        pytest.skip("no WordNet 3.0 here (Debian: apt install wordnet-base)")
    assert out.read_bytes() == (Path(spaces.__file__).parent / "label_spaces/in1k.tsv").read_bytes()
    classes = tmp_path / "dogs.txt"
    classes.write_text("n02084071\nn02110958\n")
    words = ["--classes", str(classes), "-o", str(out)]
    assert main(["tree", "build", "dogs", *words]) == 0
    dogs = load_label_space(out)
    assert (dogs.name, dogs.tree.names, dogs.tree.parent.tolist()) == ("dogs", ("dog", "pug"), [-1, 0])
    assert main(["tree", "build", "winter21", *words]) == 2
    assert "choose another name" in capsys.readouterr().err
