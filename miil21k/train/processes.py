"""The processes of a run: one, or as many as torchrun started.

Scale comes from `torchrun` alone; its environment variables say who we are. NCCL carries gradients between GPUs and
gloo everything on CPUs.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist

from miil21k.runtime.torch_backend import choose_device

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import nn

T = TypeVar("T")

__all__ = ["Processes", "join_processes", "leave_processes", "pick_device"]


@dataclass(frozen=True)
class Processes:
    """Which process this is: `rank` of `world`.

    It holds nothing of torch: whoever holds a group of processes keeps its threads alive after `leave_processes`, and
    one that frees its last tensor while Python shuts down aborts the process.
    """

    rank: int = 0
    world: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and reports."""
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Return the sums of `values` over all processes (float64)."""
        if self.world == 1:
            return [float(value) for value in values]
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor)
        return [float(value) for value in tensor]

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all processes in rank order; value: anything that pickles."""
        if self.world == 1:
            return [value]
        found: list[Any] = [None] * self.world
        dist.all_gather_object(found, value)
        return found

    def share_buffers(self, module: nn.Module) -> None:
        """Give every process the buffers that the main process has (running statistics differ between processes)."""
        if self.world > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, src=0)

    def first(self, work: Callable[[], T]) -> T:
        """Return work(), done by the main process before the others, so that they find what it downloaded."""
        if not self.is_main:
            self.wait()
        result = work()
        if self.is_main:
            self.wait()
        return result

    def wait(self) -> None:
        """Return when every process has come here."""
        if self.world > 1:
            dist.barrier()


def join_processes(device: torch.device) -> Processes:
    """Join the processes that torchrun started; a run that was started plainly is alone."""
    if "LOCAL_RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Processes()
    # Numbers and objects live on the CPU and go through gloo there, also where gradients go between GPUs.
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    return Processes(dist.get_rank(), dist.get_world_size())


def leave_processes() -> None:
    """Leave the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def pick_device(name: str) -> torch.device:
    """Return the device called `name`, as `choose_device` reads it; `cuda` is another GPU in each local process."""
    device = torch.device(choose_device(name))
    if device.type == "cuda" and ":" not in name:
        device = torch.device(choose_device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}"))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device
