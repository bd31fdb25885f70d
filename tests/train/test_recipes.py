from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import pytest
import runs
import torch

from miil21k.errors import UsageError
from miil21k.records import StrictJsonError
from miil21k.train.job import create_network
from miil21k.train.objectives import find_objective
from miil21k.train.recipe import Recipe, override, unasked
from miil21k.train.recipes import RECIPES, get_recipe
from miil21k.zoo.checkpoint_card import load_trained
from miil21k.zoo.manifest import find_weights

if TYPE_CHECKING:
    from pathlib import Path

    from miil21k.train.loop import Report


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("miil_semantic", ("adam", 3e-4, 1e-4, 80, 64, 0.2, "onecycle")),
        ("miil_single_label", ("adam", 3e-4, 1e-4, 80, 64, 0.2, "onecycle")),
        ("miil_single_label_scratch", ("sgd", 1e-2, 1e-4, 140, 64, 0.2, "onecycle")),
        ("miil_multi_label", ("adam", 3e-4, 1e-4, 80, 64, 0.0, "onecycle")),
        ("miil_semantic_kd", ("adam", 3e-4, 1e-4, 80, 64, 0.2, "onecycle")),
        ("usi", ("adamw", 2e-3, 2e-2, 300, 128, 0.0, "cosine")),
        ("finetune", ("adam", 2e-4, 1e-4, 50, 128, 0.1, "cosine")),
    ],
)
def test_the_published_numbers_stand_in_the_recipe(name: str, expected: tuple[object, ...]) -> None:
    r = get_recipe(name)
    assert (r.optimizer, r.lr, r.weight_decay, r.epochs, r.batch_size, r.label_smoothing, r.schedule) == expected


def test_usi_runs_310_epochs_with_the_published_mixing_and_teacher_weight() -> None:
    usi = get_recipe("usi")
    assert usi.total_epochs == 310
    assert (usi.mixup, usi.cutmix, usi.mixup_switch, usi.kd_weight) == (0.8, 1.0, 0.5, 5.0)
    assert (usi.repeats, usi.eval_crop_pct, usi.policy) == (3, 0.95, "rand-m7-mstd0.5-inc1")


def test_the_scratch_recipe_has_no_momentum_and_starts_from_nothing() -> None:
    scratch = get_recipe("miil_single_label_scratch")
    assert scratch.momentum == 0
    assert not scratch.pretrained


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_says_where_it_comes_from_and_what_it_reaches(name: str) -> None:
    assert len(RECIPES[name].source) > 20
    assert len(RECIPES[name].expected) > 20


@pytest.mark.parametrize("name", [name for name, recipe in RECIPES.items() if recipe.teacher])
def test_every_teacher_is_in_the_zoo(name: str) -> None:
    assert find_weights(RECIPES[name].teacher).label_space in {"fall11", "in1k"}


