"""Pretrained weights under a detector: `python examples/detector.py [--model NAME] [--steps N] [--size PX]`.

torchvision's RetinaNet stands on the `features_only` pyramid of a classifier. Here it learns to find a red square in
painted pictures, which takes about a minute on two cores; give it your own pictures and boxes in the place of `paint`.
"""

import argparse
from collections import OrderedDict

import torch
from torch import nn
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import FeaturePyramidNetwork, box_iou
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from miil21k import create_model


class Pyramid(nn.Module):
    """The stages of strides 8, 16 and 32 of a pretrained network, joined from the top down, and two coarser ones."""

    def __init__(self, name: str, channels: int = 64) -> None:
        super().__init__()
        self.body = create_model(name, pretrained=True, features_only=True, out_indices=(2, 3, 4))
        self.fpn = FeaturePyramidNetwork(
            self.body.feature_info.channels(), channels, extra_blocks=LastLevelP6P7(channels, channels)
        )
        self.out_channels = channels

    def train(self, mode: bool = True) -> "Pyramid":
        """Keep batch norm as it was pretrained: a detector's batches are too small for statistics."""
        super().train(mode)
        self.body.eval()
        return self

    def forward(self, images: torch.Tensor) -> OrderedDict[str, torch.Tensor]:
        return self.fpn(OrderedDict((str(level), stage) for level, stage in enumerate(self.body(images))))


def paint(
    count: int, size: int, generator: torch.Generator
) -> tuple[list[torch.Tensor], list[dict[str, torch.Tensor]]]:
    """Return pictures, float32 [3, size, size] in [0, 1], and where their square is: boxes x1, y1, x2, y2."""
    pictures, targets = [], []
    for _ in range(count):
        picture = 0.5 * torch.rand(3, size, size, generator=generator)
        edge = int(torch.randint(size // 4, size // 2, (), generator=generator))
        left, top = torch.randint(0, size - edge, (2,), generator=generator).tolist()
        picture[:, top : top + edge, left : left + edge] = torch.tensor([0.9, 0.1, 0.1])[:, None, None]
        pictures.append(picture)
        box = torch.tensor([[left, top, left + edge, top + edge]], dtype=torch.float32)
        targets.append({"boxes": box, "labels": torch.ones(1, dtype=torch.int64)})
    return pictures, targets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--size", type=int, default=128)
    args = parser.parse_args()

    torch.manual_seed(0)
    backbone = Pyramid(args.model)
    config = create_model(args.model).pretrained_cfg
    anchors = tuple((edge, int(edge * 2 ** (1 / 3)), int(edge * 2 ** (2 / 3))) for edge in (16, 32, 64, 128, 256))
    detector = RetinaNet(
        backbone,
        num_classes=2,  # 0 is the background
        min_size=args.size,
        max_size=args.size,
        image_mean=list(config["mean"]),
        image_std=list(config["std"]),
        anchor_generator=AnchorGenerator(anchors, ((0.5, 1.0, 2.0),) * len(anchors)),
    )
    new = [p for name, p in detector.named_parameters() if not name.startswith("backbone.body")]
    groups = [{"params": backbone.body.parameters(), "lr": 1e-4}, {"params": new, "lr": 1e-3}]
    optimizer = torch.optim.AdamW(groups)
    generator = torch.Generator().manual_seed(0)

    detector.train()
    recent = []
    for step in range(1, args.steps + 1):
        losses = detector(*paint(4, args.size, generator))
        loss = sum(losses.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        recent.append(float(loss.detach()))
        if step % 10 == 0 or step == args.steps:
            print(f"step {step:3}  mean loss since the last line {sum(recent) / len(recent):.3f}", flush=True)
            recent.clear()

    detector.eval()
    pictures, targets = paint(8, args.size, generator)
    with torch.inference_mode():
        found = detector(pictures)
    overlaps = [
        float(box_iou(answer["boxes"][:1], target["boxes"])) if len(answer["boxes"]) else 0.0
        for answer, target in zip(found, targets, strict=True)
    ]
    print(f"overlap of the surest box with the square, mean of {len(overlaps)} new pictures: {sum(overlaps) / 8:.2f}")


if __name__ == "__main__":
    main()
