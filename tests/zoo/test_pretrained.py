"""The whole way: a published name, the Hub, the cache, the converted file, a model; and again without a network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import timm
import torch
from hub_server import HubServer
from safetensors.torch import save

from miil21k.zoo.manifest import find_weights
from miil21k.zoo.registry import create_model

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

NAME = "resnet18.fb_ssl_yfcc100m_ft_in1k"


def test_a_pretrained_model_comes_from_the_hub_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    source = find_weights(NAME).sources[0]
    assert (source.kind, source.sha256) == ("hub", None)
    published = timm.create_model("resnet18", num_classes=1000).eval()
    images = torch.rand(2, 3, 64, 64)
    with HubServer() as hub, torch.inference_mode():
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        hub.publish(source.repo, source.file, save(published.state_dict()))
        first = create_model(NAME, pretrained=True, cache_dir=tmp_path).eval()
        assert torch.equal(first(images), published(images))
        asked = len(hub.requests)
        again = create_model("resnet18_ssl", pretrained=True, cache_dir=tmp_path, offline=True).eval()
        assert torch.equal(again(images), published(images))
        assert len(hub.requests) == asked
    gone = create_model(NAME, pretrained=True, cache_dir=tmp_path).eval()
    assert torch.equal(gone(images), published(images)), "online, but nobody needs to be asked"
