from __future__ import annotations

import csv
import json
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest
import runs
import torch
from shapes import shape_space, write_folders, write_shard
from torch import nn

from miil21k.data.datasets import label_images, open_source
from miil21k.data.loader import Batch, evaluation_loader
from miil21k.decode.levels import decode_levels
from miil21k.errors import LabelSpaceMismatch, Miil21kError, UsageError
from miil21k.train.objectives import CrossEntropy
from miil21k.train.processes import Processes
from miil21k.train.state import Trained
from miil21k.train.step import LossTally, UpdateStep, normalised
from miil21k.zoo.checkpoint_card import load_trained, read_card
from miil21k.zoo.schema import Preprocess

if TYPE_CHECKING:
    from pathlib import Path

    from miil21k.train.loop import Report
    from miil21k.train.recipe import Recipe

PLAIN = Preprocess((3, 4, 4), "bilinear", 1.0, "squash", (0.5, 0.4, 0.3), (0.2, 0.25, 0.5), "test")


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run of 8 epochs on 12 images per class without augmentation, and its data."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("learned")
    write_folders(root / "train", 12, seed=0)
    write_folders(root / "val", 4, seed=1)
    (root / "shapes.tsv").write_text(shape_space().to_text())
    recipe = replace(runs.TINY, epochs=8, batch_size=12, policy="", cutout=0.0, lr=1e-2, label_smoothing=0.0)
    runs.run(root / "train", root / "run", recipe, val=str(root / "val"), log_every=5)
    return root, root / "run"


