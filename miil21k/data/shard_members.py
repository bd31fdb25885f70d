"""Members of tar shards that a list names one by one, as predictions do: `SHARD.tar/MEMBER`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from miil21k.data.tar_inputs import Members, is_shard

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["ShardMembers"]


class ShardMembers:
    """Where the members lie that are among `names`, which start from the folder `root`; 20 bytes per name.

    A row is in it when its shard holds the member. Reads the headers of each shard once.
    """

    def __init__(self, names: Sequence[str], root: Path) -> None:
        self._shards: list[str] = []
        self._shard = np.full(len(names), -1, np.int32)
        self._offsets, self._sizes = np.zeros((2, len(names)), np.int64)
        wanted: dict[str, dict[str, list[int]]] = {}
        for row, name in enumerate(names):
            shard, mark, member = name.partition(".tar/")
            if mark:
                wanted.setdefault(f"{shard}.tar", {}).setdefault(member, []).append(row)
        for shard, members in wanted.items():
            path = os.fspath(root / shard)
            if is_shard(path):
                self._find(path, members)

    def _find(self, path: str, members: dict[str, list[int]]) -> None:
        """Note where `members` lie, and leave those that are not there."""
        self._shards.append(path)
        with open(path, "rb") as file:  # noqa: PTH123 - a name as a list has it
            for info in Members(file):
                rows = members.pop(info.name, None) if info.isreg() and not info.issparse() else None
                if rows is not None:
                    self._shard[rows] = len(self._shards) - 1
                    self._offsets[rows], self._sizes[rows] = info.offset_data, info.size

    def __contains__(self, row: object) -> bool:
        return isinstance(row, int) and bool(self._shard[row] >= 0)

    def read(self, row: int) -> bytes:
        """Return the bytes of the member that row `row` names; raises OSError."""
        with open(self._shards[self._shard[row]], "rb", buffering=0) as file:  # noqa: PTH123
            file.seek(int(self._offsets[row]))
            return file.read(int(self._sizes[row]))
