"""Average precision of nouns over photographs in folders named by wnid, under three ways to search a collection.

    python benchmarks/find_quality.py TEST --model embedded --kept /tmp/caltech

names: a photograph is found by the name of its likeliest class, or of one that WordNet holds to be a kind of the noun,
and ranked by that class's probability. tree: by P(node) of the published tree, summed over its subtree; a noun that is
no node of it cannot be searched. ours: as `miil21k find` does, from the compact probabilities of an index. A photograph
shows a noun when that is its label or a hypernym of it in WordNet. "Sets" are the classes below the noun, in the tree
and in WordNet. The last column: what ours has over the tree, with the 95 % interval over 1,000 draws of photographs.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from concept_reading import Photographs, average_precision, hypernyms, photographs, table

from miil21k.decode.compact import BOUND, compact_masses, counted_classes
from miil21k.decode.decoder import Decoder
from miil21k.find.query import parse_query
from miil21k.find.store import About, Index
from miil21k.hierarchy.concepts import concepts_of
from miil21k.hierarchy.questions import resolve
from miil21k.predict.predictor import Predictor

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

NOUNS = ("bird", "mammal", "vehicle", "musical instrument", "furniture")
HEAD = ("noun", "true", "sets: tree", "WordNet", "names: AP", "tree: AP", "ours: AP", "ours over tree")


def indexed(predictor: Predictor, decoder: Decoder, test: Photographs, folder: str) -> Index:
    """Return an index of the photographs, as `miil21k index` makes it of the same logits."""
    space = predictor.space
    counted = counted_classes(space.tree, decoder.withdrawn)
    withdrawn = () if decoder.withdrawn is None else tuple(map(int, np.flatnonzero(decoder.withdrawn)))
    about = About(None, predictor.origin._asdict(), {}, predictor.head, BOUND, withdrawn, None)
    index = Index.create(f"{folder}/test.index", about, test.embeddings.shape[1])
    kept = compact_masses(decoder.read(test.logits).masses, predictor.head, counted)
    rows = [
        {"input": f"{number}", "status": "ok", **masses._asdict(), "embedding": vector.astype(np.float16)}
        for number, (masses, vector) in enumerate(zip(kept, test.embeddings, strict=True))
    ]
    index.put(rows, known=False)
    return index


def measured(decoder: Decoder, test: Photographs, asked: Sequence[str], index: Index) -> Iterator[tuple[str, ...]]:
    """Yield a row of the table per noun."""
    graph, tree = concepts_of(decoder.space), decoder.space.tree
    found = decoder.read(test.logits)
    top = found.topk(1)
    best, sure = top.classes[:, 0], top.probs[:, 0]
    above = {wnid: hypernyms(wnid) for wnid in set(test.wnids)}
    is_of = {wnid: hypernyms(wnid) for wnid in tree.wnids[: tree.num_classes]}
    rng = np.random.default_rng(0)
    for noun in asked:
        concept = resolve(graph, noun).concept
        wnid = graph.wnids[concept]
        truth = np.array([wnid in above[label] for label in test.wnids])
        kinds = np.array([wnid in is_of[of] for of in tree.wnids[: tree.num_classes]])
        scores = {
            "names": np.where(kinds[best], sure, 0.0),
            "tree": found.nodes[:, concept] if concept < tree.num_nodes else np.zeros(len(truth)),
            "ours": index.probability(parse_query(noun, index).classes),
        }
        in_tree = int((tree.descendants(concept) < tree.num_classes).sum()) if concept < tree.num_nodes else 0
        gains = []
        for _ in range(1000):
            drawn = rng.integers(0, len(truth), len(truth))
            if truth[drawn].any():
                each = [average_precision(scores[name][drawn], truth[drawn]) for name in ("ours", "tree")]
                gains.append(each[0] - each[1])
        gain = average_precision(scores["ours"], truth) - average_precision(scores["tree"], truth)
        low, high = np.quantile(gains, [0.025, 0.975])
        cells = (f"{average_precision(score, truth):.3f}" for score in scores.values())
        counts = (f"{truth.sum():,}", f"{in_tree}", f"{graph.num_below[concept]}")
        yield (noun, *counts, *cells, f"{gain:+.3f} ({low:+.3f} to {high:+.3f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("test", type=Path)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--images", type=int, default=10_000, help="at most, drawn with --seed")
    parser.add_argument("--nouns", default=",".join(NOUNS), help="a list with commas")
    parser.add_argument("--kept", type=Path, metavar="DIR", help="keeps logits and embeddings for the next call")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    predictor = Predictor(args.model)
    decoder = Decoder(predictor.space, predictor.head)
    test = photographs(predictor, args.test, args.images, args.seed, unknown=True, kept=args.kept)
    with tempfile.TemporaryDirectory() as folder:
        index = indexed(predictor, decoder, test, folder)
        print(f"{len(test.wnids):,} photographs, {predictor.origin.model}.\n")
        print(table(HEAD, measured(decoder, test, args.nouns.split(","), index), texts=1))


if __name__ == "__main__":
    main()
