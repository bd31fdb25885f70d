"""Ask a Triton server where in the tree of labels pictures lie.

    pip install "tritonclient[http]" pillow
    python client.py cat.jpg dog.jpg --url localhost:8000

labels.txt beside this file says which node is which: line i, counted from 0, is node i. asked.txt, where there is one,
says in the same way which question each probability of the output `asked` answers.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import tritonclient.http as triton
from PIL import Image, ImageOps

HERE = Path(__file__).resolve().parent
OUTPUTS = ("topk_index", "topk_prob", "path", "path_prob", "hedge_node")


def pixels(path: str) -> np.ndarray:
    """Return uint8 [1, height, width, 3], the picture upright and in RGB."""
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))[None]


def deepest(path: np.ndarray, probs: np.ndarray, level: float) -> int:
    """Return the last node of the path that is at least `level` sure, -1 for none; what the server's hedge_node is."""
    sure = (path >= 0) & (probs >= level - 1e-6)
    return int(path[sure.sum() - 1]) if sure.any() else -1


def main() -> None:
    """Print the path and the best classes of every picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", nargs="+")
    parser.add_argument("--url", default="localhost:8000", help="host:port of the HTTP endpoint (%(default)s)")
    parser.add_argument("--model", default=HERE.name, help="name of the model (%(default)s)")
    parser.add_argument("--model-version", default="", help="its version; the server's choice unless given")
    parser.add_argument("--hedge", type=float, help="stop where the path is less sure; the export's level unless given")
    args = parser.parse_args()
    labels = (HERE / "labels.txt").read_text(encoding="utf-8").splitlines()
    questions = (HERE / "asked.txt").read_text(encoding="utf-8").splitlines() if (HERE / "asked.txt").exists() else []
    bins = (HERE / "bins.txt").read_text(encoding="utf-8").splitlines() if (HERE / "bins.txt").exists() else []
    outputs = (*OUTPUTS, *(("asked",) if questions else ()), *(("bins",) if bins else ()))
    server = triton.InferenceServerClient(args.url)
    for picture in args.pictures:
        images = pixels(picture)
        sent = triton.InferInput("images", images.shape, "UINT8")
        sent.set_data_from_numpy(images)
        wanted = [triton.InferRequestedOutput(name) for name in outputs]  # no logits: they are many
        answer = server.infer(args.model, [sent], model_version=args.model_version, outputs=wanted)
        found = {name: answer.as_numpy(name)[0] for name in outputs}
        stop = int(found["hedge_node"][0])
        if args.hedge is not None:
            stop = deepest(found["path"], found["path_prob"], args.hedge)
        print(picture)
        for node, prob in zip(found["path"], found["path_prob"], strict=True):
            if node >= 0:
                print(f"  {prob:.3f}  {labels[node]}{'  <' if node == stop else ''}")
        for index, prob in zip(found["topk_index"], found["topk_prob"], strict=True):
            if index >= 0:
                print(f"    {prob:.3f}  {labels[index]}")
        for question, prob in zip(questions, found.get("asked", ()), strict=True):
            print(f"  {prob:.3f}  {question}?")
        for label, prob in zip(bins, found.get("bins", ()), strict=True):
            print(f"  {prob:.3f}  [{label}]")


if __name__ == "__main__":
    main()
