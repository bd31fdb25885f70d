"""Compare both readings of answers on heads of each kind, to choose the default of a kind.

    python benchmarks/reading_of_heads.py --cifar cifar10_images.zip --test TEST --fit TRAIN --kept /tmp/caltech

Small networks on CIFAR-10, as in `semantic_softmax.py` (half of the labels blurred to an ancestor), and linear heads on
the embeddings of photographs in folders named by wnid, `embedded` of TRAIN. Each is trained with one softmax over the
leaves (leaf_softmax) and with semantic softmax, one softmax per depth, over leaves and ancestors (level_softmax).
Columns as in `concept_reading.py`, means over the seeds; half of the test images calibrate, the other half is measured.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from blurred_sets import blur, load_cifar, with_inner_classes
from blurred_training import SMOOTHING, Network, objective_of, outputs, train
from concept_reading import HEAD, LEVELS, Photographs, Worth, hypernyms, photographs, table, worth, written

from miil21k.calibrate.guarantee import calibrate
from miil21k.decode.decoded import READINGS
from miil21k.decode.decoder import Decoder
from miil21k.hierarchy.load import load_own
from miil21k.predict.predictor import Predictor
from miil21k.train.level_order import level_table
from miil21k.train.objectives import CrossEntropy, SemanticSoftmax

if TYPE_CHECKING:
    from collections.abc import Iterator

    from miil21k.decode.heads import HeadKind
    from miil21k.hierarchy.spaces import LabelSpace

STEPS, RATE, DECAY = 300, 3e-3, 1e-2


class Measured(NamedTuple):
    """A trained head: logits float32 [n, C] of test images, labels int [n], classes of `space`."""

    data: str
    head: HeadKind
    space: LabelSpace
    logits: np.ndarray
    labels: np.ndarray


def of_cifar(archive: Path, seeds: int, images: int, epochs: int) -> Iterator[Measured]:
    """Yield networks on CIFAR-10 whose ten labels are leaves, and those of which two are inner nodes."""
    leaves = load_cifar(archive, images, 10_000)
    for data in (leaves, with_inner_classes(leaves)):
        labels = blur(data.space.tree, data.train_labels, 0.5, seed=21)
        for scheme, head in (("single", "leaf_softmax"), ("semantic", "level_softmax")):
            for seed in range(seeds):
                torch.manual_seed(seed)
                network = Network(16, data.space.num_classes).to(memory_format=torch.channels_last)
                train(network, objective_of(scheme, data.space.tree, None), data.train_images, labels, epochs, seed)
                logits = outputs(network, data.test_images)[1].numpy()
                yield Measured(data.name, head, data.space, logits, data.test_labels)


def of_photographs(fit: Photographs, test: Photographs, seeds: int) -> Iterator[Measured]:
    """Yield linear heads over the labels of the photographs; those that lie above another one are left out."""
    above = set().union(*(hypernyms(wnid) - {wnid} for wnid in set(fit.wnids)))
    wnids = sorted(set(fit.wnids) - above)
    with tempfile.TemporaryDirectory() as folder:
        names = Path(folder) / "labels.txt"
        names.write_text("\n".join(wnids))
        spaces = {"leaf_softmax": load_own(names), "level_softmax": load_own(names, all_nodes=True)}
    place = {wnid: index for index, wnid in enumerate(wnids)}
    ours, theirs = (np.array([wnid in place for wnid in part.wnids]) for part in (fit, test))
    mean, spread = fit.embeddings.mean(0), fit.embeddings.std(0) + 1e-3
    seen, unseen = (torch.from_numpy((part.embeddings - mean) / spread) for part in (fit, test))
    targets = torch.tensor([place[wnid] for wnid in fit.wnids if wnid in place])
    truth = np.array([place[wnid] for wnid in test.wnids if wnid in place])
    for head, space in spaces.items():
        objective = CrossEntropy(SMOOTHING)
        if head == "level_softmax":
            objective = SemanticSoftmax(level_table(space.tree, deepest="keep"), SMOOTHING)
        for seed in range(seeds):
            torch.manual_seed(seed)
            linear = torch.nn.Linear(seen.shape[1], space.num_classes)
            optimizer = torch.optim.AdamW(linear.parameters(), lr=RATE, weight_decay=DECAY)
            for _ in range(STEPS):
                rows = torch.randint(0, len(targets), (256,))
                optimizer.zero_grad()
                objective(linear, seen[ours][rows], targets[rows])["loss"].backward()
                optimizer.step()
            with torch.no_grad():
                logits = linear(unseen[theirs]).numpy()
            yield Measured("Caltech-101, linear head", head, space, logits, truth)


def readings(one: Measured, *, calibrated: bool) -> dict[tuple[float, str], Worth]:
    """Return what the answers of half of the images are worth, at each level and by each reading."""
    ours, theirs = np.array_split(np.random.default_rng(7).permutation(len(one.labels)), 2)
    decoder = Decoder(one.space, one.head)
    if calibrated:
        decoder = decoder.calibrated(calibrate(decoder, one.logits[ours], one.labels[ours], accuracies=LEVELS))
    wnids = [one.space.wnids[label] for label in one.labels[theirs]]
    return {
        (level, reading): worth(replace(decoder, hedge=level, reading=reading).read(one.logits[theirs]), wnids)
        for level in LEVELS
        for reading in READINGS
        if not calibrated or level in levels_of(decoder, reading)
    }


def levels_of(decoder: Decoder, reading: str) -> set[float]:
    """Return the accuracies that the calibration could guarantee."""
    found = decoder.calibration
    return {level for level, _ in (found.thresholds if reading == "published" else found.concept_thresholds)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar", type=Path, help="zip of train/<class>/*.jpg and test/<class>/*.jpg")
    parser.add_argument("--test", type=Path, help="folders named by wnid")
    parser.add_argument("--fit", type=Path, help="others of the same classes")
    parser.add_argument("--kept", type=Path, metavar="DIR", help="keeps logits and embeddings for the next call")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=20_000, help="of CIFAR-10 for training")
    parser.add_argument("--epochs", type=int, default=6)
    args = parser.parse_args()
    found: list[Measured] = []
    if args.test is not None:
        predictor = Predictor("embedded")
        parts = (
            photographs(predictor, folder, 10_000, 0, unknown=True, kept=args.kept) for folder in (args.fit, args.test)
        )
        found += of_photographs(*parts, args.seeds)
    if args.cifar is not None:
        found += of_cifar(args.cifar, args.seeds, args.images, args.epochs)
    for data, head in dict.fromkeys((one.data, one.head) for one in found):
        runs = [one for one in found if (one.data, one.head) == (data, head)]
        classes = runs[0].space.num_classes
        for calibrated in (False, True):
            each = [readings(one, calibrated=calibrated) for one in runs]
            lines = [
                (f"{level:g}", reading, *written(Worth(*np.mean([one[level, reading] for one in each], axis=0))))
                for level, reading in each[0]
                if all((level, reading) in one for one in each)
            ]
            how = "calibrated" if calibrated else "not calibrated"
            print(f"\n{data}, {head} of {classes} classes, {len(runs)} runs, {how}:\n\n{table(HEAD, lines, texts=2)}")


if __name__ == "__main__":
    main()
