"""What is in a class: harmless, dangerous and damaged members."""

from __future__ import annotations

import io
import os
import tarfile
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from raw_archives import faulty, link, photo, photos, tar

from miil21k.errors import PrepareError
from miil21k.prepare.members import ClassUnit, MemberReader, _plain_members, _tar_members, list_members, read_ahead

if TYPE_CHECKING:
    from pathlib import Path


def unit(tmp_path: Path, data: bytes, before: bytes = b"", after: bytes = b"") -> ClassUnit:
    path = tmp_path / "outer.tar"
    path.write_bytes(before + data + after)
    return ClassUnit("n1", path, len(before), len(data))


def faults(found: ClassUnit) -> dict[str, str]:
    return {member.name: member.fault for member in list_members(found).members}


def test_links_devices_and_escaping_names_are_faults(tmp_path: Path) -> None:
    pipe, folder = tarfile.TarInfo(), tarfile.TarInfo()
    pipe.type, folder.type = tarfile.FIFOTYPE, tarfile.DIRTYPE
    entries = [
        ("good.JPEG", b"x"),
        ("./also/good.jpeg", b"x"),
        ("a/../../etc/good.JPEG", b"x"),
        ("/abs.JPEG", b"x"),
        ("..\\windows.JPEG", b"x"),
        ("line\nbreak.JPEG", b"x"),
        (".hidden.JPEG", b"x"),
        ("readme.txt", b"x"),
        ("soft.JPEG", link("/etc/passwd")),
        ("hard.JPEG", link("good.JPEG", tarfile.LNKTYPE)),
        ("pipe.JPEG", pipe),
        ("folder/", folder),
    ]
    assert faults(unit(tmp_path, tar(entries))) == {
        "good.JPEG": "",
        "./also/good.jpeg": "",
        "a/../../etc/good.JPEG": "unsafe_path",
        "/abs.JPEG": "unsafe_path",
        "..\\windows.JPEG": "unsafe_path",
        "line\nbreak.JPEG": "unsafe_path",
        ".hidden.JPEG": "hidden_name",
        "readme.txt": "not_an_image_name",
        "soft.JPEG": "link",
        "hard.JPEG": "link",
        "pipe.JPEG": "not_a_file",
    }


def test_members_are_read_at_their_place_in_the_outer_archive(tmp_path: Path) -> None:
    entries = photos("n1", 3)
    found = unit(tmp_path, tar(entries), before=b"\1" * 512)
    with MemberReader(found) as reader:
        assert [(m.name, reader.read(m)) for m in list_members(found).members] == entries
    assert list_members(found).damage == ""


def test_a_tar_without_end_mark_does_not_run_into_its_neighbour(tmp_path: Path) -> None:
    neighbour = tar([("other.JPEG", b"y")])
    listed = list_members(unit(tmp_path, tar([("mine.JPEG", b"x")], end=False), after=neighbour))
    assert [member.name for member in listed.members] == ["mine.JPEG"]
    assert listed.damage == "cut off after 1 members (no end mark)"


def test_a_member_that_is_cut_off_is_a_fault(tmp_path: Path) -> None:
    data = tar([("a.JPEG", b"x"), ("b.JPEG", photo())])
    listed = list_members(unit(tmp_path, data[:3000]))
    assert [(m.name, m.fault) for m in listed.members] == [("a.JPEG", ""), ("b.JPEG", "archive_cut")]
    assert listed.damage.startswith("cut off after 2 members")


def test_a_damaged_header_in_the_middle_is_no_silent_end(tmp_path: Path) -> None:
    data = bytearray(tar([("a.JPEG", b"x"), ("b.JPEG", b"x"), ("c.JPEG", b"x")]))
    data[1024:1030] = b"\xff" * 6
    listed = list_members(unit(tmp_path, bytes(data)))
    assert [m.name for m in listed.members] == ["a.JPEG"]
    assert listed.damage == "damaged after 1 members (no tar header)"


@pytest.mark.parametrize("data", [b"", b"no tar" * 200])
def test_what_is_no_tar_is_damage_without_members(tmp_path: Path, data: bytes) -> None:
    listed = list_members(unit(tmp_path, data))
    assert listed.members == []
    assert listed.damage.startswith("cut off after 0 members")


def test_folders_list_files_by_bytes_and_refuse_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name, data in photos("n1", 11):
        (tmp_path / name).write_bytes(data)
    (tmp_path / "gone.JPEG").symlink_to("nowhere")
    (tmp_path / "self.JPEG").symlink_to("self.JPEG")
    (tmp_path / "linked.JPEG").symlink_to("n1_1.JPEG")
    listed = list_members(ClassUnit("n1", tmp_path)).members
    assert [m.name for m in listed][:5] == ["gone.JPEG", "linked.JPEG", "n1_0.JPEG", "n1_1.JPEG", "n1_10.JPEG"]
    assert {m.name for m in listed if m.fault} == {"gone.JPEG", "self.JPEG", "sub/"}
    with MemberReader(ClassUnit("n1", tmp_path)) as reader:
        assert reader.read(listed[1]) == dict(photos("n1", 11))["n1_1.JPEG"]


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="no such call")
def test_a_class_is_announced_as_a_whole_and_what_cannot_be_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(os, "posix_fadvise", lambda _, *what: asked.append(what))
    found = unit(tmp_path, tar(photos("n1", 3)), before=b"\1" * 512, after=b"\1" * 512)
    read_ahead(found)
    assert asked == [(512, found.size, os.POSIX_FADV_WILLNEED)]
    for other in (tmp_path, tmp_path / "gone.tar"):
        read_ahead(ClassUnit("n1", other))
    assert len(asked) == 1


def test_a_vanished_source_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(PrepareError, match=r"Cannot read '.*gone.tar': No such file"):
        list_members(ClassUnit("n1", tmp_path / "gone.tar", 0, 512))


@given(
    st.lists(
        st.tuples(
            st.text(st.sampled_from("ab./\\\n\u00e9_"), min_size=1, max_size=130).map(lambda stem: f"{stem}.JPEG"),
            st.binary(max_size=1200),
        ),
        max_size=6,
    ),
    st.integers(0, 4),
    st.booleans(),
)
def test_plain_tars_are_listed_as_tarfile_lists_them(
    tmp_path_factory: pytest.TempPathFactory, entries: list[tuple[str, bytes]], cut: int, gnu: bool
) -> None:
    folder = tmp_path_factory.getbasetemp()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT if gnu else tarfile.PAX_FORMAT) as archive:
        for name, data in entries:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    data = out.getvalue()
    found = unit(folder, data[: len(data) - cut * 3000])
    with found.path.open("rb") as file:
        expected = _tar_members(file, found)
        assert _plain_members(file, found) in (None, expected.members)
    assert list_members(found) == expected


def test_a_tar_of_ordinary_files_needs_no_tarfile(tmp_path: Path) -> None:
    found = unit(tmp_path, tar(photos("n1", 3)), before=b"\1" * 512)
    with found.path.open("rb") as file:
        assert [m.name for m in _plain_members(file, found) or ()] == ["n1_0.JPEG", "n1_1.JPEG", "n1_2.JPEG"]


def test_the_faulty_class_has_thirty_members(tmp_path: Path) -> None:
    assert len(list_members(unit(tmp_path, tar(faulty()))).members) == 30
