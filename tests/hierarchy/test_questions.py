"""Which concept a noun asks about: everyday nouns answer, ambiguous ones are listed, the rest is told what is near."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from miil21k.errors import UnknownClass
from miil21k.hierarchy.concepts import Concepts, concepts_of
from miil21k.hierarchy.load import load_label_space
from miil21k.hierarchy.questions import Question, resolve
from miil21k.hierarchy.spaces import withdrawn_classes

if TYPE_CHECKING:
    from pathlib import Path

EVERYDAY = """
animal bird dog cat horse cow pig sheep goat rabbit mouse rat fish shark whale dolphin snake lizard turtle frog insect
butterfly bee spider lion tiger bear wolf fox monkey elephant giraffe zebra deer kangaroo penguin owl eagle duck goose
chicken parrot crab lobster snail plant tree flower grass mushroom fruit apple orange banana lemon strawberry grape
pineapple vegetable potato tomato carrot onion cabbage pepper corn bread cake pizza sandwich soup salad cheese egg meat
coffee tea wine beer milk water food vehicle car truck bus train bicycle motorcycle boat ship airplane helicopter rocket
house church castle bridge tower school furniture chair table bed sofa desk lamp clock mirror kitchen refrigerator oven
cup bottle bowl plate fork spoon knife tool hammer saw computer keyboard laptop screen telephone camera television radio
book newspaper pen pencil scissors bag hat shirt dress skirt shoe coat glove tie umbrella ball drum guitar piano
violin ring man
""".split()  # noqa: SIM905


NO_CLASS = " has no class of 'in1k' at or below it. The nearest concept that has some: "
RODENT = (
    "rodent (n02329401: relatively small placental mammals having a single pair of constantly growing incisor teeth "
    "specialized for gnawing), 6 classes."
)

MECHANISM = (
    "mechanism (n03738472: device consisting of a piece of machinery; has moving parts that perform some function), "
    "13 classes."
)
BAKED = "baked goods (n07622061: foods (like breads and cakes and pastries) that are cooked in an oven), 4 classes."
PUBLICATION = "publication (n06589574: a copy of a printed work offered for distribution), 1 class."
PERSON = "person (n00007846: a human being), 3 classes."
COGNITION = "cognition (n00023271: the psychological result of perception and learning and reasoning), 3 classes."


def named(name: str) -> Concepts:
    return concepts_of(load_label_space(name))


def answer(concepts: Concepts, text: str) -> str:
    return concepts.wnids[resolve(concepts, text).concept]


def refusal(concepts: Concepts, noun: str) -> str:
    try:
        resolve(concepts, noun)
    except UnknownClass as error:
        return str(error)
    return ""


def stops(concepts: Concepts) -> dict[str, str]:
    return {noun: message for noun in EVERYDAY if (message := refusal(concepts, noun))}


def test_of_152_everyday_nouns_at_most_three_stop() -> None:
    assert len(EVERYDAY) == len(set(EVERYDAY)) == 152
    assert set(stops(named("winter21"))) == {"pineapple", "meat"}  # the fruit or its plant; no class of meat
    assert set(stops(named("fall11"))) == {"pineapple", "meat"}
    assert set(stops(named("goog21k"))) == {"pineapple", "plate"}
    of_in1k = stops(named("in1k"))
    assert all("has no class of 'in1k'" in message for message in of_in1k.values())
    assert {"cow", "cake", "book", "man"} <= set(of_in1k)


@pytest.mark.parametrize(
    ("noun", "wnid"),
    [
        ("food", "n00021265"),
        ("pig", "n02395406"),
        ("cake", "n07628870"),  # baked, not a patty
        ("book", "n06410904"),
        ("plant", "n00017222"),  # a living organism, though the factory was tagged more often
        ("mouse", "n02330245"),
        ("dolphin", "n02068974"),
        ("bird", "n01503061"),
        ("Musical_Instrument", "n03800933"),
        ("wolves", "n02114100"),
        ("cranes.n.05", None),
        ("crane.n.05", "n02012849"),
        ("n02012849", "n02012849"),
        ("entity", "n00001740"),
    ],
)
def test_nouns_wnids_and_synset_names_find_their_concept(noun: str, wnid: str | None) -> None:
    if wnid is None:
        with pytest.raises(UnknownClass, match="no noun of WordNet"):
            resolve(named("winter21"), noun)
    else:
        assert answer(named("winter21"), noun) == wnid


@pytest.mark.parametrize(
    ("name", "machines", "birds"),
    [("in1k", "1 class", "1 class"), ("winter21", "2 classes", "2 classes"), ("goog21k", "4 classes", "2 classes")],
)
def test_nothing_says_which_crane_is_meant(name: str, machines: str, birds: str) -> None:
    assert refusal(named(name), "crane") == (
        f"'crane' has 2 meanings with classes of '{name}': crane (n03126707: lifts and moves heavy objects; "
        f"lifting tackle is suspended from a pivoted boom that rotates around a vertical axis), {machines}; "
        f"crane (n02012849: large long-necked wading bird of marshes and plains in many parts of the world), {birds}. "
        "Ask for one by its wnid."
    )


def test_other_meanings_are_told_in_one_line() -> None:
    concepts = named("winter21")
    question = resolve(concepts, "mouse")
    note = question.note(concepts)
    assert note == (
        "'mouse' is read as mouse (n02330245: any of numerous small rodents typically resembling diminutive rats "
        "having pointed snouts and small ears on elongated bodies with slender usually hairless tails); not as mouse "
        "(n03793489: a hand-operated electronic device that controls the coordinates of a cursor on your computer "
        "screen as you move it around on a pad; on the bottom of the device is a ball that rolls on the surface of "
        "the pad). A wnid says which."
    )
    assert Question("bird", 3).note(concepts) is None


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("in1k", "rat", f"'rat' (n02331046){NO_CLASS}{RODENT}"),
        ("in1k", "n02331046", f"'n02331046' (n02331046){NO_CLASS}{RODENT}"),
        ("in1k", "cake", f"'cake' (n07628870){NO_CLASS}{BAKED}"),  # baked: not the bar of soap, nor the patty
        ("in1k", "book", f"'book' (n06410904){NO_CLASS}{PUBLICATION}"),  # the work, not the volume
        ("in1k", "man", f"'man' (n10289039){NO_CLASS}{PERSON}"),  # one edge below it; the first meaning two
        ("in1k", "robot.n.01", f"'robot.n.01' (n02761392){NO_CLASS}{MECHANISM}"),
        ("winter21", "unicorn", f"'unicorn' (n10737964){NO_CLASS.replace('in1k', 'winter21')}{COGNITION}"),
        ("winter21", "vehicel", "'vehicel' is no concept of 'winter21' and no noun of WordNet 3.0. Near: 'vehicle'."),
        (
            "in1k",
            "philosofy",
            "'philosofy' is no concept of 'in1k' and no noun of WordNet 3.0. Near: 'philosophy', 'philology'.",
        ),
        ("in1k", "qqqqq", "'qqqqq' is no concept of 'in1k' and no noun of WordNet 3.0."),
        ("in1k", "", "'' is no concept of 'in1k' and no noun of WordNet 3.0."),
        ("in1k", "dog.n.09", "'dog.n.09' is no concept of 'in1k' and no noun of WordNet 3.0."),
    ],
)
def test_what_cannot_be_answered_says_what_is_near(name: str, text: str, message: str) -> None:
    assert refusal(named(name), text) == message


def test_classes_that_are_not_shown_do_not_count() -> None:
    concepts = named("fall11")
    shown = ~withdrawn_classes(concepts.space)
    gone = next(c for c in np.flatnonzero(~shown).tolist() if concepts.num_below[c] == 1)
    assert resolve(concepts, concepts.wnids[gone]).concept == gone
    with pytest.raises(UnknownClass, match="has no class of 'fall11' at or below it"):
        resolve(concepts, concepts.wnids[gone], shown)
    assert resolve(concepts, "person", shown).concept == concepts.index_of["n00007846"]


def test_an_own_hierarchy_is_asked_by_its_own_names(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    rows = "part,,part|component#2 x,part,nut screw,part,screw y,part,nut b,screw,long c,screw,short"
    path.write_text("child,parent,name\n" + "\n".join(rows.split()) + "\n")
    concepts = concepts_of(load_label_space(path))
    assert answer(concepts, "Component#2") == "part"
    assert answer(concepts, "screws") == "screw"
    with pytest.raises(
        UnknownClass, match=r"'nut ' has 2 meanings with classes of 'own': nut \(x\), 1 class; nut \(y\)"
    ):
        resolve(concepts, "nut ")
