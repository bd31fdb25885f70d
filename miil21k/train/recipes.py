"""The published recipes by name, each with its source and what it is expected to reach."""

from __future__ import annotations

from dataclasses import replace

from miil21k.errors import UsageError
from miil21k.records import read_json
from miil21k.text import did_you_mean
from miil21k.train.recipe import Recipe

__all__ = ["RECIPES", "equal_drops", "get_recipe"]


def equal_drops(length: int, drops: int) -> tuple[int, ...]:
    """Return when the rate drops in a run of `length` epochs or updates: as often as fits, at equal distances."""
    return tuple(sorted({round(length * drop / (drops + 1)) for drop in range(1, drops + 1)} - {0, length}))


miil_semantic = Recipe(
    "semantic_softmax",
    source="Alibaba-MIIL/ImageNet21K, train_semantic_softmax.py and data_loader.py; starts from ImageNet-1K weights",
    expected="semantic top-1 on fall11 21K-P: TResNet-M about 75.3 (the paper's rebuttal, read off a figure), "
    "MobileNetV3-L 71.37 (the author, issue 35; batch 8 x 1024), both without distillation",
    label_smoothing=0.2,
    normalise="none",
    precision="fp16",
)

miil_single_label = replace(
    miil_semantic,
    objective="cross_entropy",
    source="Alibaba-MIIL/ImageNet21K, train_single_label.py; starts from ImageNet-1K weights",
    expected="not printed for 21K-P; the paper's baseline is judged by transfer",
)

miil_single_label_scratch = replace(
    miil_single_label,
    source="Alibaba-MIIL/ImageNet21K, train_single_label_from_scratch.py; random initialisation; the published "
    "optimizer has no momentum",
    expected="not printed; the author calls 300 epochs sensible (issue 26)",
    pretrained=False,
    epochs=140,
    optimizer="sgd",
    lr=1e-2,
    momentum=0.0,
)

miil_multi_label = replace(
    miil_semantic,
    objective="multi_label",
    source="the multi-label baseline of 'ImageNet-21K Pretraining for the Masses'; no code was published, the loss "
    "is taken from the same authors' asymmetric loss (gamma- 4, gamma+ 0, margin 0.05)",
    expected="not printed for 21K-P; the paper's baseline is judged by transfer",
    label_smoothing=0.0,
)

asl = replace(
    miil_multi_label,
    source="Alibaba-MIIL/ASL, train.py (MS-COCO): 80 epochs of one cycle, of which that code runs 41; there the "
    "focusing weights have no gradient, here they have; for lists of several labels",
    expected="mAP on MS-COCO with TResNet-L at 448 pixels: 86.6 (the paper, after ImageNet-1K)",
    batch_size=128,
    lr=1e-4,
    pct_start=0.2,
    div_factor=25.0,
    ema_decay=0.9997,
)

miil_semantic_kd = replace(
    miil_semantic,
    objective="semantic_kd",
    source="'ImageNet-21K Pretraining for the Masses', semantic distillation; the teacher (TResNet-L-V2 or ViT-B-16, "
    "the author in issue 35) and its coefficient were not published: kd_weight 1 is our choice",
    expected="the semantic top-1 of the published weights: miil21k models --family miil21k --label-space fall11",
    teacher="tresnet_v2_l.miil_in21k",
)

usi = Recipe(
    "usi",
    source="Alibaba-MIIL/Solving_ImageNet, train.py and README; 8 processes of batch 128",
    expected="ImageNet-1K top-1 after 300 epochs (MODEL_ZOO.md): docs/models.md, 'Published scores without weights'",
    epochs=300,
    batch_size=128,
    teacher="tresnet_v2_l.miil_in21k_ft_in1k",
    kd_weight=5.0,
    optimizer="adamw",
    lr=2e-3,
    weight_decay=2e-2,
    schedule="cosine",
    schedule_step="epoch",
    warmup_epochs=5,
    warmup_lr=1e-4,
    min_lr=1e-6,
    cooldown_epochs=10,
    interpolation="bicubic",
    crop="random",
    hflip=0.5,
    policy="rand-m7-mstd0.5-inc1",
    cutout=0.0,
    mixup=0.8,
    cutmix=1.0,
    repeats=3,
    eval_crop_pct=0.95,
    ema_decay=0.99996,
    precision="fp16",
)

