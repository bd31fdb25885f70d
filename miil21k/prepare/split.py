"""Which place every member of a class gets: a pure function of names and two numbers."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from miil21k.prepare.members import Member

__all__ = ["FOLDERS", "PLACES", "Assigned", "SplitPlace", "assign_places"]

SplitPlace = Literal["train", "val", "small_class", "duplicate", "failed"]
PLACES: tuple[SplitPlace, ...] = ("train", "val", "small_class", "duplicate", "failed")
FOLDERS: dict[SplitPlace, str] = {  # the published layout
    "train": "imagenet21k_train",
    "val": "imagenet21k_val",
    "small_class": "imagenet21k_small_classes",
}


class Assigned(NamedTuple):
    """A member with its place; reason: why it failed, empty otherwise."""

    member: Member
    place: SplitPlace
    reason: str = ""


def assign_places(
    members: Sequence[Member], min_images: int, val_per_class: int, *, repeated: bool = False
) -> list[Assigned]:
    """Return every member with its place, in bytewise order of the file names.

    A class is kept when strictly more than `min_images` of its members have image names; the first `val_per_class`
    of a kept class are for validation. Both count images that may turn out to be broken, as the published steps do.
    Of members with the same file name the last counts, as when a tar is unpacked; the others are duplicates.
    repeated: the source gave the class before, so everything here fails with `class_repeated`.
    """
    if repeated:
        return [Assigned(member, "failed", member.fault or "class_repeated") for member in _bytewise(members)]
    last = {member.basename: position for position, member in enumerate(members) if not member.fault}
    chosen = {position: member for position, member in enumerate(members) if last.get(member.basename) == position}
    images = _bytewise(list(chosen.values()))
    kept = len(images) > min_images
    place_of: dict[Member, SplitPlace] = {
        member: "small_class" if not kept else "val" if rank < val_per_class else "train"
        for rank, member in enumerate(images)
    }
    assigned = []
    for position, member in enumerate(members):
        if member.fault:
            assigned.append(Assigned(member, "failed", member.fault))
        else:
            assigned.append(Assigned(member, place_of[member] if position in chosen else "duplicate"))
    return sorted(assigned, key=lambda row: (os.fsencode(row.member.basename), row.member.offset))


def _bytewise(members: Sequence[Member]) -> list[Member]:
    return sorted(members, key=lambda member: os.fsencode(member.basename))
