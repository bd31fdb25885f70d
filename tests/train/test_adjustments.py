from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from miil21k.train.adjustments import adjust_average, adjust_precision
from miil21k.train.recipe import Recipe
from miil21k.train.recipes import RECIPES

if TYPE_CHECKING:
    from pathlib import Path

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("precision", "flags", "becomes", "says"),
    [
        ("fp32", "fpu avx2", "fp32", ""),
        ("fp16", "fpu avx2 avx512_bf16 amx_bf16", "fp32", "fp32 instead of fp16: a CPU has no fast fp16"),
        ("bf16", "fpu avx2 avx512f", "fp32", "fp32 instead of bf16: this CPU has no bfloat16 instructions"),
        ("bf16", "fpu avx512_bf16", "bf16", ""),
        ("bf16", "fpu amx_bf16", "bf16", ""),
    ],
)
def test_a_cpu_trains_in_what_it_computes_at_speed(
    tmp_path: Path, precision: str, flags: str, becomes: str, says: str
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nmodel name\t: a bf16 one\nflags\t\t: {flags}\n")
    recipe = replace(RECIPES["miil_semantic"], precision=precision)
    found, change = adjust_precision(recipe, CPU, cpuinfo)
    assert found == replace(recipe, precision=becomes)
    assert says in change
    assert bool(change) == bool(says)


def test_an_arm_with_bf16_is_known_and_no_list_of_instructions_forbids_nothing(tmp_path: Path) -> None:
    recipe = replace(RECIPES["miil_semantic"], precision="bf16")
    assert adjust_precision(recipe, CPU, tmp_path / "absent") == (recipe, "")
    (tmp_path / "cpuinfo").write_text("processor: 0\nFeatures\t: fp asimd bf16 i8mm\n")
    assert adjust_precision(recipe, CPU, tmp_path / "cpuinfo") == (recipe, "")


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_a_gpu_keeps_the_precision_of_the_recipe(precision: str) -> None:
    recipe = replace(RECIPES["miil_semantic"], precision=precision)
    assert adjust_precision(recipe, GPU) == (recipe, "")


@pytest.mark.parametrize(
    ("decay", "updates", "becomes"),
    [
        (0.99996, 310 * 1251, 0.99996),
        (0.99996, 250_000, 0.99996),  # over 25,000 updates, just a tenth
        (0.99996, 100_000, 0.9999),
        (0.99996, 1000, 0.99),
        (0.995, 1999, 0.994997),
        (0.995, 2000, 0.995),
        (0.9999, 5, 0.5),
        (0.0, 5, 0.0),
    ],
)
def test_an_average_is_over_a_tenth_of_the_run_at_most(decay: float, updates: int, becomes: float) -> None:
    recipe = Recipe("cross_entropy", ema_decay=decay)
    found, change = adjust_average(recipe, updates)
    assert found == replace(recipe, ema_decay=becomes)
    assert bool(change) == (becomes != decay)
    assert not decay or becomes**updates < 0.5
