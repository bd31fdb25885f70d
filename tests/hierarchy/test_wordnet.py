"""The build from WordNet 3.0 gives the shipped files byte for byte."""

from __future__ import annotations

import gzip
import importlib
import os
import shutil
import sys
from pathlib import Path

import nltk.data
import pytest

from miil21k.errors import Miil21kError, UnknownClass, UsageError
from miil21k.hierarchy import spaces as spaces_module
from miil21k.hierarchy.concepts import build_arrays
from miil21k.hierarchy.load import load_label_space
from miil21k.hierarchy.spaces import LABEL_SPACES
from miil21k.hierarchy.wordnet import (
    WORDNET_FOLDERS,
    WordNet,
    build_concepts,
    build_label_space,
    build_nouns,
    class_list,
    find_wordnet,
    hypernym_choices,
    open_wordnet,
)

SHIPPED = Path(spaces_module.__file__).parent / "label_spaces"


@pytest.fixture(scope="module")
def wordnet():
    try:
        opened = open_wordnet()
        found = opened.__enter__()
    except UsageError as error:
        if os.environ.get("CI"):
            pytest.fail(f"CI must rebuild the label spaces: {error}")
        pytest.skip(f"no WordNet 3.0 here (Debian: apt install wordnet-base): {error}")
    yield found
    opened.__exit__(None, None, None)


@pytest.mark.parametrize("name", LABEL_SPACES)
def test_every_shipped_space_is_rebuilt_byte_for_byte(wordnet: WordNet, name: str) -> None:
    built = build_label_space(wordnet, name, class_list(name))
    assert built.to_text().encode() == (SHIPPED / f"{name}.tsv").read_bytes()
    assert built.tree.names == load_label_space(name).tree.names


def test_the_graph_of_concepts_is_rebuilt_byte_for_byte(wordnet: WordNet) -> None:
    text = build_concepts(wordnet)
    assert text.encode() == (SHIPPED / "concepts.tsv").read_bytes()
    assert build_arrays(text) == (SHIPPED / "concepts.bin").read_bytes()
    assert text.count("\n") == 23548 + 2


def test_the_index_of_nouns_is_rebuilt_and_stays_small(wordnet: WordNet) -> None:
    text = build_nouns(wordnet)
    assert text.encode() == gzip.decompress((SHIPPED / "nouns.tsv.gz").read_bytes())
    assert text.count("\n") == 82115
    assert (SHIPPED / "nouns.tsv.gz").stat().st_size < 1_300_000


