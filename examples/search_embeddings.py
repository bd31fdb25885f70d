"""Which pictures look like this one? python examples/search_embeddings.py FOLDER QUERY [--library faiss].

The embeddings of FOLDER go into an index of usearch or FAISS, which is written to a file, read back, and asked for the
pictures nearest to QUERY. Needs: pip install "miil21k[embedded]" usearch faiss-cpu
`miil21k index` and `miil21k find --like` do the same without a script, and remember what they have seen.
Exit code: 1 if a picture of FOLDER could not be read, 2 if QUERY could not.
"""

import argparse
import sys

import numpy as np

from miil21k import Predictor


def ask_usearch(vectors: np.ndarray, query: np.ndarray, k: int, file: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the places of the k nearest vectors, and their cosines; of a graph, so nearly always the nearest."""
    from usearch.index import Index

    index = Index(ndim=vectors.shape[1], metric="cos", dtype="f32")
    index.add(np.arange(len(vectors)), vectors)
    index.save(file)
    found = Index.restore(file).search(query, k)
    return found.keys, 1 - found.distances


def ask_faiss(vectors: np.ndarray, query: np.ndarray, k: int, file: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the same by comparing with every vector, which is exact."""
    import faiss

    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    faiss.write_index(index, file)
    cosines, places = faiss.read_index(file).search(query[None], k)
    return places[0], cosines[0]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("query")
    parser.add_argument("--library", choices=["usearch", "faiss"], default="usearch")
    parser.add_argument("--index", default="pictures.vectors", help="the file that the library writes")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("-k", type=int, default=5)
    args = parser.parse_args()

    predictor = Predictor(args.model, embeddings=True)
    asked, *answers = predictor([args.query, f"{args.folder}/**/*.jpg"])
    if asked.status != "ok":
        print(asked.error, file=sys.stderr)
        return 2
    read = [answer for answer in answers if answer.status == "ok"]
    vectors = np.stack([answer.embedding for answer in [asked, *read]])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)  # of length 1, so that a product is a cosine
    search = {"usearch": ask_usearch, "faiss": ask_faiss}[args.library]
    places, cosines = search(vectors[1:], vectors[0], min(args.k, len(read)), args.index)
    for place, cosine in zip(places, cosines, strict=True):
        print(f"{cosine:.2f}  {read[place].input}")
    return 1 if len(read) < len(answers) else 0


if __name__ == "__main__":
    sys.exit(main())