def _epochs(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_tiny_network_learns_the_hierarchy(learned: tuple[Path, Path]) -> None:
    rows = _epochs(learned[1])
    assert len(rows) == 8
    assert float(rows[-1]["loss"]) < 0.6 * float(rows[0]["loss"])
    assert float(rows[-1]["val_semantic_top1"]) > 0.6  # chance: 0.5, 0.25 and 0.125 on the three levels


def test_the_best_checkpoint_is_that_of_the_best_epoch(learned: tuple[Path, Path]) -> None:
    rows = _epochs(learned[1])
    values = [float(row["val_semantic_top1"]) for row in rows]
    card = read_card(learned[1] / "best.safetensors")
    assert card is not None
    assert float(card.extra["semantic_top1"]) == max(values)
    assert int(card.extra["epoch"]) == int(np.argmax(values)) + 1


def test_the_checkpoint_says_all_that_using_it_needs(learned: tuple[Path, Path]) -> None:
    root, folder = learned
    model, card = load_trained(folder / "best.safetensors")
    assert (card.arch, card.head, card.recipe) == ("test_resnet", "level_softmax", "miil_semantic")
    assert card.space.sha256 == shape_space().sha256
    assert card.space.wnids == shape_space().wnids
    assert card.preprocess.input_size == (3, 32, 32)
    assert (card.preprocess.crop_mode, card.preprocess.mean) == ("squash", (0.0, 0.0, 0.0))
    images = label_images(open_source(str(root / "val")), card.space)
    right = 0
    for batch in evaluation_loader(images, card.preprocess, 8):
        with torch.inference_mode():
            logits = model(normalised(batch.images, card.preprocess)).numpy()
        nodes = decode_levels(card.space.tree, logits, deepest="keep").nodes
        right += int((nodes[range(len(nodes)), card.space.tree.depth[batch.labels]] == batch.labels.numpy()).sum())
    best = max(_epochs(folder), key=lambda row: float(row["val_semantic_top1"]))
    assert right / len(images) == pytest.approx(float(best["val_own_level_top1"]))  # class order was put back


def test_the_folder_of_a_run_tells_its_story(learned: tuple[Path, Path]) -> None:
    folder = learned[1]
    config = json.loads((folder / "config.json").read_text())
    assert config["label_space"] == {"name": "shapes", "sha256": shape_space().sha256, "classes": 14}
    assert config["recipe"]["lr"] == 1e-2
    assert config["images"] == 14 * 12
    assert set(config["versions"]) >= {"miil21k", "torch", "timm", "python"}
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    kinds = [json.loads(line)["kind"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert kinds.count("epoch") == 8
    assert kinds.count("step") == 14 * 8 // 5
    assert all(0 <= float(row["waiting_for_data"]) < 1 for row in _epochs(folder))


@pytest.mark.parametrize(("every", "drawn"), [(3600.0, [3]), (0.0, [1, 2, 3])])
def test_short_epochs_are_drawn_together(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: float, drawn: list[int]
) -> None:
    """A picture takes half a second, which a search by epochs of a few images would pay hundreds of times."""
    seen: list[int] = []
    monkeypatch.setattr("miil21k.train.journal.DRAW_EVERY", every)
    monkeypatch.setattr("miil21k.train.curves.draw_curves", lambda epochs, _: seen.append(len(epochs)))
    runs.run(shapes / "train", tmp_path / "run", replace(runs.TINY, epochs=3))
    assert seen == drawn


def test_reports_carry_rate_remaining_time_and_waiting_share(shapes: Path, tmp_path: Path) -> None:
    _, reports = runs.run(shapes / "train", tmp_path / "run", replace(runs.TINY, epochs=1))
    assert [r.update for r in reports] == [1, 2, 3, 4, 5, 6, 7, 7]
    assert all(r.rate > 0 and 0 <= r.waiting <= 1 for r in reports)
    assert reports[-1].eta == 0
    assert reports[0].eta > reports[-2].eta


def test_a_loss_that_is_not_a_number_stops_the_run_and_names_the_update(shapes: Path, tmp_path: Path) -> None:
    recipe = replace(runs.TINY, optimizer="sgd", lr=1e30, schedule="constant")
    with pytest.raises(Miil21kError, match=r"NaN or infinite at update [12]; nothing was saved after it"):
        runs.run(shapes / "train", tmp_path / "run", recipe, log_every=5)
    assert not (tmp_path / "run" / "last.safetensors").exists()


def test_the_first_bad_update_is_named_when_it_is_noticed_later() -> None:
    tally = LossTally(torch.device("cpu"))
    for update, loss in enumerate([1.0, 2.0, float("inf"), 1.0, float("nan")], start=10):
        tally.add(torch.tensor(loss), 4, update)
    with pytest.raises(Miil21kError, match="at update 12;"):
        tally.collect(Processes())


def test_the_tally_gives_sums_and_starts_anew() -> None:
    tally = LossTally(torch.device("cpu"))
    tally.add(torch.tensor(1.5), 4, 0)
    tally.add(torch.tensor(3.0), 2, 1)
    assert tally.collect(Processes()) == (12.0, 6)
    assert tally.collect(Processes()) == (0.0, 0)


def _linear_step(recipe: Recipe, batches: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the gradient step of UpdateStep over batches of these sizes, and that of one plain batch of all."""
    torch.manual_seed(0)
    images = torch.randint(0, 256, (sum(batches), 3, 4, 4), dtype=torch.uint8)
    labels = torch.randint(0, 5, (sum(batches),))

    def net() -> nn.Module:
        torch.manual_seed(1)
        return nn.Sequential(nn.Flatten(), nn.Linear(48, 5))

    model = net()
    scaler = torch.amp.GradScaler("cpu") if recipe.precision == "fp16" else None
    trained = Trained(model, torch.optim.SGD(model.parameters(), lr=0.1), scaler=scaler)
    step = UpdateStep(trained, CrossEntropy(0.1), recipe, PLAIN, Processes())
    cuts = np.cumsum([0, *batches])
    step([Batch(images[a:b], labels[a:b], labels[a:b], ()) for a, b in pairwise(cuts.tolist())], 0, 0)
    plain = net()
    pixels = (images.float() / 255 - torch.tensor(PLAIN.mean).view(1, 3, 1, 1)) / torch.tensor(PLAIN.std).view(
        1, 3, 1, 1
    )
    loss = nn.functional.cross_entropy(plain(pixels), labels, label_smoothing=0.1)
    (gradient,) = torch.autograd.grad(loss, [plain[1].weight])
    return model[1].weight.detach(), (plain[1].weight - 0.1 * gradient).detach()


@pytest.mark.parametrize("batches", [[6], [2, 4], [1, 2, 3], [0, 6]])
def test_an_update_follows_the_mean_loss_of_all_its_images(batches: list[int]) -> None:
    ours, plain = _linear_step(runs.TINY, batches)
    torch.testing.assert_close(ours, plain)


def test_a_batch_of_one_is_skipped_where_batch_norm_is_trained() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 5), nn.BatchNorm1d(5))
    trained = Trained(net, torch.optim.SGD(net.parameters(), lr=0.1))
    step = UpdateStep(trained, CrossEntropy(0.1), runs.TINY, PLAIN, Processes())
    step.train_mode()
    one = Batch(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), torch.tensor([1]), torch.tensor([0]), ())
    before = {name: value.clone() for name, value in net.state_dict().items()}
    step([one], 0, 0)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    two = Batch(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([1, 2]), torch.tensor([0, 1]), ())
    step([one, two], 0, 0)
    assert net[2].num_batches_tracked == 1
    assert step.tally.collect(Processes())[1] == 2
    with pytest.raises(UsageError, match="Batch norm needs at least two images"):
        UpdateStep(trained, CrossEntropy(0.1), replace(runs.TINY, batch_size=1), PLAIN, Processes())
    UpdateStep(trained, CrossEntropy(0.1), replace(runs.TINY, batch_size=1), PLAIN, Processes(), frozen=(net,))


def test_clipping_bounds_the_step() -> None:
    ours, _ = _linear_step(replace(runs.TINY, clip_grad=1e-3), [6])
    torch.manual_seed(1)
    before = nn.Sequential(nn.Flatten(), nn.Linear(48, 5))[1].weight.detach()
    assert 0 < float((ours - before).norm()) <= 0.1 * 1e-3 + 1e-9


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_stays_near_full_precision(precision: str) -> None:
    mixed, plain = _linear_step(replace(runs.TINY, precision=precision), [2, 4])
    assert not torch.equal(mixed, plain)
    torch.testing.assert_close(mixed, plain, atol=2e-3, rtol=0.02)


@pytest.mark.parametrize(
    "recipe",
    [
        replace(
            runs.TINY, objective="cross_entropy", mixup=0.8, cutmix=1.0, crop="random", policy="rand-m5", cutout=0.0
        ),
        replace(runs.TINY, objective="multi_label", label_smoothing=0.0, freeze="backbone"),
        replace(
            runs.TINY, channels_last=True, layer_decay=0.7, optimizer="adamw", schedule="cosine", deepest="published"
        ),
    ],
    ids=["mixed", "multi-label", "layer-decay"],
)
def test_other_recipes_train_too(shapes: Path, tmp_path: Path, recipe: object) -> None:
    outcome, reports = runs.run(shapes / "train", tmp_path / "run", replace(recipe, epochs=1), val=str(shapes / "val"))  # type: ignore[type-var]
    assert outcome.progress.updates == 7
    assert all(np.isfinite(report.loss) for report in reports)


def test_a_frozen_backbone_keeps_its_weights_and_its_statistics(shapes: Path, tmp_path: Path) -> None:
    runs.run(shapes / "train", tmp_path / "a", replace(runs.TINY, epochs=1))
    first = str(tmp_path / "a" / "last.safetensors")
    frozen = replace(runs.TINY, epochs=1, freeze="backbone", pretrained=True)
    request = replace(runs.request(shapes / "train", tmp_path / "b", frozen), model=first)
    runs.train_model(request, lambda _r: None, lambda _l: None)
    before, after = (load_trained(tmp_path / name / "last.safetensors")[0].state_dict() for name in "ab")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"fc.weight", "fc.bias"}


def test_kept_norms_keep_their_statistics_alone(shapes: Path, tmp_path: Path) -> None:
    runs.run(shapes / "train", tmp_path / "a", replace(runs.TINY, epochs=1))
    first = str(tmp_path / "a" / "last.safetensors")
    request = runs.request(
        shapes / "train", tmp_path / "b", replace(runs.TINY, epochs=1, keep_norms=True, pretrained=True)
    )
    runs.train_model(replace(request, model=first), lambda _r: None, lambda _l: None)
    before, after = (load_trained(tmp_path / name / "last.safetensors")[0].state_dict() for name in "ab")
    kept = {name for name in before if torch.equal(before[name], after[name])}
    assert kept == {name for name in before if name.endswith(("running_mean", "running_var", "num_batches_tracked"))}


def test_distillation_from_an_earlier_run(shapes: Path, tmp_path: Path) -> None:
    runs.run(shapes / "train", tmp_path / "teacher", replace(runs.TINY, epochs=1))
    teacher = str(tmp_path / "teacher" / "last.safetensors")
    recipe = replace(runs.TINY, epochs=1, objective="semantic_kd", teacher=teacher, kd_weight=10.0)
    _, taught = runs.run(shapes / "train", tmp_path / "kd", recipe)
    _, alone = runs.run(shapes / "train", tmp_path / "alone", replace(runs.TINY, epochs=1))
    assert taught[0].loss > alone[0].loss  # the same first batch, plus the distance to the teacher
    with pytest.raises(UsageError, match="has a head of kind level_softmax"):
        runs.run(shapes / "train", tmp_path / "usi", replace(recipe, objective="usi"))


def test_a_new_label_space_gets_a_fresh_head_and_the_same_one_keeps_it(shapes: Path, tmp_path: Path) -> None:
    from miil21k.store.integrity import sha256_of
    from miil21k.train.job import create_network

    runs.run(shapes / "train", tmp_path / "a", replace(runs.TINY, epochs=1))
    first = tmp_path / "a" / "last.safetensors"
    trained = load_trained(first)[0].state_dict()["fc.weight"]
    started = replace(runs.TINY, pretrained=True)
    request = replace(runs.request(shapes / "train", tmp_path / "b", started), model=str(first))
    same, _, loaded = create_network(request, shape_space())
    assert loaded == (str(first), str(first), sha256_of(first))
    assert torch.equal(same.state_dict()["fc.weight"], trained)
    from miil21k.hierarchy.spaces import LabelSpace
    from miil21k.hierarchy.tree import Tree

    names = tuple(f"other{i}" for i in range(14))
    other = LabelSpace("other", Tree.from_parents(names, [None] * 14), names, ("",) * 14)
    fresh, card, _ = create_network(request, other)
    assert not torch.equal(fresh.state_dict()["fc.weight"], trained)
    assert card.space is other


def test_shards_train_like_folders(shapes: Path, tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    names = list(shape_space().wnids)
    write_shard(tmp_path / "shards" / "a.tar", names, seed=1)
    write_shard(tmp_path / "shards" / "b.tar", names, seed=2, label="json")
    recipe = replace(runs.TINY, epochs=1)
    space = str(shapes / "shapes.tsv")
    outcome, _ = runs.run(
        tmp_path / "shards", tmp_path / "run", recipe, label_space=space, shard_cache=tmp_path / "cache"
    )
    assert outcome.progress.updates == 28 // 8
    with pytest.raises(UsageError, match="name one with --label-space"):
        runs.run(tmp_path / "shards", tmp_path / "other", recipe, label_space=None)


def test_without_a_label_space_nested_folders_are_the_hierarchy(tmp_path: Path) -> None:
    for family, colours in (("warm", ("red", "yellow")), ("cold", ("blue", "green"))):
        for colour in colours:
            forms = (f"{colour}_circle", f"{colour}_square")
            write_folders(tmp_path / "data" / family / colour, 2, names=forms)
    recipe = replace(runs.TINY, epochs=1, batch_size=4)
    runs.run(tmp_path / "data", tmp_path / "run", recipe, label_space=None)
    card = read_card(tmp_path / "run" / "last.safetensors")
    assert card is not None
    assert card.space.num_classes == 14  # every node is a class, since semantic softmax needs a logit for each
    assert card.space.tree.max_depth == 2
    flat = replace(recipe, objective="cross_entropy")
    runs.run(tmp_path / "data", tmp_path / "flat", flat, label_space=None)
    card = read_card(tmp_path / "flat" / "last.safetensors")
    assert card is not None
    assert (card.space.num_classes, card.head) == (8, "leaf_softmax")


def test_what_does_not_fit_is_refused_before_anything_is_written(shapes: Path, tmp_path: Path) -> None:
    with pytest.raises(LabelSpaceMismatch, match="are no classes of label space 'winter21'"):
        runs.run(shapes / "train", tmp_path / "run", label_space="winter21")
    with pytest.raises(UsageError, match="do not fill one batch"):
        runs.run(shapes / "train", tmp_path / "run", replace(runs.TINY, batch_size=57))
    with pytest.raises(UsageError, match="fewer than accumulate=8"):
        runs.run(shapes / "train", tmp_path / "run", replace(runs.TINY, accumulate=8))
    with pytest.raises(UsageError, match="is no augmentation policy"):
        runs.run(shapes / "train", tmp_path / "run", replace(runs.TINY, policy="ranb"))
    with pytest.raises(UsageError, match="Mixup and cutmix are not defined for the objective 'semantic_softmax'"):
        runs.run(shapes / "train", tmp_path / "run", replace(runs.TINY, mixup=0.1))
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"optimizer": "adum"}, "No optimizer 'adum'"),
        ({"schedule": "cosinus"}, "No schedule 'cosinus'"),
        ({"freeze": "stem"}, "no part 'stem' to freeze"),
        ({"batch_size": 1}, "Batch norm needs at least two images"),
    ],
)
def test_a_start_that_fails_leaves_no_folder(shapes: Path, tmp_path: Path, fields: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        runs.run(shapes / "train", tmp_path / "run", replace(runs.TINY, **fields))
    assert not (tmp_path / "run").exists()


def test_a_run_that_saved_nothing_leaves_its_folder_free(shapes: Path, tmp_path: Path) -> None:
    wild = replace(runs.TINY, optimizer="sgd", lr=1e30, schedule="constant")
    with pytest.raises(Miil21kError, match="NaN or infinite"):
        runs.run(shapes / "train", tmp_path / "run", wild)
    (tmp_path / "run" / "notes.txt").write_text("mine")
    _, reports = runs.run(shapes / "train", tmp_path / "run", replace(runs.TINY, epochs=1))
    rows = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(rows) == len(reports) == 8
    assert json.loads((tmp_path / "run" / "config.json").read_text())["recipe"]["lr"] == runs.TINY.lr
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"


def test_the_first_report_comes_with_the_first_update(shapes: Path, tmp_path: Path) -> None:
    said: list[str] = []
    request = runs.request(shapes / "train", tmp_path / "run", replace(runs.TINY, epochs=1), log_every=50)
    reports: list[Report] = []
    runs.train_model(request, reports.append, said.append)
    assert [report.update for report in reports] == [1, 7]
    assert reports[0].loss > reports[1].loss > 0
    assert said[0] == f"Looking for images in '{shapes / 'train'}'"
    kinds = [json.loads(line)["kind"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert kinds == ["epoch"]


def test_what_had_to_change_is_said_and_kept_in_the_config(shapes: Path, tmp_path: Path) -> None:
    said: list[str] = []
    recipe = replace(runs.TINY, epochs=1, precision="fp16", ema_decay=0.9999)
    runs.train_model(runs.request(shapes / "train", tmp_path, recipe), lambda _report: None, said.append)
    assert said[1] == "Training in fp32 instead of fp16: a CPU has no fast fp16."
    assert said[2].startswith(
        "The moving average decays by 0.5 instead of 0.9999, so that it is one over a tenth of the 7 updates"
    )
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["recipe"]["precision"], config["recipe"]["ema_decay"]) == ("fp32", 0.5)


@pytest.mark.slow
def test_a_compiled_run_gives_the_losses_of_a_plain_one_and_weights_that_load(shapes: Path, tmp_path: Path) -> None:
    from torch._dynamo.utils import counters

    recipe = replace(runs.TINY, epochs=1, batch_size=28)
    _, plain = runs.run(shapes / "train", tmp_path / "plain", recipe)
    counters.clear()
    _, compiled = runs.run(shapes / "train", tmp_path / "compiled", replace(recipe, compile=True))
    assert counters["stats"]["unique_graphs"] >= 1
    assert not counters["graph_break"]
    assert [r.loss for r in compiled] == pytest.approx([r.loss for r in plain], rel=1e-4)
    before, after = (
        load_trained(tmp_path / name / "last.safetensors")[0].state_dict() for name in ("plain", "compiled")
    )
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor, atol=1e-3, rtol=1e-3, msg=name)


def test_the_buffers_that_are_saved_are_those_of_the_main_process(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def receive(self: Processes, module: nn.Module) -> None:
        """What happens in every process but the main one: its own running statistics are overwritten."""
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer.fill_(0.25)

    monkeypatch.setattr(Processes, "share_buffers", receive)
    runs.run(shapes / "train", tmp_path / "run", replace(runs.TINY, epochs=1, batch_size=28, ema_decay=0.5))
    for name in ("last", "last_ema"):
        state = load_trained(tmp_path / "run" / f"{name}.safetensors")[0].state_dict()
        means = [tensor for key, tensor in state.items() if key.endswith("running_mean")]
        assert means
        assert all(bool((mean == 0.25).all()) for mean in means)
