"""Ratios of the semantic softmax loss to plain cross-entropy and to the published loss, forward and backward.

    python benchmarks/losses.py [--batch 256] [--threads 1] [--repeats 40]

All ratios come from one run on one machine; each figure is the least of its repeats. One thread is measured in CPU
time, which a busy machine disturbs least, more threads by the clock. `published` restates the loss of
the MIIL code: targets by a loop over samples, levels by indexing, smoothed one-hot targets.
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812

from miil21k.hierarchy.load import load_label_space
from miil21k.train.level_order import level_table
from miil21k.train.losses import semantic_softmax

if TYPE_CHECKING:
    from collections.abc import Callable

    from miil21k.hierarchy.tree import Tree
    from miil21k.train.level_order import LevelTable


class Published:
    """The published semantic loss and its conversion of labels, restated."""

    def __init__(self, tree: Tree, levels: LevelTable, smoothing: float = 0.2) -> None:
        self.chains = [list(reversed(tree.path(c))) for c in range(tree.num_classes)]
        self.classes = [levels.order[start:stop] for start, stop in levels.bounds]
        self.place = [{int(c): i for i, c in enumerate(level)} for level in self.classes]
        self.weights, self.smoothing = levels.weights, smoothing

    def targets(self, labels: torch.Tensor) -> torch.Tensor:
        """Return int64 [B, K], the index inside each level, -1 below the label's depth."""
        rows = []
        for label in labels.cpu():
            chain = self.chains[int(label)][::-1]
            row = -torch.ones(len(self.classes), dtype=torch.int64)
            for level, node in enumerate(chain[: len(self.classes)]):
                row[level] = self.place[level][node]
            rows.append(row)
        return torch.stack(rows)

    def __call__(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        targets = self.targets(labels)
        total = logits.new_zeros(())
        for level, classes in enumerate(self.classes):
            part, target = logits[:, classes], targets[:, level]
            valid = target >= 0
            if not valid.any():
                continue
            log_probs = F.log_softmax(part[valid], dim=-1)
            wanted = torch.zeros_like(log_probs).scatter_(1, target[valid][:, None], 1)
            wanted = wanted * (1 - self.smoothing) + self.smoothing / part.shape[1]
            loss = -(wanted * log_probs).sum() / len(labels)
            total = total + self.weights[level].float() * loss
        return total


def best_of(work: Callable[[], object], repeats: int, clock: Callable[[], float]) -> float:
    """Return the least time of `repeats` runs, in seconds."""
    work()
    best = float("inf")
    for _ in range(repeats):
        start = clock()
        work()
        best = min(best, clock() - start)
    return best


def step(loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], logits: torch.Tensor, labels: torch.Tensor):
    def run() -> None:
        logits.grad = None
        loss(logits, labels).backward()

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3, help="times the whole list is measured; the least counts")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    clock = time.process_time if args.threads == 1 else time.perf_counter
    torch.manual_seed(0)
    tree = load_label_space("winter21").tree
    by_class, by_level = level_table(tree), level_table(tree, head="level")
    published = Published(tree, by_class)
    labels = torch.randint(0, tree.num_classes, (args.batch,))
    logits = 3 * torch.randn(args.batch, tree.num_classes)
    native, ordered = logits.clone().requires_grad_(), logits[:, by_level.order].clone().requires_grad_()
    with torch.no_grad():
        agreement = abs(float(published(native, labels) / semantic_softmax(native, labels, by_class)) - 1)
    many = torch.randint(0, tree.num_classes, (1024,))
    works = {
        "cross_entropy": (step(F.cross_entropy, native, labels), 1),
        "cross_entropy, smoothed": (step(lambda z, y: F.cross_entropy(z, y, label_smoothing=0.2), native, labels), 1),
        "semantic, level order": (step(lambda z, y: semantic_softmax(z, y, by_level), ordered, labels), 1),
        "semantic, class order": (step(lambda z, y: semantic_softmax(z, y, by_class), native, labels), 1),
        "published": (step(published, native, labels), 8),
        "targets of 1024, table": (lambda: by_class.targets_of(many), 1),
        "targets of 1024, published": (lambda: published.targets(many), 8),
    }
    best = dict.fromkeys(works, float("inf"))
    for _ in range(args.rounds):
        for name, (work, fewer) in works.items():
            best[name] = min(best[name], best_of(work, max(3, args.repeats // fewer), clock))
    plain = best["cross_entropy"]
    print(f"batch {args.batch}, {tree.num_classes} classes, float32, {args.threads} threads, torch {torch.__version__}")
    print(f"published and ours differ by {agreement:.1e} of the loss")
    for name in list(works)[:5]:
        print(f"{name:28s} {best[name] * 1e3:8.2f} ms  {best[name] / plain:6.2f} x cross_entropy")
    print(f"published / level order      {best['published'] / best['semantic, level order']:8.1f} x")
    print(f"published / class order      {best['published'] / best['semantic, class order']:8.1f} x")
    print(f"targets, published / table   {best['targets of 1024, published'] / best['targets of 1024, table']:8.0f} x")


if __name__ == "__main__":
    main()
