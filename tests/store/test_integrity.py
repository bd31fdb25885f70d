"""What can be told of a file: its digest, and whether it is a whole file of its format."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from safetensors.numpy import save

from miil21k.errors import CheckpointError
from miil21k.store import integrity
from miil21k.store.integrity import digest_fits, file_damage, sha256_of, tensors_digest

if TYPE_CHECKING:
    from pathlib import Path

    from miil21k.zoo.schema import FileFormat

SAFE = save({"head": np.arange(6, dtype=np.float32)})


def zipped() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("data.pkl", b"x" * 100)
    return content.getvalue()


def test_a_digest_is_that_of_all_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.bin"
    content = np.random.default_rng(0).bytes(1000)
    path.write_bytes(content)
    for block in (1 << 20, 300):
        monkeypatch.setattr(integrity, "_BLOCK", block)
        assert sha256_of(path) == hashlib.sha256(content).hexdigest()
    with pytest.raises(CheckpointError) as caught:
        sha256_of(tmp_path / "absent")
    assert str(caught.value) == f"Cannot read {tmp_path / 'absent'}: No such file or directory."


@pytest.mark.parametrize(
    ("expected", "fits"), [("ab12", True), ("AB", True), ("a", True), ("", False), ("b", False), ("ab12cd345", False)]
)
def test_a_digest_fits_its_beginning_in_any_case(expected: str, fits: bool) -> None:
    assert digest_fits("ab12cd34", expected) is fits


@pytest.mark.parametrize(
    ("file_format", "content", "damage"),
    [
        ("safetensors", SAFE, None),
        ("safetensors", SAFE[:40], "the file is cut inside its header"),
        ("safetensors", b"<html>403</html>", "no safetensors file: it begins with b'<html>40'"),
        ("safetensors", b"", "no safetensors file: it begins with b''"),
        ("json", b'  {"a": 1}', None),
        ("json", b"[1, 2, 3, 4]", "no JSON object: it begins with b'[1, 2, 3'"),
        ("pth", zipped(), None),
        ("pth", zipped()[:-30], "the archive is cut"),
        ("pth", b"\x80\x02}q\x00.", None),
        ("pth", b"<html>403</html>", "no pth file: it begins with b'<html>40'"),
        ("npz", zipped(), None),
        ("npz", b"\x80\x02}q\x00.", "no npz file: it begins with b'\\x80\\x02}q\\x00.'"),
    ],
)
def test_what_is_no_whole_file_of_its_format_says_so(
    tmp_path: Path, file_format: FileFormat, content: bytes, damage: str | None
) -> None:
    path = tmp_path / "net.bin"
    path.write_bytes(content)
    assert file_damage(path, file_format) == damage


def test_a_safetensors_file_holds_exactly_the_tensors_that_it_lists(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    for content in (SAFE[:-1], SAFE + b"x"):
        path.write_bytes(content)
        assert str(file_damage(path, "safetensors")).startswith("damaged safetensors file (")
    header = json.dumps({}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)  # as short as a header may be: nothing behind it
    assert file_damage(path, "safetensors") is None


def test_the_digest_of_tensors_follows_names_types_shapes_and_values_alone() -> None:
    net = torch.nn.Linear(3, 2)
    with torch.no_grad():
        net.weight.copy_(torch.arange(6).reshape(2, 3))
        net.bias.zero_()
    text = hashlib.sha256()
    for name, values in (("bias", np.zeros(2, np.float32)), ("weight", np.arange(6, dtype=np.float32).reshape(2, 3))):
        text.update(f"{name} torch.float32 {values.shape}\n".encode())
        text.update(values.tobytes())
    assert tensors_digest(net) == text.hexdigest()
    turned = torch.nn.Linear(3, 2)
    turned.weight = torch.nn.Parameter(net.weight.detach().t().contiguous().t())  # other strides, equal values
    turned.bias = torch.nn.Parameter(net.bias.detach().clone())
    assert tensors_digest(turned) == text.hexdigest()
