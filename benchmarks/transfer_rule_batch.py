"""What a smaller batch costs BiT-HyperRule, by how its rate falls: a head from zeros on frozen features.

    python benchmarks/transfer_rule_batch.py caltech101          # caltech101/{train,test}/<class>/

The rule's 500 updates, with its warm-up and milestones, of plain momentum SGD, without images: seconds for a run. The
images are those of `transfer_shots.py`. The rate falls in proportion to the batch, as its square root, or not at all.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.nn import functional
from transfer_rows import subset

from miil21k.benchmark.contestants import Contestant
from miil21k.train.hyperrule import bit_hyperrule
from miil21k.transfer.bench import Bench
from miil21k.transfer.dataset import open_data
from miil21k.transfer.options import TransferOptions
from miil21k.transfer.probes import PROBES
from miil21k.transfer.split import balanced_subset
from miil21k.transfer.strength import fit_probe

if TYPE_CHECKING:
    from miil21k.transfer.features import Features

FALLS = {"in proportion": 1.0, "square root": 0.5, "kept": 0.0}  # powers of the share of the batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of train/<class>/ and test/<class>/")
    parser.add_argument("--shots", type=int, nargs="+", default=[10, 25])
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 16, 32, 64, 512])
    parser.add_argument("--size", type=int, default=64, help="pixels")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "transfer_shots")
    args = parser.parse_args()
    data = subset(args.data, args.work / f"30-{args.size}", args.size * 9 // 8, 30, test=20)
    options = TransferOptions(data=str(data), img_size=args.size, backend="torch", workers=0, threads=1)
    bench = Bench.of(Contestant("embedded", "embedded"), options, open_data(options), args.work / "pretrained", None)
    print("| images a class, batch | " + " | ".join(FALLS) + " |", "|---" * (len(FALLS) + 1) + "|", sep="\n")
    for shots in args.shots:
        few = bench.pool.take(balanced_subset(bench.pool.labels, shots, 0))
        fitted = fit_probe(PROBES["logistic"], few.values, few.labels, bench.data.space.num_classes)
        right = fitted.classifier.logits(bench.judged.values).argmax(1) == bench.judged.labels
        print(f"| {shots}, logistic probe | {right.mean():.1%} | | |")
        for batch in args.batches:
            cells = [f"{head(few, bench.judged, batch, power):.1%}" for power in FALLS.values()]
            print(f"| {shots}, {batch} | " + " | ".join(cells) + " |", flush=True)


def head(few: Features, judged: Features, batch: int, power: float) -> float:
    """Return the accuracy on `judged` of a head that learnt `few` by the rule with this batch."""
    rule = bit_hyperrule(len(few), 96, 96)
    values, labels = torch.from_numpy(few.values), torch.from_numpy(few.labels).long()
    model = torch.nn.Linear(values.shape[1], int(labels.max()) + 1)
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    optimizer = torch.optim.SGD(model.parameters(), rule.lr, momentum=rule.momentum)
    generator = torch.Generator().manual_seed(0)
    for step in range(rule.steps):
        drops = sum(step >= milestone - 1 for milestone in rule.milestones)
        warm = min(1.0, step / rule.warmup_steps)
        optimizer.param_groups[0]["lr"] = rule.lr * (batch / rule.batch_size) ** power * warm * 0.1**drops
        few_ones = len(values) < batch
        order = torch.randint(len(values), (batch,), generator=generator) if few_ones else None
        rows = torch.randperm(len(values), generator=generator)[:batch] if order is None else order
        loss = functional.cross_entropy(model(values[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        found = model(torch.from_numpy(judged.values)).argmax(1).numpy()
    return float((found == judged.labels).mean())


if __name__ == "__main__":
    main()
