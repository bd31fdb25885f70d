"""Selected images in shards: each row once, with its label, in an order of its own, and gone on with after a kill."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from shapes import write_folders

from miil21k.data.datasets import open_source
from miil21k.errors import UsageError
from miil21k.teachers import pack as module
from miil21k.teachers.pack import pack


def silent(_: str) -> None:
    pass


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    """Return a list of 9 rows over 6 images; one image stands for two classes, two lie in a shard, one is no file."""
    write_folders(tmp_path / "pool", 2, names=("red", "blue"))
    with tarfile.open(tmp_path / "p.tar", "w") as tar:
        for name in ("red/red_0.jpg", "blue/blue_0.jpg"):
            tar.add(tmp_path / "pool" / name, Path(name).name)
    (tmp_path / "pool" / "folder.jpg").mkdir()
    names = ["pool/red/red_0.jpg", "pool/red/red_1.jpg", "p.tar/red_0.jpg", "pool/folder.jpg"]
    blue = ["pool/blue/blue_0.jpg", "pool/blue/blue_1.jpg", "p.tar/blue_0.jpg", "pool/red/red_1.jpg"]
    rows = [f"red,{rank},1,{name}" for rank, name in enumerate(names)]
    rows += [f"blue,{rank},1,{name}" for rank, name in enumerate(blue)]
    (tmp_path / "s.csv").write_text("\n".join(["wnid,rank,score,input", *rows]) + "\n", encoding="utf-8")
    return tmp_path / "s.csv"


def test_every_row_is_a_sample_and_training_reads_them(listed: Path, tmp_path: Path) -> None:
    done = pack(listed, tmp_path / "shards", 3, root=tmp_path, say=silent)
    assert (done["images"], done["unreadable"], len(done["shards"])) == (7, 1, 3)
    source = open_source(str(tmp_path / "shards" / "index.json"))
    found = sorted((source.keys[source.key_of[row]], source.read(row)) for row in range(len(source)))
    read = (tmp_path / "pool").joinpath
    red0, red1 = (read(f"red/red_{n}.jpg").read_bytes() for n in range(2))
    blue0, blue1 = (read(f"blue/blue_{n}.jpg").read_bytes() for n in range(2))
    reds, blues = (red0, red0, red1), (blue0, blue0, blue1, red1)
    assert found == sorted([*(("red", one) for one in reds), *(("blue", one) for one in blues)])
    first = [source.keys[key] for key in source.key_of.tolist()]
    assert first != sorted(first), "classes are shuffled"


def test_shards_that_are_there_are_not_written_again_and_the_rest_is_the_same(
    listed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = pack(listed, tmp_path / "whole", 2, root=tmp_path, say=silent)
    write = module._write

    def killed(*args: Any) -> Any:
        if args[-1] == 2:
            raise KeyboardInterrupt
        return write(*args)

    with monkeypatch.context() as patch:
        patch.setattr(module, "_write", killed)
        with pytest.raises(KeyboardInterrupt):
            pack(listed, tmp_path / "part", 2, root=tmp_path, workers=0, say=silent)
    times = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "part").glob("*.tar")}
    assert sorted(times) == ["selected-000000.tar", "selected-000001.tar"]
    assert pack(listed, tmp_path / "part", 2, root=tmp_path, say=silent) == whole
    for shard in whole["shards"]:
        mine, theirs = tmp_path / "part" / shard["name"], tmp_path / "whole" / shard["name"]
        assert mine.read_bytes() == theirs.read_bytes()
        assert times.get(shard["name"], mine.stat().st_mtime_ns) == mine.stat().st_mtime_ns
    assert pack(listed, tmp_path / "part", 2, root=tmp_path / "nowhere", say=silent) == whole, (
        "complete: nothing is read"
    )
    with pytest.raises(UsageError, match="another list, or of another size"):
        pack(listed, tmp_path / "part", 3, root=tmp_path, say=silent)
    assert json.loads((tmp_path / "part" / "index.json").read_text(encoding="utf-8"))["images"] == 7
