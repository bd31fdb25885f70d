"""Name what is in pictures with onnxruntime, Pillow and NumPy alone: python onnx_only.py model.onnx cat.jpg ..."""

from __future__ import annotations

import json
import os
import sys

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read by the import that follows: else it tells Microsoft of every session

import numpy as np
import onnxruntime as ort
from PIL import Image, ImageOps


def main(model: str, *pictures: str) -> None:
    quiet = ort.SessionOptions()
    quiet.log_severity_level = 3
    quiet.add_session_config_entry("session.x64quantprecision", "1")  # INT8 adds up exactly on every processor
    session = ort.InferenceSession(model, quiet, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    # wnid, parents, names of node 0, 1, ...; with --read concepts or --ask, of concept 0, 1, ..., the nodes first
    lines = metadata.get("concepts_text", metadata["label_space_text"]).splitlines()[2:]
    asked = [one["question"] for one in json.loads(metadata.get("decoding", "{}")).get("asked", [])]
    names = [line.split("\t")[2].partition("|")[0] for line in lines]
    sure = np.array(0.8, np.float32)  # "hedge" may be left out: the model has a default
    for picture in pictures:
        image = np.asarray(ImageOps.exif_transpose(Image.open(picture)).convert("RGB"))[None]
        path, probs, node, top, *more = session.run(
            ["path", "path_prob", "hedge_node", "topk_index", *(["asked"] if asked else [])],
            {"images": image, "hedge": sure},
        )
        steps = [f"{names[n]} {p:.2f}" for n, p in zip(path[0], probs[0], strict=True) if n >= 0]
        print(f"{picture}: {names[node[0]] if node[0] >= 0 else 'not sure'}")
        print(f"  path: {' > '.join(steps)}")
        print(f"  top: {', '.join(names[n] for n in top[0] if n >= 0)}")
        for question, probability in zip(asked, more[0][0] if more else [], strict=True):
            print(f"  {question}: {probability:.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
