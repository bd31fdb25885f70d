"""Duplicates: the same bytes, few bits of a hash, alike embeddings; which one stays; what is moved and put back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("lancedb", reason="the extra 'find' is not installed")
pytest.importorskip("scipy", reason="the extra 'find' is not installed")

from typing import TYPE_CHECKING

from pictures import made_up

from miil21k.cli.main import main
from miil21k.errors import UsageError
from miil21k.find.duplicates import DuplicateOptions, _near, find_duplicates

if TYPE_CHECKING:
    from miil21k.find.store import Index

HASHES = [0, 0b111, 2**64 - 1, 0, 2**40]
VECTORS = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 0.1], [0.9, 0.1, 0, 0]], np.float16)


@pytest.fixture
def photos(tmp_path: Path) -> Index:
    """0 and 3 have the same bytes, 1 and 4 look like them, 2 and 3 have like embeddings, and so do 0 and 4."""
    files = [tmp_path / "photos" / f"{number}.jpg" for number in range(5)]
    files[0].parent.mkdir()
    for number, file in enumerate(files):
        file.write_bytes(bytes([number % 3]) * 20)
    return made_up(
        tmp_path / "i.index", files, [[]] * 5, phash=HASHES, embedding=list(VECTORS), width=[10, 30, 10, 10, 10]
    )


def groups(photos: Index, *kinds: str, **options: object) -> list[tuple[str, tuple[int, ...]]]:
    return [tuple(g) for g in find_duplicates(photos, DuplicateOptions(kinds=kinds, **options))]  # type: ignore[arg-type, misc]


def test_each_kind_groups_what_it_says(photos: Index) -> None:
    assert groups(photos, "exact") == [("exact", (0, 3)), ("exact", (1, 4))]
    assert groups(photos, "near") == [("near", (1, 0, 3, 4))]  # 1 has most pixels
    assert groups(photos, "near", max_distance=2) == [("near", (0, 3, 4))]
    assert groups(photos, "near", max_distance=0) == [("near", (0, 3))]
    assert groups(photos, "similar", min_similarity=0.99) == [("similar", (0, 4)), ("similar", (2, 3))]
    assert groups(photos, "exact", "near") == [("near", (1, 0, 3, 4))]


def test_near_pairs_are_those_of_comparing_all(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    base = rng.integers(0, 2**63, 60, dtype=np.uint64)
    flips = np.array([sum(1 << int(b) for b in rng.choice(64, rng.integers(0, 9), replace=False)) for _ in range(240)])
    hashes = np.concatenate([base, np.repeat(base, 4) ^ flips.astype(np.uint64)])
    (tmp_path / "1.jpg").write_bytes(b"1")
    files = [tmp_path / "1.jpg"] * len(hashes)
    index = made_up(tmp_path / "i.index", files, [[]] * len(hashes), phash=hashes.tolist())
    distance = np.bitwise_count(hashes[:, None] ^ hashes[None, :])

    for most in (0, 3, 6):
        left, right = np.nonzero(np.triu(distance <= most, 1))
        found = _near(index, DuplicateOptions(max_distance=most))
        assert sorted(map(tuple, found.tolist())) == sorted(zip(left.tolist(), right.tolist(), strict=True))


def test_the_verb_lists_moves_and_puts_back(photos: Index, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(photos.names[0]).parent
    before = {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.iterdir()}
    (folder / "3.jpg.xmp").write_text("keywords")

    assert main(["duplicates", photos.path, "--kind", "exact", "-f", "jsonl"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["group"], row["keep"], Path(row["input"]).name) for row in rows] == [
        (1, True, "0.jpg"), (1, False, "3.jpg"), (2, True, "1.jpg"), (2, False, "4.jpg"),
    ]  # fmt: skip
    assert sorted(before) == sorted(file.name for file in folder.glob("*.jpg"))

    trash = folder.parent / "trash"
    assert main(["duplicates", photos.path, "--kind", "exact", "--apply", "--trash", str(trash)]) == 0
    assert sorted(file.name for file in folder.iterdir()) == ["0.jpg", "1.jpg", "2.jpg"]
    assert sorted(file.name for file in trash.rglob("*.jpg*")) == ["3.jpg", "3.jpg.xmp", "4.jpg"]
    assert main(["duplicates", "--undo", str(trash / "miil21k-undo.json")]) == 0
    (folder / "3.jpg.xmp").unlink()
    assert {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.iterdir()} == before


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(UsageError, match="must be exact or near or similar"):
        DuplicateOptions(kinds=("alike",))
