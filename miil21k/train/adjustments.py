"""What a recipe becomes on the device at hand and for the length of its run, with a sentence for each change."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from miil21k.train.recipe import Recipe

__all__ = ["adjust_average", "adjust_precision"]

CPUINFO = Path("/proc/cpuinfo")
_BF16 = {"avx512_bf16", "amx_bf16", "bf16"}  # as Linux calls them on x86 and on ARM


def adjust_precision(recipe: Recipe, device: torch.device, cpuinfo: Path = CPUINFO) -> tuple[Recipe, str]:
    """Return `recipe` in a precision that `device` computes at speed, and why it was changed; empty when it was not.

    On a CPU, fp16 becomes fp32, and so does bf16 where the processor lacks the instructions (as `cpuinfo` tells on
    Linux): both would be emulated, many times as slowly.
    """
    if device.type != "cpu" or recipe.precision == "fp32":
        return recipe, ""
    if recipe.precision == "bf16" and _has_bf16(cpuinfo):
        return recipe, ""
    lacks = "a CPU has no fast fp16" if recipe.precision == "fp16" else "this CPU has no bfloat16 instructions"
    return replace(recipe, precision="fp32"), f"Training in fp32 instead of {recipe.precision}: {lacks}."


def _has_bf16(cpuinfo: Path) -> bool:
    if not cpuinfo.exists():
        return True  # not Linux: nothing says that they are missing
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    flags = {flag for line in lines if line.startswith(("flags", "Features")) for flag in line.split()}
    return not flags.isdisjoint(_BF16)


def adjust_average(recipe: Recipe, updates: int) -> tuple[Recipe, str]:
    """Return `recipe` with a moving average that suits a run of `updates`, and what was changed.

    It averages over about 1 / (1 - decay) updates, and over a tenth of the run at most: decay = min(decay,
    1 - 10 / updates), and at least 0.5. USI's 0.99996 averages over 25,000 of 388,000 updates, and stays as it is.
    """
    decay = round(min(recipe.ema_decay, max(0.5, 1 - 10 / updates)), 6)
    if decay == recipe.ema_decay:
        return recipe, ""
    change = (
        f"The moving average decays by {decay:g} instead of {recipe.ema_decay:g}, so that it is one over a tenth of "
        f"the {updates:,} updates."
    )
    return replace(recipe, ema_decay=decay), change
