"""`miil21k verify` from the command line."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from miil21k.cli.main import main
from miil21k.files import replace_file
from miil21k.store.cache import Cache
from miil21k.zoo.manifest import find_weights

if TYPE_CHECKING:
    from pathlib import Path

PINNED, PUBLISHED = "mobilenetv3_large_100.miil_in21k", "tresnet_m.miil_in21k"


def _put(name: str, cache_dir: Path, content: bytes) -> None:
    cache = Cache.at(cache_dir)
    replace_file(cache.file(find_weights(name).sources[0]), content, parents=True)


def test_all_files_are_listed_and_a_wrong_one_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _put(PINNED, tmp_path, b"weights")
    assert main(["verify", "--all", "--cache-dir", str(tmp_path), "--json"]) == 0
    found = {row["name"]: row["status"] for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert found == {PINNED: "unpinned", "embedded": "ok"}
    _put(PUBLISHED, tmp_path, b"weights")
    assert main(["verify", "--all", "--cache-dir", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert f"mismatch  {PUBLISHED}" in out
    assert f"published is {find_weights(PUBLISHED).sources[0].sha256}" in out
    assert f"miil21k fetch --force {PUBLISHED}" in out


def test_a_name_that_is_not_cached_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", PINNED, "--cache-dir", str(tmp_path)]) == 1
    assert f"{PINNED} is not cached" in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["embedded", "--all"]])
def test_names_or_all_must_be_chosen(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", *words]) == 2
    assert "one of the two" in capsys.readouterr().err
