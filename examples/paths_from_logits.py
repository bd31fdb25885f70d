"""Read the logits of any ImageNet-1K network as a path: `python examples/paths_from_logits.py IMAGE [TIMM_MODEL]`.

Nothing here is tied to the zoo of miil21k: the network is timm's, and only the tree and the decoding are ours.
"""

import sys

import timm
import torch
from PIL import Image

from miil21k import create_model, load_label_space
from miil21k.decode.path import hedge
from miil21k.decode.probabilities import node_probabilities

if len(sys.argv) > 2:
    model = timm.create_model(sys.argv[2], pretrained=True)
else:
    model = create_model("embedded", pretrained=True)
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
with torch.inference_mode():
    logits = model.eval()(transform(Image.open(sys.argv[1]).convert("RGB"))[None]).numpy()

tree = load_label_space("in1k").tree
probs = node_probabilities(tree, logits, "leaf_softmax")
for level in (0.5, 0.8, 0.9, 0.99):
    answer = hedge(tree, probs, level)
    path = " > ".join(tree.names[node] for node in answer.paths.nodes[0, : answer.length[0]])
    print(f"{level:.2f}  {path or '(not sure)'}")
