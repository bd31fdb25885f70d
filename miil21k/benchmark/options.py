"""What is measured, and for how long: a frozen value that the command line shares."""

from __future__ import annotations

from dataclasses import dataclass, field

from miil21k.environment import available_cpus
from miil21k.errors import UsageError
from miil21k.options import Instead, check, described, option
from miil21k.runtime.options import Dtype, LoadOptions
from miil21k.runtime.registry import RUNTIMES, find_runtime
from miil21k.text import did_you_mean

__all__ = ["DTYPES", "BenchmarkOptions"]

DTYPES: tuple[Dtype, ...] = ("fp32", "fp16", "bf16")


@described
@dataclass(frozen=True)
class BenchmarkOptions:
    """What is measured, and for how long.

    runtimes: keys of `RUNTIMES`; None for all. dtypes: precisions. load: which weights are meant and what computes;
    its `backend` and `dtype` play no part.
    """

    runtimes: tuple[str, ...] | None = None
    dtypes: tuple[Dtype, ...] = ("fp32",)
    training: bool = option(
        True, "measure training too", flags=None, instead={"--no-training": Instead(False, "leave training out")}
    )
    batches: bool = option(
        True,
        "measure batches too",
        flags=None,
        instead={"--latency-only": Instead(False, "measure batch 1 alone, without batches and training")},
    )
    max_batch: int | None = option(
        None, "no larger batch is tried (default: 64 on a CPU, 2,048 elsewhere; 8 with --quick)", metavar="N", least=1
    )
    seconds: float | None = option(
        None, "that each figure is measured for (default: 2; 0.3 with --quick)", metavar="S", above=0
    )
    quick: bool = option(False, "a first look, in seconds")
    load: LoadOptions = field(default_factory=LoadOptions)

    def __post_init__(self) -> None:
        check(self)
        for name in self.runtimes or ():
            find_runtime(name)
        for dtype in self.dtypes:
            if dtype not in DTYPES:
                raise UsageError(f"No precision '{dtype}'.{did_you_mean(dtype, DTYPES)} There are {', '.join(DTYPES)}.")

    @property
    def libraries(self) -> tuple[str, ...]:
        """The runtimes that are measured."""
        return self.runtimes if self.runtimes is not None else tuple(RUNTIMES)

    @property
    def lasts(self) -> float:
        """Seconds that each figure is measured for."""
        return self.seconds if self.seconds is not None else 0.3 if self.quick else 2.0

    @property
    def threads(self) -> int:
        """CPU threads of a forward pass."""
        return self.load.threads or available_cpus()

    def most(self, device: str) -> int:
        """Return the largest batch that is tried on a device."""
        return self.max_batch or (8 if self.quick else 64 if device == "cpu" else 2048)
