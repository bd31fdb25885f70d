"""Compare answers read on the published tree with answers read on concepts, on photographs in folders named by wnid.

    python benchmarks/concept_reading.py TEST --fit TRAIN --model embedded --unknown --kept /tmp/caltech

Two tables of TEST: how well the probability of a noun tells the photographs that show one from all others, and what
hedged answers are worth. TRAIN, other photographs, fits the calibration. A photograph shows a noun when that is its
label or a hypernym of it, so folders that the head has no concept for have a truth too; --unknown measures them, too,
else they are left out. An answer is right when it is the label, holds it or lies in it, in WordNet. It says
log2(classes / classes at or below it) bits, and less than 1 bit is no answer; "right bits" are those of right answers,
per photograph, in the graph that they were read on and, for both, in WordNet, where *mammal* holds all mammals. --kept
holds logits and embeddings between calls: one inference pass.
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
from miil21k.hierarchy.nouns import wordnet_nouns
from miil21k.hierarchy.questions import resolve
from miil21k.predict.predictor import Predictor
from miil21k.validate.concepts import right_for

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from miil21k.decode.decoded import Decoded

LEVELS = (0.5, 0.8, 0.9, 0.95)
NOUNS = (
    *("animal", "mammal", "canine", "carnivore", "feline", "bird", "reptile", "invertebrate", "vehicle", "aircraft"),
    *("boat", "food", "fruit", "plant", "flower", "musical instrument", "stringed instrument", "furniture", "seat"),
    *("tool", "container", "electronic equipment", "weapon", "timepiece"),
)
BATCH = 20


class Photographs(NamedTuple):
    """logits: float32 [n, C]. embeddings: float32 [n, D]. wnids: the n labels."""

    logits: np.ndarray
    embeddings: np.ndarray
    wnids: list[str]


def photographs(
    predictor: Predictor, folder: Path, most: int, seed: int, *, unknown: bool = False, kept: Path | None = None
) -> Photographs:
    """Return what the network says of the photographs of `folder`, at most so many, drawn with `seed`."""
    name = f"{folder.name}-{most}-{seed}-{'all' if unknown else 'known'}.npz"
    if kept is not None and (kept / name).exists():
        with np.load(kept / name) as file:
            return Photographs(file["logits"], file["embeddings"], file["wnids"].tolist())
    known = concepts_of(predictor.space).index_of
    files = sorted(path for path in folder.glob("*/*") if path.is_file() and (unknown or path.parent.name in known))
    if len(files) > most:
        chosen = np.sort(np.random.default_rng(seed).choice(len(files), most, replace=False))
        files = [files[index] for index in chosen]
    logits, embeddings = [], []
    for start in range(0, len(files), BATCH):
        crops = [predictor.crop(ImageInput(str(path), path)) for path in files[start : start + BATCH]]
        found = predictor.outputs(np.stack(crops), embed=True)
        logits.append(found.logits)
        embeddings.append(found.embedding)
    result = Photographs(np.concatenate(logits), np.concatenate(embeddings), [path.parent.name for path in files])
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
        np.savez(kept / name, **result._asdict())
    return result


def hypernyms(wnid: str) -> set[str]:
    """Return `wnid` and every noun above it in WordNet."""
    found, todo = {wnid}, [wnid]
    while todo:
        new = {above for above in wordnet_nouns().hypernym_text(todo.pop()).split() if above != "-"} - found
        found |= new
        todo += new
    return found


def average_precision(scores: np.ndarray, truth: np.ndarray) -> float:
    """Return the mean of the precision at every true sample, with equal scores taken together."""
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.diff(scores[order], append=-np.inf))
    hits = np.cumsum(truth[order])[ends]
    return float((hits / (ends + 1) * np.diff(hits, prepend=0)).sum() / truth.sum())


def nouns(decoder: Decoder, test: Photographs, asked: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Yield per noun how well its P tells what shows one: over concepts, and P(node) of the published tree."""
    graph, tree = concepts_of(decoder.space), decoder.space.tree
    found = decoder.read(test.logits)
    above = {wnid: hypernyms(wnid) for wnid in set(test.wnids)}
    for noun in asked:
        concept = resolve(graph, noun).concept
        truth = np.array([graph.wnids[concept] in above[wnid] for wnid in test.wnids])
        if not truth.any():
            continue
        cells = [noun, f"{truth.sum():,}", f"{graph.num_below[concept]}"]
        cells += told(found.concepts[:, concept], truth)
        if concept < tree.num_nodes:
            below = tree.descendants(concept)
            yield (*cells, f"{(below < tree.num_classes).sum()}", *told(found.nodes[:, concept], truth))
        else:
            yield (*cells, "no node", "", "", "")