semantic_unlabelled = replace(
    usi,
    objective="semantic_unlabelled",
    source="ours: the augmentation and the schedule of usi, the semantic softmax loss as its teacher expects it",
    expected="not measured on ImageNet; no published system pretrains a hierarchy without labels",
    teacher="tresnet_m.miil_in21k",
    kd_weight=1.0,
)

finetune = Recipe(
    "cross_entropy",
    source="Alibaba-MIIL/ImageNet21K, Transfer_learning.md (CIFAR-100); lr as fixed across data sets (issue 5)",
    expected="CIFAR-100 top-1 with Mixer-B-16 from MIIL 21K weights: 91.1 (Transfer_learning.md)",
    epochs=50,
    batch_size=128,
    label_smoothing=0.1,
    lr=2e-4,
    schedule="cosine",
    schedule_step="epoch",
    warmup_epochs=3,
    min_lr=1e-8,
    policy="v0",
    cutout=0.0,
    hflip=0.5,
    random_erase=0.5,
    ema_decay=0.995,
    precision="fp16",
)

finetune_sgd = replace(
    finetune,
    source="the author's settings for ViT-B-16 on CIFAR-100 (Alibaba-MIIL/ImageNet21K, issue 40)",
    expected="CIFAR-100 top-1 with ViT-B-16 from MIIL 21K weights: 94.2 (issue 40)",
    optimizer="sgd",
    lr=1e-2,
)

_SSL_UPDATES = 651_042  # a billion images in batches of 1,536

ssl_pretrain = Recipe(
    "cross_entropy",
    source="Yalniz et al. 2019, on pseudo-labels. Published: 64 processes of batch 24, SGD with momentum. Recalled, "
    "not verified: 0.1 per 256 images after a warm-up, halved 13 times at equal distances, a billion images, weight "
    "decay 1e-4. Not known, our choice: momentum 0.9, 5 % of warm-up, augmentation by area and mirror",
    expected="what the zoo's `fb_ssl_yfcc100m_ft_in1k` and `fb_swsl_ig1b_ft_in1k` rows report, after ssl_finetune",
    pretrained=False,
    steps=_SSL_UPDATES,
    batch_size=24,
    optimizer="momentum",
    lr=0.6,
    schedule="multistep",
    milestones=equal_drops(_SSL_UPDATES, 13),
    decay_rate=0.5,
    warmup_steps=_SSL_UPDATES // 20,
    warmup_lr=1e-3,
    crop="random",
    hflip=0.5,
    policy="",
    cutout=0.0,
    eval_crop_pct=0.875,
)

ssl_finetune = replace(
    ssl_pretrain,
    source="Yalniz et al. 2019, on true labels alone, from ssl_pretrain. Published, in timm's notes on the weights: "
    "lr 0.0015 for 64 processes of batch 24, 30 epochs. Recalled, not verified: three drops to a tenth at equal "
    "distances, weight decay 1e-4",
    pretrained=True,
    steps=0,
    epochs=30,
    lr=0.0015,
    schedule_step="epoch",
    milestones=equal_drops(30, 3),
    decay_rate=0.1,
    warmup_steps=0,
)

RECIPES: dict[str, Recipe] = {
    "miil_semantic": miil_semantic,
    "miil_single_label": miil_single_label,
    "miil_single_label_scratch": miil_single_label_scratch,
    "miil_multi_label": miil_multi_label,
    "asl": asl,
    "miil_semantic_kd": miil_semantic_kd,
    "usi": usi,
    "semantic_unlabelled": semantic_unlabelled,
    "finetune": finetune,
    "finetune_sgd": finetune_sgd,
    "ssl_pretrain": ssl_pretrain,
    "ssl_finetune": ssl_finetune,
}


def get_recipe(name: str) -> Recipe:
    """Return the recipe called `name`, or the one in a file that ends in `.json`.

    Raises UsageError with the nearest names, StrictJsonError for what is no field of a recipe, or not of its type.
    """
    if name.endswith(".json"):
        try:
            return read_json(name, Recipe)
        except OSError as error:
            raise UsageError(f"The recipe '{name}' cannot be read: {error.strerror or error}.") from None
    try:
        return RECIPES[name]
    except KeyError:
        known = ", ".join(RECIPES)
        raise UsageError(f"No recipe '{name}'.{did_you_mean(name, RECIPES)} Recipes: {known}.") from None
