"""Figures of training one network: a step forwards and back, and one of the optimizer."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from miil21k.benchmark.measure import peak_memory, try_batches
from miil21k.errors import UsageError
from miil21k.runtime.torch_backend import choose_device

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from miil21k.benchmark.contestants import Entry
    from miil21k.benchmark.options import BenchmarkOptions

__all__ = ["measure_training"]

_HALF = {"fp16": torch.float16, "bf16": torch.bfloat16}


def measure_training(entry: Entry, options: BenchmarkOptions) -> Iterator[dict[str, Any]]:
    """Yield figures of training as they become known, each replacing those before.

    A step is cross-entropy, forwards and back, and SGD with momentum, on noise that lies on the device, channels last;
    fp16 and bf16 by autocast.
    """
    device = choose_device(options.load.device)
    torch.set_num_threads(options.threads)
    loaded = entry.network(options.load)
    model: Any = loaded.model.float().requires_grad_(True).train()
    model.to(device=device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    scaler = torch.amp.GradScaler(device) if entry.dtype == "fp16" else None
    classes = loaded.space.num_classes

    def step_of(batch: int) -> Callable[[], object]:
        images = torch.randn(1, *entry.input_size).expand(batch, -1, -1, -1)
        images = images.to(device=device, memory_format=torch.channels_last).contiguous(
            memory_format=torch.channels_last
        )
        labels = torch.arange(batch, device=device) % classes

        def step() -> float:
            half = _HALF.get(entry.dtype)
            with torch.autocast(device.partition(":")[0], half) if half is not None else nullcontext():
                loss: Any = nn.functional.cross_entropy(model(images), labels)
            if scaler is None:
                loss.backward()
                optimizer.step()
            else:
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
            optimizer.zero_grad(set_to_none=True)
            return float(loss.detach())  # waits for the device

        return step

    for found in try_batches(step_of, options.most(device), options.lasts, first=2):
        if not found.largest:
            raise UsageError("memory refuses a batch of two")
        yield {
            "training_device": device,
            "largest_training_batch": found.largest,
            "largest_training_batch_bound": found.bound,
            "training_images_per_second": round(found.rate, 2),
            "training_batch": found.batch,
            "training_memory_mib": None if (most := peak_memory(device)) is None else round(most, 1),
        }
