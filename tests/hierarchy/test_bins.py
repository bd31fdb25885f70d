"""A user's own labels: the lines of the file, and the classes of a label space that belong to each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from miil21k.errors import UnknownClass, UsageError
from miil21k.hierarchy.bin_lines import BinLine, bin_lines, labels_of, parse_bins
from miil21k.hierarchy.bins import Bins, bins_of
from miil21k.hierarchy.concepts import Concepts, concepts_of
from miil21k.hierarchy.load import load_label_space

if TYPE_CHECKING:
    from pathlib import Path

TEXT = """label,concept,parent
animal,animal,
bird,bird,animal
pet,,animal
dog,dog,pet
dog,n02083346,
cat,domestic_cat.n.01,pet
car,motor vehicles
"""


@pytest.fixture(scope="module")
def in1k() -> Concepts:
    return concepts_of(load_label_space("in1k"))


@pytest.fixture(scope="module")
def bins(in1k: Concepts) -> Bins:
    return bins_of(parse_bins(TEXT, "bins.csv"), in1k)


def below(concepts: Concepts, name: str) -> set[int]:
    (concept,) = (one for one, _ in concepts.named[name][:1])
    return set(concepts.classes(concept).tolist())


def test_lines_may_come_from_a_file_a_mapping_or_rows_and_say_the_same(tmp_path: Path) -> None:
    lines = parse_bins("label,concept\npet,dog\npet,cat\nbird,bird\n", "bins.csv")
    assert lines[1] == BinLine("pet", "cat", "", 3)
    said = [line[:3] for line in lines]
    (tmp_path / "of.csv").write_text("label,concept\r\npet,dog\r\n\r\n pet , cat \r\nbird,bird", encoding="utf-8-sig")
    (tmp_path / "of.tsv").write_text("concept\tlabel\ndog\tpet\ncat\tpet\nbird\tbird\n", encoding="utf-8")
    (tmp_path / "other tools.csv").write_text("cls,bin\ndog,pet\ncat,pet\nbird,bird\n", encoding="utf-8")
    for given in (*sorted(tmp_path.iterdir()), {"pet": ["dog", "cat"], "bird": "bird"}, said):
        assert [line[:3] for line in bin_lines(given)] == said
    assert bin_lines(lines) == lines
    assert labels_of(lines) == ("pet", "bird", "other")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "holds no line: the first one names the columns, label,concept or label,concept,parent"),
        ("label,concept\n", "names columns, but no label"),
        ("pet,dog\n", "line 1: it names the columns, label,concept or label,concept,parent, not 'pet,dog'"),
        ("label,label,concept\na,b,c", "line 1: it names the columns"),
        ("label,concept,note\na,b,c", "line 1: it names the columns"),
        ("label;concept\npet;dog\n", "line 1: semicolons separate the columns: save the file with commas"),
        ("label\tconcept\npet\tdog\n", "line 1: tabs separate the columns: save the file with commas, or call it .tsv"),
        ("label,concept\npet,dog,animal\n", "line 2: 3 cells where 2 columns are named"),
        ("label,concept\n,dog\n", "line 2: the label is empty"),
        ("label,concept\npet,\n", "line 2: 'pet' has no concept, and no label has it as its parent"),
        ("label,concept\nOther,dog\n", "line 2: 'Other' is what belongs to no label; call this one otherwise"),
        ("label,concept\npet,dog\n\npet,dog\n", "line 4: 'pet,dog' stands in line 2 already"),
        ("label,concept\npet,dog\nPet,cat\n", r"line 3: the labels 'Pet' and 'pet' \(line 2\) differ in case alone"),
        ("label,concept,parent\ndog,dog,pets\npet,cat,", "line 2: the parent 'pets' has no line .* mean 'pet'"),
        (
            "label,concept,parent\ndog,dog,thing\n",
            "line 2: the parent 'thing' has no line .* Add 'thing,' where it only",
        ),
        ("label,concept,parent\na,dog,b\na,cat,c\nb,,\nc,,", "line 3: 'a' has the parent 'c' here and 'b' in line 2"),
        ("label,concept,parent\na,,b\nb,,c\nc,dog,a\nd,cat,a", "line 2: .* form a cycle: 'a' -> 'b' -> 'c' -> 'a'"),
        ('label,concept\npet,"dog\ncat,cat', "line 3: unexpected end of data"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused_in_one_sentence(text: str, why: str) -> None:
    with pytest.raises(UsageError, match=f"^mine.csv,? {why}"):
        parse_bins(text, "mine.csv")


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "utf16.csv").write_text("label,concept\npet,dog", encoding="utf-16")
    with pytest.raises(UsageError, match=r"utf16.csv' is not UTF-8 text \(byte 0\): save it as UTF-8"):
        bin_lines(tmp_path / "utf16.csv")
    with pytest.raises(UsageError, match=r"none\.csv' cannot be read: No such file"):
        bin_lines(str(tmp_path / "none.csv"))
    with pytest.raises(UsageError, match="line 2: expected label, concept and, where wanted, parent; found"):
        bin_lines([("pet", "dog"), ("cat",)])
    with pytest.raises(UsageError, match="'pet' has no concept"):
        bin_lines({"pet": []})


def test_each_class_belongs_to_its_lowest_label_and_the_rest_to_other(in1k: Concepts, bins: Bins) -> None:
    label = {name: index for index, name in enumerate(bins.labels)}
    assert list(label) == ["animal", "bird", "pet", "dog", "cat", "car", "other"]
    own = {name: set(np.flatnonzero(bins.owner == index).tolist()) for name, index in label.items()}
    assert own["bird"] == below(in1k, "bird")
    assert own["dog"] == below(in1k, "canine")  # the union of two lines, of which one holds the other
    assert own["pet"] == set()
    assert own["animal"] == below(in1k, "animal") - own["bird"] - own["dog"] - own["cat"]
    assert len(own["other"]) == 1000 - len(below(in1k, "animal")) - len(below(in1k, "motor vehicle"))
    assert [bins.labels[node] for node in bins.tree.path(label["dog"])] == ["animal", "pet", "dog"]


def test_what_a_label_of_an_image_means_and_which_answers_are_right_for_it(bins: Bins) -> None:
    def named(flags: np.ndarray) -> list[str]:
        return [bins.labels[index] for index in np.flatnonzero(flags)]

    index = bins.tree.index_of
    assert named(bins.only_holds) == ["pet"]
    assert named(bins.meant[index["animal"]]) == ["animal"]  # it has classes of its own
    assert named(bins.meant[index["pet"]]) == ["pet", "dog", "cat"]
    assert named(bins.right[index["pet"]]) == ["animal", "pet", "dog", "cat"]
    assert named(bins.right[index["bird"]]) == ["animal", "bird"]
    assert named(bins.right[index["other"]]) == ["other"]


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("pet", "pet"),  # a label before it is a noun
        ("dog", "dog"),
        ("n02099601", "dog"),  # golden retriever
        ("wolf", "dog"),
        ("hen", "bird"),
        ("elephant", "animal"),
        ("okapi", "animal"),  # no class of in1k: by its hypernyms
        ("other", "other"),
        ("church", "other"),
    ],
)
def test_a_folder_is_named_by_a_label_or_by_what_belongs_to_one(
    in1k: Concepts, bins: Bins, text: str, label: str
) -> None:
    assert bins.labels[bins.find(in1k, text)] == label


def test_a_folder_that_several_labels_share_or_nobody_knows_is_refused(in1k: Concepts, bins: Bins) -> None:
    with pytest.raises(UsageError, match=r"'artifact' belongs to several labels \(car, other\)"):
        bins.find(in1k, "artifact")
    with pytest.raises(UnknownClass, match=r"'dgo' is none of the labels, and no noun .* Did you mean 'dog'"):
        bins.find(in1k, "dgo")


def test_a_class_under_two_labels_is_refused_with_its_name(in1k: Concepts) -> None:
    with pytest.raises(UsageError, match=r"The class 'Chihuahua' \(n02085620\) is under 'dog' and under 'animal'"):
        bins_of(bin_lines({"dog": "dog", "animal": "animal"}), in1k)
    with pytest.raises(UsageError, match="under 'wild' and under 'dog'"):  # of one parent
        bins_of(bin_lines([("a", "animal"), ("wild", "canine", "a"), ("dog", "dog", "a")]), in1k)


def test_what_is_no_concept_is_refused_with_its_line(in1k: Concepts) -> None:
    with pytest.raises(UnknownClass, match=r"bins, line 3: 'dgo' is no concept of 'in1k'"):
        bins_of(parse_bins("label,concept\npet,cat\ndog,dgo", "b.csv"), in1k)
    with pytest.raises(UnknownClass, match=r"bins, line 1: 'okapi' .* has no class"):
        bins_of(bin_lines({"okapi": "okapi"}), in1k)
    with pytest.raises(UnknownClass, match="bins, line 1: 'crane' has 2 meanings"):
        bins_of(bin_lines({"crane": "crane"}), in1k)


def test_the_digest_is_that_of_labels_parents_and_classes(in1k: Concepts, bins: Bins) -> None:
    again = bins_of(parse_bins(TEXT.replace(",dog,pet", ",n02084071,pet"), "elsewhere.csv"), in1k)
    assert again.sha256 == bins.sha256
    for change in (("car,motor", "auto,motor"), ("bird,bird,animal", "bird,hen,animal"), ("cat,", "feline,")):
        assert bins_of(parse_bins(TEXT.replace(*change), "b.csv"), in1k).sha256 != bins.sha256
