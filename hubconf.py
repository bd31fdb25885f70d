"""Entry points of `torch.hub`: every weight of the manifest, under its names with '.' and '-' written as '_'."""

dependencies = ["torch", "timm", "numpy", "safetensors", "huggingface_hub"]

from miil21k.zoo import registry as _registry  # noqa: E402 - torch.hub reads the dependencies first

globals().update(_registry.hub_entrypoints())
