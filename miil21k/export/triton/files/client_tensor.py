"""Ask a Triton server for the best classes of pictures, and print where in the tree of labels they lie.

    pip install "tritonclient[http]" miil21k
    python client.py cat.jpg dog.jpg --url localhost:8000

The server takes normalised pixels and answers logits. How to make the ones and read the others is in the metadata of
model.onnx, of which this file reads the newest version beside itself.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import tritonclient.http as triton

from miil21k.data.images import load_image
from miil21k.data.transforms import crop_image, normalise
from miil21k.zoo.export_card import read_export_card

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Print the path and the largest logits of every picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", nargs="+")
    parser.add_argument("--url", default="localhost:8000", help="host:port of the HTTP endpoint (%(default)s)")
    parser.add_argument("--model", default=HERE.name, help="name of the model (%(default)s)")
    parser.add_argument("--model-version", default="", help="its version; the server's choice unless given")
    args = parser.parse_args()
    newest = max((path for path in HERE.iterdir() if path.name.isdecimal()), key=lambda path: int(path.name))
    card = read_export_card(newest / "model.onnx")
    tree, decoder = card.space.tree, card.decoder()
    server = triton.InferenceServerClient(args.url)
    dtype = server.get_model_metadata(args.model)["inputs"][0]["datatype"]
    for picture in args.pictures:
        pixels = normalise(crop_image(load_image(picture), card.preprocess)[None], card.preprocess)
        sent = triton.InferInput("pixels", pixels.shape, dtype)
        sent.set_data_from_numpy(np.ascontiguousarray(pixels, np.float16 if dtype == "FP16" else np.float32))
        # Two requests, since an output comes as numbers or as the server's own best classes ("value:index:label").
        logits = server.infer(args.model, [sent], args.model_version, [triton.InferRequestedOutput("logits")])
        best = triton.InferRequestedOutput("logits", class_count=5)
        classes = server.infer(args.model, [sent], args.model_version, [best]).as_numpy("logits")
        path = decoder.read(logits.as_numpy("logits")).path
        print(picture)
        for node, prob in zip(path.nodes[0], path.probs[0], strict=True):
            if node >= 0:
                print(f"  {prob:.3f}  {tree.wnids[node]} {tree.names[node]}")
        for text in classes.ravel():
            value, _, label = text.decode().split(":", 2)
            print(f"    {float(value):.2f}  {label}")


if __name__ == "__main__":
    main()
