"""Who goes where: the published rule, by names alone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from miil21k.prepare.members import Member
from miil21k.prepare.split import assign_places

NAMES = st.lists(
    st.tuples(st.text("ab_.0Öé", min_size=1, max_size=4), st.sampled_from(["", "", "link", "unsafe_path"])), max_size=25
)


def members(names: list[str]) -> list[Member]:
    return [Member(name, 1, position) for position, name in enumerate(names)]


def numbered(count: int) -> list[Member]:
    return members([f"n1_{i}.JPEG" for i in range(count)])


def test_a_class_of_500_is_small_and_one_of_501_is_kept() -> None:
    assert {row.place for row in assign_places(numbered(500), 500, 50)} == {"small_class"}
    places = [row.place for row in assign_places(numbered(501), 500, 50)]
    assert (places.count("val"), places.count("train")) == (50, 451)


def test_validation_is_the_first_by_bytes_not_by_number_or_locale() -> None:
    names = ["x_2.JPEG", "x_10.JPEG", "x_1.JPEG", "x_100.JPEG", "X_9.JPEG", "é_1.JPEG", "x_11.JPEG"]
    rows = assign_places(members(names), 6, 4)
    assert [row.member.name for row in rows if row.place == "val"] == [
        "X_9.JPEG",
        "x_1.JPEG",
        "x_10.JPEG",
        "x_100.JPEG",
    ]
    assert rows[-1].member.name == "é_1.JPEG"


def test_of_equal_names_the_last_counts_and_the_others_are_duplicates() -> None:
    found = [Member("a.JPEG", 1, 0), Member("b.JPEG", 1, 1), Member("sub/a.JPEG", 1, 2), Member("a.JPEG", 0, 3, "link")]
    rows = {row.member.offset: row.place for row in assign_places(found, 1, 0)}
    assert rows == {0: "duplicate", 1: "train", 2: "train", 3: "failed"}


def test_duplicates_and_faults_do_not_help_a_class_over_the_threshold() -> None:
    found = [*numbered(3), Member("n1_0.JPEG", 1, 9), Member("l.JPEG", 0, 10, "link")]
    assert {row.place for row in assign_places(found, 3, 1)} == {"small_class", "duplicate", "failed"}


def test_a_class_that_comes_again_fails_whole() -> None:
    rows = assign_places(numbered(3), 1, 1, repeated=True)
    assert [(row.place, row.reason) for row in rows] == [("failed", "class_repeated")] * 3


@given(NAMES, st.integers(0, 6), st.integers(0, 6))
def test_every_member_gets_one_place_as_if_the_tar_were_unpacked(
    entries: list[tuple[str, str]], min_images: int, val: int
) -> None:
    found = [Member(name, 1, position, fault) for position, (name, fault) in enumerate(entries)]
    rows = assign_places(found, min_images, val)
    assert sorted(row.member.offset for row in rows) == list(range(len(found)))
    unpacked = {row.basename.encode(): row for row in found if not row.fault}  # later ones overwrite
    files = sorted(unpacked)
    expected = {unpacked[name].offset: "small_class" for name in files}
    if len(files) > min_images:
        expected = {unpacked[name].offset: "val" if i < val else "train" for i, name in enumerate(files)}
    for row in rows:
        other = "failed" if row.member.fault else "duplicate"
        assert row.place == expected.get(row.member.offset, other)
        assert row.reason == row.member.fault