def test_the_table_holds_144_choices_and_none_that_the_rule_gives(
    wordnet: WordNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = hypernym_choices()
    assert len(table) == 144
    for child, chosen in table.items():
        above = wordnet.hypernyms(child)
        assert chosen in above
        assert len(above) > 1
    winter21 = load_label_space("winter21").tree
    leads = {c: wordnet.nearest(c, winter21.index_of) for c in table}
    monkeypatch.setattr("miil21k.hierarchy.wordnet.hypernym_choices", dict)
    against_the_order = [child for child, chosen in table.items() if wordnet.candidates(child)[0] != chosen]
    assert len(against_the_order) == 120
    for child in table.keys() - set(against_the_order):  # the official tree stays without a parent there
        assert leads[child] is None
        assert wordnet.nearest(child, winter21.index_of) is not None


def test_a_hypernym_that_leads_to_a_class_is_preferred_where_the_official_tree_does_not_decide(
    wordnet: WordNet,
) -> None:
    organism, person, boxing = "n00004475", "n00007846", "n00446311"
    assert wordnet.candidates(person) == ["n00007347", organism]  # causal agent comes first
    assert wordnet.nearest(person, {organism}) == organism
    assert wordnet.nearest(person, {"n00007347", organism}) == "n00007347"
    assert wordnet.nearest(person, {"n02084071"}) is None
    assert wordnet.nearest(boxing, {"n00445802"}) is None  # a root of the official tree, though boxing is a class


def test_311_classes_of_winter21_had_several_possible_parents(wordnet: WordNet) -> None:
    classes = frozenset(load_label_space("winter21").wnids)

    def possible(wnid: str) -> set[str]:
        synset = wordnet.synset(wnid)
        above = [f"n{s.offset():08d}" for s in synset.hypernyms() + synset.instance_hypernyms()]
        found: set[str] = set() if above else {"root"}
        for hypernym in above:
            found |= {hypernym} if hypernym in classes else possible(hypernym)
        return found

    assert sum(len(possible(wnid)) > 1 for wnid in classes) == 311


@pytest.mark.parametrize("wnid", ["n00000000", "n02084072", "dog", "n2084071", "v02084071", "n99999999", ""])
def test_what_is_no_noun_of_wordnet_is_refused(wordnet: WordNet, wnid: str) -> None:
    assert wordnet.words("n02084071")[0] == "dog|domestic dog|Canis familiaris"
    with pytest.raises(UnknownClass) as caught:
        wordnet.synset(wnid)
    assert str(caught.value) == f"'{wnid}' is no noun of WordNet 3.0; a wnid is 'n' and eight digits."


def test_a_priest_is_a_clergyman_and_a_cat_a_feline(wordnet: WordNet) -> None:
    assert wordnet.candidates("n10470779")[0] == "n09927451"
    assert wordnet.candidates("n02121620") == ["n02120997"]
    assert wordnet.candidates("n00001740") == []


def test_a_list_may_hold_wnids_outside_of_imagenet(wordnet: WordNet, tmp_path: Path) -> None:
    path = tmp_path / "own.txt"
    path.write_text("n02123045\nn00001740\n")
    space = load_label_space(path)
    assert space.wnids == ("n02123045", "n00001740")
    assert space.tree.names[1] == "entity"
    assert space.tree.parent[1] == -1


def test_a_folder_without_wordnet_and_another_version_are_refused(wordnet: WordNet, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"No WordNet in .*data\.noun"), open_wordnet(tmp_path):
        pass
    before = list(nltk.data.path)
    folder = next(f for f in WORDNET_FOLDERS if (f / "data.noun").is_file())
    copy = shutil.copytree(folder, tmp_path / "3.1", ignore=lambda _, names: [n for n in names if "." not in n])
    text = (folder / "data.adj").read_text(encoding="utf-8")
    (copy / "data.adj").write_text(text.replace("WordNet 3.0 Copyright", "WordNet 3.1 Copyright"), encoding="utf-8")
    with (
        pytest.raises(Miil21kError, match=r"holds WordNet 3\.1; wnids are offsets of WordNet 3\.0"),
        open_wordnet(copy),
    ):
        pass
    (copy / "index.noun").unlink()
    with pytest.raises(Miil21kError, match=r"nltk cannot read the WordNet in .*index\.noun"), open_wordnet(copy):
        pass
    assert nltk.data.path == before  # nltk may read a folder only while it is open here


def test_a_class_list_that_does_not_ship_is_refused() -> None:
    with pytest.raises(UsageError) as caught:
        class_list("mine")
    assert str(caught.value) == (
        "'mine' is none of fall11, winter21, goog21k, in1k; give its wnids with --classes FILE."
    )


def test_without_timm_or_its_list_the_message_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "timm").mkdir()
    (tmp_path / "timm/__init__.py").write_text("")
    timm = sys.modules.pop("timm", None)
    monkeypatch.syspath_prepend(tmp_path)
    try:
        with pytest.raises(Miil21kError) as caught:
            class_list("in1k")
        assert str(caught.value) == (
            "This timm has no class list imagenet_synsets.txt; give one wnid per line with --classes FILE."
        )
        monkeypatch.setattr(sys, "path", [])
        importlib.invalidate_caches()
        with pytest.raises(Miil21kError) as caught:
            class_list("in1k")
        assert str(caught.value) == (
            "The class list of 'in1k' comes with timm (pip install timm); or use --classes FILE."
        )
    finally:
        if timm is not None:
            sys.modules["timm"] = timm


def test_every_three_hundredth_line_of_the_index_of_nouns_is_rebuilt(wordnet: WordNet) -> None:
    shipped = gzip.decompress((SHIPPED / "nouns.tsv.gz").read_bytes()).decode().splitlines()
    assert [wordnet.line(line[:9]) for line in shipped[::300]] == shipped[::300]


def test_nothing_of_wordnet_where_no_folder_has_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("miil21k.hierarchy.wordnet.WORDNET_FOLDERS", (tmp_path / "system",))
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path / "nltk")])
    assert find_wordnet() is None
    with pytest.raises(UsageError) as caught, open_wordnet():
        pass
    assert str(caught.value) == (
        "WordNet 3.0 was not found: install it ('apt install wordnet-base', or 'python -m nltk.downloader wordnet' and "
        "unpack the archive), or name its folder with --wordnet DIR."
    )
    corpus = tmp_path / "nltk/corpora/wordnet"
    corpus.mkdir(parents=True)
    (corpus / "data.noun").touch()
    assert find_wordnet() == corpus
    (tmp_path / "system").mkdir()
    (tmp_path / "system/data.noun").touch()
    assert find_wordnet() == tmp_path / "system"  # that of the system comes first
