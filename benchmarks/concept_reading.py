"""Compare answers read on the published tree with answers read on concepts, on photographs in folders named by wnid.

    python benchmarks/concept_reading.py TEST --fit TRAIN --model embedded --images 300

TEST is measured; TRAIN, other photographs, fits the calibration. Folders that the head has no concept for are left
out, unless --unknown measures them too. An answer is right when it is the label, holds it or lies in it, in WordNet. It
says log2(classes / classes at or below it) bits, in the graph that it was read on; "right bits" are those of right
answers, per photograph. Less than 1 bit is no answer.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from miil21k.calibrate.guarantee import calibrate
from miil21k.data.inputs import ImageInput
from miil21k.decode.decoded import READINGS
from miil21k.decode.decoder import Decoder
from miil21k.hierarchy.concepts import concepts_of
from miil21k.predict.predictor import Predictor
from miil21k.validate.concepts import right_for

if TYPE_CHECKING:
    from collections.abc import Iterator

LEVELS = (0.5, 0.8, 0.9, 0.95)
BATCH = 20


class Photographs(NamedTuple):
    """logits: float32 [n, C]. wnids: the n labels."""

    logits: np.ndarray
    wnids: list[str]


def photographs(predictor: Predictor, folder: Path, most: int, seed: int, *, unknown: bool = False) -> Photographs:
    known = concepts_of(predictor.space).index_of
    files = sorted(path for path in folder.glob("*/*") if path.is_file() and (unknown or path.parent.name in known))
    if len(files) > most:
        chosen = np.sort(np.random.default_rng(seed).choice(len(files), most, replace=False))
        files = [files[index] for index in chosen]
    logits = []
    for start in range(0, len(files), BATCH):
        crops = [predictor.crop(ImageInput(str(path), path)) for path in files[start : start + BATCH]]
        logits.append(predictor.outputs(np.stack(crops)).logits)
    return Photographs(np.concatenate(logits), [path.parent.name for path in files])


def rows(decoder: Decoder, test: Photographs) -> Iterator[tuple[str, ...]]:
    graph = concepts_of(decoder.space)
    right = np.stack([right_for(graph, wnid) for wnid in test.wnids])
    for level in LEVELS:
        for reading in READINGS:
            fixed = replace(decoder, hedge=level, reading=reading)
            answers = fixed.read(test.logits).hedged.node
            bits = (fixed.answer_vocabulary.bits if reading == "concepts" else fixed.node_bits)[answers]
            given = answers >= 0
            fine = given & right[np.arange(len(answers)), answers]
            yield (
                f"{level:g}",
                reading,
                f"{given.mean():.1%}",
                f"{fine.sum() / max(given.sum(), 1):.1%}",
                f"{(fine | ~given).mean():.1%}",
                f"{(bits * fine).sum() / len(answers):.2f}",
            )


def table(decoder: Decoder, test: Photographs) -> str:
    head = ("level", "reading", "answered", "right of answered", "right or no answer", "right bits")
    lines = [head, ("---:", "---", *["---:"] * 4), *rows(decoder, test)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("test", type=Path)
    parser.add_argument("--fit", type=Path)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--unknown", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    predictor = Predictor(args.model)
    decoder = Decoder(predictor.space, predictor.head)
    test = photographs(predictor, args.test, args.images, args.seed, unknown=args.unknown)
    graph = concepts_of(predictor.space)
    known = sum(wnid in graph.index_of for wnid in test.wnids)
    print(f"{len(test.wnids)} photographs, {known} of a concept of {predictor.space.name}, not calibrated:\n")
    print(table(decoder, test))
    if args.fit is None:
        return
    fit = photographs(predictor, args.fit, args.images, args.seed)
    nodes = np.array([graph.index_of.get(wnid, len(graph)) for wnid in fit.wnids])
    inside = nodes < predictor.space.tree.num_nodes
    fitted = calibrate(decoder, fit.logits[inside], nodes[inside], accuracies=LEVELS)
    print(f"\ncalibrated on {sum(fitted.samples)} others, of which {fitted.samples[1]} fit the levels:\n")
    print(table(decoder.calibrated(fitted), test))


if __name__ == "__main__":
    main()