def told(scores: np.ndarray, truth: np.ndarray) -> tuple[str, ...]:
    said = scores > 0.5
    precision = f"{(said & truth).sum() / said.sum():.3f}" if said.any() else "-"
    return f"{average_precision(scores, truth):.3f}", f"{(said & truth).sum() / truth.sum():.3f}", precision


def rows(
    decoder: Decoder, logits: np.ndarray, wnids: Sequence[str], levels: Iterable[float] = LEVELS
) -> Iterator[tuple[str, ...]]:
    """Yield what the answers of both readings are worth, at each level."""
    for level in levels:
        for reading in READINGS:
            found = worth(replace(decoder, hedge=level, reading=reading).read(logits), wnids)
            yield (f"{level:g}", reading, *written(found))


class Worth(NamedTuple):
    """Shares, and bits per photograph."""

    answered: float
    right: float
    right_or_none: float
    bits: float
    bits_in_wordnet: float


def worth(found: Decoded, wnids: Sequence[str]) -> Worth:
    """Return what the hedged answers are worth, where the truth is `wnids`."""
    fixed, answers = found.decoder, found.hedged.node
    graph = concepts_of(fixed.space)
    right = {wnid: right_for(graph, wnid) for wnid in set(wnids)}
    given = answers >= 0
    fine = given & np.array([right[wnid][one] for wnid, one in zip(wnids, answers, strict=True)])
    in_wordnet = fixed.answer_vocabulary.bits
    own = in_wordnet if fixed.reading == "concepts" else fixed.node_bits
    bits = (float((said[answers] * fine).sum() / len(given)) for said in (own, in_wordnet))
    return Worth(given.mean(), fine.sum() / max(given.sum(), 1), (fine | ~given).mean(), *bits)


def written(found: Worth) -> tuple[str, ...]:
    """Return the cells of a table."""
    return (*(f"{share:.1%}" for share in found[:3]), *(f"{bits:.2f}" for bits in found[3:]))


HEAD = (*("level", "reading", "answered", "right of answered", "right or no answer"), "right bits", "in WordNet")
OF_NOUNS = (
    *("noun", "true", "classes below", "concept: AP", "recall", "precision"),
    *("classes below in the tree", "tree: AP", "recall", "precision"),
)


def table(head: Sequence[str], lines: Iterable[Sequence[str]], *, texts: int) -> str:
    """Return a table in Markdown whose columns are numbers but for those up to `texts`."""
    rule = ["---" if place < texts else "---:" for place in range(len(head))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("test", type=Path)
    parser.add_argument("--fit", type=Path)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--images", type=int, default=10_000, help="of each folder at most, drawn with --seed")
    parser.add_argument("--unknown", action="store_true", help="also folders that are no concept of the head")
    parser.add_argument("--nouns", default=",".join(NOUNS), help="a list with commas")
    parser.add_argument("--kept", type=Path, metavar="DIR", help="keeps logits and embeddings for the next call")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    predictor = Predictor(args.model)
    decoder = Decoder(predictor.space, predictor.head)
    test = photographs(predictor, args.test, args.images, args.seed, unknown=args.unknown, kept=args.kept)
    graph = concepts_of(predictor.space)
    known = np.array([wnid in graph.index_of for wnid in test.wnids])
    print(f"{known.size:,} photographs, {known.sum():,} of a concept of {predictor.space.name}. Nouns, P > 0.5:\n")
    print(table(OF_NOUNS, nouns(decoder, test, args.nouns.split(",")), texts=1))
    parts = {f"the {known.sum():,} of a concept": known, f"all {known.size:,}": np.ones(known.size, bool)}
    parts = dict(list(parts.items())[: 1 if known.all() else 2])
    said = [f"Hedged answers, not calibrated, {name}:" for name in parts]
    for sentence, part in zip(said, parts.values(), strict=True):
        print(f"\n{sentence}\n\n{_readings(decoder, test, part)}")
    if args.fit is None:
        return
    fit = photographs(predictor, args.fit, args.images, args.seed, kept=args.kept)
    nodes = np.array([graph.index_of.get(wnid, len(graph)) for wnid in fit.wnids])
    inside = nodes < predictor.space.tree.num_nodes
    fitted = calibrate(decoder, fit.logits[inside], nodes[inside], accuracies=LEVELS, seed=args.seed)
    fits = f"calibrated on {sum(fitted.samples):,} others, of which {fitted.samples[1]:,} fit the levels"
    for name, part in parts.items():
        print(f"\nHedged answers, {fits}, {name}:\n\n{_readings(decoder.calibrated(fitted), test, part)}")


def _readings(decoder: Decoder, test: Photographs, part: np.ndarray) -> str:
    wnids = [wnid for wnid, taken in zip(test.wnids, part, strict=True) if taken]
    return table(HEAD, rows(decoder, test.logits[part], wnids), texts=2)


if __name__ == "__main__":
    main()
