"""Reading checkpoint files of every kind, refusing dangerous and damaged ones, and the strict fit."""

from __future__ import annotations

import argparse
import io
import os
import pickle
import zipfile
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from miil21k.errors import CheckpointError, CheckpointMismatch
from miil21k.zoo.checkpoint import load_strictly, read_state_dict

if TYPE_CHECKING:
    from pathlib import Path

TENSORS = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.tensor([1.5, -2.0])}


def _assert_read(path: Path) -> None:
    found = read_state_dict(path)
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[k], TENSORS[k]) for k in TENSORS)


@pytest.mark.parametrize("wrapped", [TENSORS, {"state_dict": TENSORS}, {"model": TENSORS, "epoch": 3}])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_is_unwrapped(wrapped: dict[str, object], zipped: bool, tmp_path: Path) -> None:
    torch.save(wrapped, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    _assert_read(tmp_path / "x.pth")


def test_safetensors_and_numpy_archives_are_known_by_their_content(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "x.pth")
    _assert_read(tmp_path / "x.pth")
    with (tmp_path / "y.bin").open("wb") as file:
        np.savez(file, **{k: v.numpy() for k, v in TENSORS.items()})
    _assert_read(tmp_path / "y.bin")


def test_the_namespace_of_a_usi_run_is_read_without_running_code(tmp_path: Path) -> None:
    run = {"state_dict": TENSORS, "epoch": 9, "arch": "resnet50", "args": argparse.Namespace(lr=0.1), "metric": 81.0}
    torch.save(run, tmp_path / "x.pth")
    _assert_read(tmp_path / "x.pth")


class Bomb:
    """Runs a command when it is unpickled."""

    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.flag}",)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_is_refused_and_does_not_run(zipped: bool, tmp_path: Path) -> None:
    flag = tmp_path / "ran"
    torch.save({"state_dict": TENSORS, "x": Bomb(flag)}, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"x\.pth is refused: opening it would run code"):
        read_state_dict(tmp_path / "x.pth")
    assert not flag.exists()
    assert [f.name for f in tmp_path.iterdir()] == ["x.pth"]


def test_objects_in_a_numpy_archive_are_refused(tmp_path: Path) -> None:
    flag = tmp_path / "ran"
    with (tmp_path / "x.npz").open("wb") as file:
        np.savez(file, a=np.array([Bomb(flag)], dtype=object))
    with pytest.raises(CheckpointError, match="damaged or no checkpoint"):
        read_state_dict(tmp_path / "x.npz")
    assert not flag.exists()


@pytest.mark.parametrize("kind", ["safetensors", "pth", "old", "npz"])
@pytest.mark.parametrize("keep", [0.0, 0.05, 0.5, 0.98])
def test_a_truncated_file_is_refused_in_one_sentence(kind: str, keep: float, tmp_path: Path) -> None:
    path = tmp_path / f"x.{kind}"
    tensors = {k: torch.randn(50, 50) for k in "abc"}
    if kind == "safetensors":
        save_file(tensors, path)
    elif kind == "npz":
        np.savez(path, **{k: v.numpy() for k, v in tensors.items()})
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=kind == "pth")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(CheckpointError, match="damaged or no checkpoint") as caught:
        read_state_dict(path)
    assert "\n" not in str(caught.value)


def test_an_archive_that_unpacks_to_far_more_than_its_size_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", bytes(50_000_000))
    assert path.stat().st_size < 100_000
    with pytest.raises(CheckpointError, match=r"unpacks to \d+ times its size"):
        read_state_dict(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "expected named tensors, found list"),
        ({}, "expected named tensors"),
        ({"a": 3}, "'a' is of type int, not a dense tensor"),
        ({"state_dict": {"a": torch.zeros(1), 5: torch.zeros(1)}}, "'5' is of type Tensor"),
    ],
)
def test_a_file_that_holds_no_state_dict_is_refused(content: object, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=message):
        read_state_dict(tmp_path / "x.pth")


