"""Optimizer, learning-rate schedule and frozen parts of a model, from a recipe."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from miil21k.errors import UsageError
from miil21k.text import did_you_mean

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from miil21k.train.recipe import Recipe

__all__ = ["Schedule", "batch_norms", "create_optimizer", "freeze", "one_cycle"]


def create_optimizer(model: nn.Module, recipe: Recipe) -> Optimizer:
    """Return timm's optimizer for the trainable parameters; biases and 1-D parameters get no weight decay.

    Without momentum there is nothing to look ahead with: what timm makes with Nesterov's is then made without.
    Raises UsageError for an unknown name, and for an optimizer that this machine or these settings do not allow.
    """
    from timm.optim import create_optimizer_v2, get_optimizer_info, list_optimizers

    try:
        info = get_optimizer_info(recipe.optimizer)
    except ValueError:
        raise UsageError(
            f"No optimizer '{recipe.optimizer}'.{did_you_mean(recipe.optimizer, list_optimizers())} "
            "The names are those of timm: adam, adamw, sgd, lamb, ..."
        ) from None
    plain = not recipe.momentum and (info.defaults or {}).get("nesterov")
    try:
        optimizer: Optimizer = create_optimizer_v2(
            model,
            opt=recipe.optimizer,
            lr=recipe.lr,
            weight_decay=recipe.weight_decay,
            momentum=recipe.momentum,
            layer_decay=recipe.layer_decay if recipe.layer_decay < 1 else None,
            **({"nesterov": False} if plain else {}),
        )
    except (ValueError, AssertionError, ImportError) as error:
        raise UsageError(f"The optimizer '{recipe.optimizer}' cannot be used here: {error}.") from None
    return optimizer


def one_cycle(step: int, total: int, peak: float, recipe: Recipe) -> float:
    """Return the learning rate of step `step` (from 0) of `total` under the one-cycle policy, as torch computes it.

    Cosine from peak / div_factor up to peak over the first pct_start of the steps, then cosine down to
    peak / div_factor / final_div_factor. Source: Smith and Topin 2017, in the two-phase form of OneCycleLR.
    """
    low = peak / recipe.div_factor
    top, end = recipe.pct_start * total - 1, total - 1
    if step <= top:
        return _cosine(low, peak, step / top if top else 1.0)
    return _cosine(peak, low / recipe.final_div_factor, (step - top) / (end - top))


def _cosine(start: float, stop: float, share: float) -> float:
    return stop + (start - stop) / 2 * (1 + math.cos(math.pi * share))


class Schedule:
    """Sets the learning rate of an optimizer as a function of the number of updates done so far.

    `onecycle` leaves the momentum alone; every other name is timm's. Nothing but the number of updates decides, so a
    resumed run needs no state of it. Raises UsageError for an unknown name.
    """

    def __init__(self, optimizer: Optimizer, recipe: Recipe, updates_per_epoch: int) -> None:
        self.optimizer, self.recipe = optimizer, recipe
        # What the recipe counts in, epochs or updates, has so many ticks of the schedule, and a tick so many updates.
        self._ticks = 1 if recipe.steps or recipe.schedule_step == "epoch" else updates_per_epoch
        self._updates_per_tick = 1 if recipe.steps else updates_per_epoch // self._ticks
        self._timm = None if recipe.schedule == "onecycle" else self._from_timm()

    def _from_timm(self) -> Any:
        from timm.scheduler import create_scheduler_v2

        recipe, ticks = self.recipe, self._ticks
        try:
            scheduler, _ = create_scheduler_v2(
                self.optimizer,
                sched=recipe.schedule,
                num_epochs=(recipe.steps or recipe.epochs) * ticks,
                warmup_epochs=(recipe.warmup_steps if recipe.steps else recipe.warmup_epochs) * ticks,
                warmup_lr=recipe.warmup_lr,
                min_lr=recipe.min_lr,
                cooldown_epochs=recipe.cooldown_epochs * ticks,
                decay_epochs=recipe.decay_epochs * ticks or None,
                decay_rate=recipe.decay_rate,
                decay_milestones=[at * ticks + 1 for at in recipe.milestones],  # timm's come one tick too soon
            )
        except (ValueError, RuntimeError, AssertionError) as error:
            raise UsageError(f"No schedule '{recipe.schedule}' ({error}); use onecycle or one of timm's.") from None
        if scheduler is None or recipe.schedule == "plateau":
            raise UsageError(f"The schedule '{recipe.schedule}' is not one of the number of updates; use constant.")
        return scheduler

    def set(self, updates: int) -> float:
        """Set the learning rate of the update that follows `updates` finished ones; returns the largest one."""
        tick = updates // self._updates_per_tick
        if self._timm is None:
            for group in self.optimizer.param_groups:
                peak = self.recipe.lr * group.get("lr_scale", 1.0)
                group["lr"] = one_cycle(
                    tick, (self.recipe.steps or self.recipe.total_epochs) * self._ticks, peak, self.recipe
                )
        else:
            self._timm.step(tick)
        return max(float(group["lr"]) for group in self.optimizer.param_groups)


def freeze(model: nn.Module, spec: str) -> tuple[nn.Module, ...]:
    """Stop training the parts that `spec` names; returns the modules that must stay in eval mode.

    spec: comma-separated prefixes of module names, or `backbone` for everything but the classifier. Raises
    UsageError for a prefix that names nothing, and when nothing is left to train.
    """
    named = dict(model.named_modules())
    frozen: list[nn.Module] = []
    for part in filter(None, (word.strip() for word in spec.split(","))):
        if part == "backbone":
            frozen += _all_but_classifier(model)
        elif part in named:
            frozen.append(named[part])
        else:
            children = ", ".join(name for name, _ in model.named_children())
            raise UsageError(f"The model has no part '{part}' to freeze; its parts are: {children}.")
    for module in frozen:
        module.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UsageError(f"Freezing '{spec}' leaves nothing to train.")
    return tuple(frozen)


def batch_norms(model: nn.Module) -> tuple[nn.Module, ...]:
    """Return the batch norms of a model, which in eval mode keep their statistics while their weights are trained."""
    from torch.nn.modules.batchnorm import _BatchNorm

    return tuple(module for module in model.modules() if isinstance(module, _BatchNorm))


def _all_but_classifier(model: nn.Module) -> list[nn.Module]:
    """Return the largest modules without a classifier inside, after freezing the parameters beside them."""
    found = model.get_classifier()  # type: ignore[operator]
    heads = {module for head in (found if isinstance(found, (tuple, list)) else [found]) for module in head.modules()}
    frozen: list[nn.Module] = []
    open_modules = [model]
    while open_modules:
        module = open_modules.pop()
        if module in heads:
            continue
        if heads.isdisjoint(module.modules()):
            frozen.append(module)
            continue
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(False)
        open_modules += module.children()
    return frozen
