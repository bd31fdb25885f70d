"""`miil21k fetch` from the command line to a real server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hub_server import HubServer
from safetensors.numpy import save

from miil21k.cli.main import main
from miil21k.errors import ChecksumMismatch
from miil21k.store.cache import remove_with_blob
from miil21k.store.download import fetch_weights
from miil21k.zoo.manifest import find_weights

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = "mobilenetv3_large_100.miil_in21k"
CONTENT = save({"head.weight": np.arange(1000, dtype=np.float32)})


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    with HubServer() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        server.publish(find_weights(NAME).sources[0].repo, "model.safetensors", CONTENT)
        yield server


def test_the_path_is_printed_and_the_file_is_there(
    hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fetch", "--no-export", NAME, "--cache-dir", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert (tmp_path / out.strip()).read_bytes() == CONTENT
    assert err == ""


def test_one_failure_does_not_stop_the_others(
    hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["fetch", "--no-export", "resnet50_miil_21k", NAME, "--cache-dir", str(tmp_path), "--json"]
    assert main(["fetch", "--no-export", NAME, "--cache-dir", str(tmp_path), "-q"]) == 0
    capsys.readouterr()
    assert main([*words, "--offline"]) == 1
    failed, done = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (failed["status"], done["status"]) == ("error", "ok")
    assert "off limits" in failed["error"]
    assert done["bytes"] == len(CONTENT)


def test_a_dry_run_names_the_sources_in_order_and_asks_nobody(
    hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fetch", "--no-export", NAME, "--dry-run", "--json", "--cache-dir", str(tmp_path)]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert [s["source"] for s in plan["sources"]] == [s.where for s in find_weights(NAME).sources]
    assert plan["licence"] == find_weights(NAME).licence
    assert main(["fetch", "--no-export", NAME, "--dry-run", "--cache-dir", str(tmp_path)]) == 0
    assert "no digest published: pinned on first use" in capsys.readouterr().out
    assert hub.requests == []
    assert list(tmp_path.iterdir()) == []


def test_force_replaces_a_file_that_was_replaced_on_purpose(
    hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fetch", "--no-export", NAME, "--cache-dir", str(tmp_path), "-q"]) == 0
    other = save({"head.weight": np.zeros(1000, dtype=np.float32)})
    hub.publish(find_weights(NAME).sources[0].repo, "model.safetensors", other)
    capsys.readouterr()
    assert main(["fetch", "--no-export", NAME, "--cache-dir", str(tmp_path), "-q", "--force"]) == 0
    assert (tmp_path / capsys.readouterr().out.strip()).read_bytes() == other
    assert main(["verify", NAME, "--cache-dir", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("ok ") == 1, "the old file is gone from the Hub's cache too"
    assert main(["fetch", "--no-export", NAME, "--cache-dir", str(tmp_path), "--force", "--offline"]) == 2


def test_force_keeps_the_old_file_where_nothing_new_comes(
    hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["fetch", "--no-export", NAME, "--cache-dir", str(tmp_path), "-q"]) == 0
    path = tmp_path / capsys.readouterr().out.strip()
    row = find_weights(NAME)
    only_hub = row._replace(sources=row.sources[:1])  # its mirrors are real hosts
    monkeypatch.setattr("miil21k.cli.fetch.trained_weights", lambda name, **_: only_hub)
    hub.repos.clear()
    assert main(["fetch", "--no-export", NAME, "--cache-dir", str(tmp_path), "-q", "--force"]) == 1
    assert "HTTP 401" in capsys.readouterr().err
    assert path.read_bytes() == CONTENT
    assert main(["fetch", "--no-export", NAME, "--cache-dir", str(tmp_path), "--offline"]) == 0


def test_force_leaves_the_file_of_a_package_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fetch", "--no-export", "embedded", "--cache-dir", str(tmp_path), "--force"]) == 0
    path = Path(capsys.readouterr().out.strip())
    assert path.stat().st_size == 18_826_032
    assert not path.is_relative_to(tmp_path)


def test_an_unknown_name_is_a_usage_error_before_anything_is_fetched(
    hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fetch", "--no-export", NAME, "tresnet_x", "--cache-dir", str(tmp_path)]) == 2
    assert "tresnet_x" in capsys.readouterr().err
    assert hub.requests == []


@pytest.mark.parametrize("name", ["embedded", "resnet50_miil_21k"])
def test_a_revision_of_what_is_not_on_the_hub_is_a_usage_error(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fetch", "--no-export", name, "--revision", "main"]) == 2
    assert "is not on the Hub, so it has no revision 'main'" in capsys.readouterr().err


def test_weights_of_timm_are_fetched_and_verified_like_ours(
    hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.publish("timm/test_resnet.r160_in1k", "model.safetensors", CONTENT)
    assert main(["fetch", "--no-export", "test_resnet.r160_in1k", "--cache-dir", str(tmp_path)]) == 0
    assert Path(capsys.readouterr().out.strip()).read_bytes() == CONTENT
    assert main(["verify", "test_resnet.r160_in1k", "--cache-dir", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("ok ")
    assert main(["fetch", "--no-export", "test_resnet", "--cache-dir", str(tmp_path)]) == 2
    assert "is an architecture, not a trained weight. Name one of: test_resnet." in capsys.readouterr().err


def test_a_new_file_in_the_place_of_a_pinned_one_needs_a_word(
    hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["fetch", "--no-export", NAME, "--cache-dir", str(tmp_path)]
    assert main(words) == 0
    remove_with_blob(Path(capsys.readouterr().out.strip()))
    repo, second = find_weights(NAME).sources[0].repo, find_weights(NAME).sources[1]
    del hub.repos[repo]["model.safetensors"]
    torch.save({"head.weight": torch.zeros(3)}, tmp_path / "other.bin")
    hub.publish(repo, second.file, (tmp_path / "other.bin").read_bytes())
    row = find_weights(NAME)._replace(sources=(find_weights(NAME).sources[0], second))
    with pytest.raises(ChecksumMismatch, match=r"model.safetensors@main \(HTTP 404.*fetch --accept-new mobilenetv3"):
        fetch_weights(row, cache_dir=tmp_path)
    assert main([*words, "--accept-new"]) == 0
    assert Path(capsys.readouterr().out.strip()).name == second.file