@pytest.mark.parametrize("order", ["[" * 50_000, "7", "null", '[1, "a.bias"]', '{"a.bias": 1}'])
def test_a_note_of_the_order_that_is_none_is_no_crash(order: str, tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "x.safetensors", metadata={"tensor_order": order})
    if order.startswith("[["):
        with pytest.raises(CheckpointError, match="damaged or no checkpoint"):
            read_state_dict(tmp_path / "x.safetensors")
    else:
        _assert_read(tmp_path / "x.safetensors")


def test_an_array_that_claims_more_than_the_memory_is_refused(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (1 << 48,)})
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("a.npy", header.getvalue())
    with pytest.raises(CheckpointError, match="damaged or no checkpoint"):
        read_state_dict(tmp_path / "x.npz")


def test_a_view_that_repeats_a_few_bytes_without_end_is_refused(tmp_path: Path) -> None:
    torch.save({"fc.weight": torch.zeros(1).expand(10**9, 512)}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"'fc\.weight' claims 2048000000000 bytes and holds 4"):
        read_state_dict(tmp_path / "x.pth")


def test_a_missing_file_and_a_picture_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"Cannot read the checkpoint .*no\.pth: No such file"):
        read_state_dict(tmp_path / "no.pth")
    (tmp_path / "x.pth").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)))
    with pytest.raises(CheckpointError, match="damaged or no checkpoint"):
        read_state_dict(tmp_path / "x.pth")
    (tmp_path / "y.pth").write_bytes(pickle.dumps({"a": 1}, protocol=4))
    with pytest.raises(CheckpointError):
        read_state_dict(tmp_path / "y.pth")


def _net() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def test_a_fit_copies_every_tensor_and_keeps_dtype_and_requires_grad() -> None:
    net, other = _net(), _net()
    net[0].bias.requires_grad_(False)
    load_strictly(net, {k: v.half() if v.is_floating_point() else v for k, v in other.state_dict().items()}, "net")
    assert net[0].weight.dtype == torch.float32
    assert torch.allclose(net[0].weight, other[0].weight, atol=1e-3)
    assert (net[0].weight.requires_grad, net[0].bias.requires_grad) == (True, False)
    assert isinstance(net[0].weight, nn.Parameter)


def test_batch_counters_may_be_missing_and_start_at_zero() -> None:
    net, state = _net(), _net().state_dict()
    del state["1.num_batches_tracked"]
    load_strictly(net, state, "net")
    assert net[1].num_batches_tracked.item() == 0


def test_a_misfit_lists_what_is_missing_unexpected_and_misshaped() -> None:
    state = _net().state_dict()
    state["2.weight"] = state.pop("0.bias")
    state["0.weight"] = torch.zeros(2, 4)
    net = _net()
    before = net[1].running_var.clone()
    state["1.running_var"] = before + 1
    with pytest.raises(CheckpointMismatch) as caught:
        load_strictly(net, state, "net")
    assert str(caught.value) == (
        "The checkpoint does not fit net: 1 missing (0.bias); 1 unexpected (2.weight); "
        "1 mis-shaped (0.weight (2, 4) instead of (2, 3))."
    )
    assert torch.equal(net[1].running_var, before)  # nothing was loaded half-way


def test_whole_numbers_are_no_weights() -> None:
    net = _net()
    with pytest.raises(CheckpointMismatch, match=r"1 not floating-point \(0\.weight torch\.int64\)"):
        load_strictly(net, {**net.state_dict(), "0.weight": torch.ones(2, 3, dtype=torch.int64)}, "net")


def test_a_long_report_is_cut() -> None:
    with pytest.raises(CheckpointMismatch, match=r"12 unexpected \(x0, x1, x10, x11, x2 and 7 more\)"):
        load_strictly(_net(), {**_net().state_dict(), **{f"x{i}": torch.zeros(1) for i in range(12)}}, "net")