def test_an_override_gives_a_new_recipe_of_the_right_types() -> None:
    before = get_recipe("miil_semantic")
    changes = {
        "lr": "1e-3",
        "epochs": "3",
        "scale": "0.5,1",
        "channels_last": "true",
        "policy": "",
        "precision": "bf16",
        "schedule": "multistep",
        "milestones": "1,2",
    }
    after = override(before, changes)
    assert (after.lr, after.epochs, after.scale, after.channels_last) == (1e-3, 3, (0.5, 1.0), True)
    assert (after.policy, after.precision, after.milestones) == ("", "bf16", (1, 2))
    assert before == RECIPES["miil_semantic"]
    assert replace(after, **{k: getattr(before, k) for k in changes}) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"larning_rate": "1"}, "no field 'larning_rate'"),
        ({"labelsmoothing": "1"}, "Did you mean 'label_smoothing'"),
        ({"epochs": "many"}, "epochs takes an integer, not 'many'"),
        ({"epochs": "0"}, "epochs must be at least 1"),
        ({"lr": "0"}, "lr must be above 0"),
        ({"channels_last": "perhaps"}, "takes true or false"),
        ({"scale": "1"}, "scale takes two numbers"),
        ({"precision": "fp8"}, "precision must be fp32 or fp16 or bf16, not 'fp8'"),
        ({"hflip": "2"}, "between 0 and 1"),
        ({"label_smoothing": "1"}, "label_smoothing lies at least 0 and below 1, not 1"),
        ({"schedule": "step"}, "decay_epochs must be above 0 and less than the 80"),
        ({"schedule": "step", "decay_epochs": "80"}, "decay_epochs must be above 0 and less than the 80"),
        ({"schedule": "multistep"}, "multistep' and milestones go together"),
        ({"milestones": "30,60"}, "multistep' and milestones go together"),
        ({"schedule": "multistep", "milestones": "60,30"}, "milestones must be in order"),
        ({"schedule": "multistep", "milestones": "30,80"}, "milestones must be in order"),
        ({"schedule": "multistep", "milestones": "30,x"}, "milestones takes integers, 'a,b,...'"),
        ({"schedule": "cosine", "warmup_epochs": "80"}, "warmup_epochs must be less than the 80"),
        ({"cooldown_epochs": "81"}, "cooldown_epochs must be at most 80"),
        ({"steps": "9", "cooldown_epochs": "1"}, "cooldown_epochs must be at most 0"),
        ({"steps": "9", "schedule": "cosine", "warmup_steps": "9"}, "warmup_steps must be less than the 9 update"),
        ({"steps": "9", "schedule": "multistep", "milestones": "3,9"}, "less than the 9 update"),
        ({"crop": "resized"}, "crop 'resized' and resize go together"),
        ({"resize": "64"}, "crop 'resized' and resize go together"),
    ],
)
def test_a_wrong_override_is_refused_with_the_way_out(changes: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        override(get_recipe("miil_semantic"), changes)


def test_a_short_run_has_a_short_warm_up_and_cool_down_unless_they_were_asked_for() -> None:
    usi = get_recipe("usi")
    short = override(usi, {"epochs": "10"})
    assert (short.epochs, short.warmup_epochs, short.cooldown_epochs) == (10, 2, 2)
    assert unasked(usi, short, {"epochs"}) == "warmup_epochs 2 instead of 5 and cooldown_epochs 2 instead of 10"
    assert override(usi, {"epochs": "1"}).total_epochs == 1
    asked = {"epochs": "10", "warmup_epochs": "5", "cooldown_epochs": "10"}
    assert override(usi, asked).total_epochs == 20
    long = override(usi, {"epochs": "100"})
    assert (long.warmup_epochs, long.cooldown_epochs) == (5, 10)
    assert unasked(usi, long, {"epochs"}) == ""


def test_a_recipe_in_a_file_is_read_as_strictly_as_it_was_written(tmp_path: Path) -> None:
    recipe = replace(get_recipe("usi"), milestones=(30, 60), schedule="multistep", scale=(0.5, 1.0))
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(asdict(recipe)))
    assert get_recipe(str(file)) == recipe
    file.write_text('{"objective": "cross_entropy", "lr": 1}')
    assert get_recipe(str(file)) == Recipe("cross_entropy", lr=1)
    for text, message in (
        ('{"objective": "cross_entropy", "larning_rate": 1}', "unknown key 'larning_rate'"),
        ('{"lr": 1}', "missing key 'objective'"),
        ('{"objective": "cross_entropy", "epochs": "3"}', "at 'epochs': expected int"),
        ('{"objective": "cross_entropy", "precision": "fp8"}', "none of fp32, fp16, bf16"),
        ('{"objective": "cross_entropy", "milestones": [1.5]}', r"milestones\[0\]"),
        ('{"objective": "cross_entropy", "epochs": 0}', "epochs must be at least 1"),
    ):
        file.write_text(text)
        with pytest.raises((StrictJsonError, UsageError), match=message):
            get_recipe(str(file))
    with pytest.raises(UsageError, match=r"none\.json' cannot be read: No such file"):
        get_recipe(str(tmp_path / "none.json"))


def test_an_unknown_recipe_names_the_nearest_one() -> None:
    with pytest.raises(UsageError, match="Did you mean 'miil_semantic'"):
        get_recipe("mil_semantic")


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (Recipe("usi"), "'usi' needs a teacher"),
        (
            Recipe("cross_entropy", teacher="resnet50"),
            "learns from no teacher: leave it out, or .* semantic_kd, semantic_unlabelled, usi",
        ),
        (Recipe("semantic_softmax", mixup=0.1), "not defined for the objective 'semantic_softmax'"),
        (Recipe("multi_label", cutmix=0.1), "not defined for the objective 'multi_label'"),
        (Recipe("cross_entropi"), "No objective 'cross_entropi'. Did you mean 'cross_entropy'"),
    ],
)
def test_an_objective_says_which_recipes_go_with_it(recipe: Recipe, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find_objective(recipe)


def test_nan_is_no_learning_rate() -> None:
    with pytest.raises(UsageError, match="lr must be above 0"):
        Recipe("cross_entropy", lr=math.nan)


class Enough(Exception):
    pass


def _stop(report: Report) -> None:
    if report.update > 1:
        raise Enough


@pytest.fixture(scope="module")
def teachers(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A checkpoint for each objective that needs a teacher, with a head of the kind that it distils."""
    found = {}
    taught = {"semantic_softmax": ("semantic_kd", "semantic_unlabelled"), "cross_entropy": ("usi",)}
    for of_teacher, objectives in taught.items():
        folder = tmp_path_factory.mktemp(of_teacher)
        runs.run(shapes / "train", folder, replace(runs.TINY, objective=of_teacher, epochs=1, batch_size=56))
        found |= dict.fromkeys(objectives, str(folder / "last.safetensors"))
    return found


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_trains(shapes: Path, tmp_path: Path, teachers: dict[str, str], name: str) -> None:
    """For an update, with nothing of the recipe changed but what weights and a GPU would have to be there for."""
    recipe = replace(RECIPES[name], image_size=32, batch_size=56, pretrained=False, precision="fp32")
    recipe = replace(recipe, teacher=teachers.get(recipe.objective, ""))
    if recipe.steps:  # of which a tenth passes between validations, where an epoch is a single update
        recipe = replace(recipe, steps=10, milestones=(5,) if recipe.milestones else (), warmup_steps=1)
    request = runs.request(shapes / "train", tmp_path, recipe)
    with pytest.raises(Enough):
        runs.train_model(request, _stop, lambda _line: None)
    trained, card = load_trained(tmp_path / "last.safetensors")
    start, _, _ = create_network(request, card.space)
    before, after = (net.get_classifier().weight.detach() for net in (start, trained))
    assert torch.isfinite(after).all()
    assert 0 < float((after - before).abs().max()) < 0.1
