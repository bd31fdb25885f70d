from __future__ import annotations

import pytest
import timm
import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

from miil21k.errors import UsageError
from miil21k.train.optimization import Schedule, create_optimizer, freeze, one_cycle
from miil21k.train.recipe import Recipe, override
from miil21k.train.recipes import RECIPES


def _net() -> nn.Module:
    return timm.create_model("test_resnet", num_classes=5)


def test_one_cycle_equals_the_schedule_of_torch_at_every_step() -> None:
    recipe = RECIPES["miil_semantic"]
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = OneCycleLR(
        optimizer, max_lr=recipe.lr, total_steps=137, pct_start=0.1, div_factor=20, cycle_momentum=False
    )
    rates = []
    for _ in range(137):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if len(rates) < 137:
            scheduler.step()
    assert [one_cycle(step, 137, recipe.lr, recipe) for step in range(137)] == pytest.approx(rates, rel=1e-9)
    assert rates[0] == pytest.approx(1.5e-5)
    assert max(rates) == pytest.approx(3e-4, rel=1e-2)
    assert rates[-1] == pytest.approx(1.5e-9)


def test_usi_warms_up_falls_as_a_cosine_and_cools_down() -> None:
    optimizer = create_optimizer(_net(), RECIPES["usi"])
    schedule = Schedule(optimizer, RECIPES["usi"], updates_per_epoch=10)
    rates = [schedule.set(epoch * 10 + 3) for epoch in range(310)]
    assert rates[0] == pytest.approx(1e-4)
    assert rates[5] == pytest.approx(2e-3, rel=1e-3)
    assert rates[150] == pytest.approx(1e-3, rel=1e-2)
    assert rates[300:] == pytest.approx([1e-6] * 10)


@pytest.mark.parametrize("schedule_step", ["epoch", "update"])
@pytest.mark.parametrize(
    ("fields", "factors"),
    [
        ({"schedule": "step", "decay_epochs": 2, "decay_rate": 0.5}, [1, 1, 0.5, 0.5, 0.25, 0.25]),
        ({"schedule": "multistep", "milestones": (1, 4)}, [1, 0.1, 0.1, 0.1, 0.01, 0.01]),
        ({"schedule": "constant"}, [1] * 6),
    ],
    ids=["step", "multistep", "constant"],
)
def test_steps_and_milestones_change_the_rate_where_they_say(schedule_step, fields, factors) -> None:
    recipe = Recipe("cross_entropy", epochs=6, lr=0.8, schedule_step=schedule_step, **fields)
    schedule = Schedule(create_optimizer(_net(), recipe), recipe, updates_per_epoch=3)
    rates = [schedule.set(update) / 0.8 for update in range(18)]
    assert rates == pytest.approx([factor for factor in factors for _ in range(3)])


def test_a_run_of_steps_warms_up_and_falls_at_steps() -> None:
    fields = {"steps": 10, "warmup_steps": 2, "warmup_lr": 0.0, "milestones": (5, 8)}
    recipe = Recipe("cross_entropy", lr=1.0, schedule="multistep", schedule_step="epoch", **fields)
    schedule = Schedule(create_optimizer(_net(), recipe), recipe, updates_per_epoch=3)
    expected = [0, 0.5, 1, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01]
    assert [schedule.set(update) for update in range(10)] == pytest.approx(expected)
    assert recipe.updates(per_epoch=3) == 10
    cycle = Recipe("cross_entropy", steps=10)
    rates = [Schedule(create_optimizer(_net(), cycle), cycle, 3).set(update) for update in range(10)]
    assert rates == pytest.approx([one_cycle(update, 10, cycle.lr, cycle) for update in range(10)])


def test_a_schedule_depends_on_the_number_of_updates_alone() -> None:
    for recipe in (RECIPES["miil_semantic"], RECIPES["finetune"]):
        forward = Schedule(create_optimizer(_net(), recipe), recipe, 4)
        rates = [forward.set(update) for update in range(100)]
        fresh = Schedule(create_optimizer(_net(), recipe), recipe, 4)
        assert [fresh.set(update) for update in (99, 3, 57)] == [rates[99], rates[3], rates[57]]


def test_biases_and_norms_get_no_weight_decay() -> None:
    model = _net()
    optimizer = create_optimizer(model, RECIPES["miil_semantic"])
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        assert decay[id(parameter)] == (0 if parameter.ndim <= 1 or name.endswith("bias") else 1e-4)


@pytest.mark.parametrize("name", ["sgd", "nesterov", "sgdw", "nlars"])
def test_without_momentum_nothing_looks_ahead(name: str) -> None:
    weight = nn.Linear(1, 1, bias=False)
    optimizer = create_optimizer(
        weight, Recipe("cross_entropy", optimizer=name, lr=0.5, momentum=0.0, weight_decay=0.0)
    )
    assert not optimizer.defaults["nesterov"]
    before = weight.weight.item()
    weight.weight.grad = torch.full((1, 1), 0.25)
    optimizer.step()
    if name != "nlars":  # rates are relative there
        assert before - weight.weight.item() == pytest.approx(0.125)


def test_layer_decay_gives_early_layers_a_smaller_rate() -> None:
    recipe = override(RECIPES["miil_semantic"], {"layer_decay": "0.5"})
    model = timm.create_model("test_vit", num_classes=5)
    optimizer = create_optimizer(model, recipe)
    Schedule(optimizer, recipe, 10).set(40)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rates[id(model.patch_embed.proj.weight)] < 0.2 * rates[id(model.head.weight)]


def test_freezing_the_backbone_leaves_the_head_alone() -> None:
    model = _net()
    frozen = freeze(model, "backbone")
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trainable == {"fc.weight", "fc.bias"}
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    inside = {m for part in frozen for m in part.modules()}
    assert norms
    assert inside.issuperset(norms)


def test_freezing_a_part_by_name_and_refusing_an_unknown_one() -> None:
    model = _net()
    freeze(model, " layer1 ")
    assert not any(p.requires_grad for p in model.layer1.parameters())
    assert all(p.requires_grad for p in model.layer2.parameters())
    with pytest.raises(UsageError, match="no part 'stem' to freeze; its parts are: conv1"):
        freeze(model, "stem")
    with pytest.raises(UsageError, match="leaves nothing to train"):
        freeze(model, "backbone,fc")


def test_unknown_names_are_refused() -> None:
    with pytest.raises(UsageError, match=r"No optimizer 'adum'\. Did you mean 'ada"):
        create_optimizer(_net(), Recipe("cross_entropy", optimizer="adum"))
    with pytest.raises(UsageError, match="'fusedadam' cannot be used here: CUDA required"):
        create_optimizer(_net(), Recipe("cross_entropy", optimizer="fusedadam"))
    recipe = Recipe("cross_entropy", schedule="cosinus")
    optimizer = create_optimizer(_net(), recipe)
    with pytest.raises(UsageError, match="schedule 'cosinus'"):
        Schedule(optimizer, recipe, 10)
