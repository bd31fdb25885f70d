"""Read the logits of any ImageNet-1K network as a path: `python examples/paths_from_logits.py IMAGE [TIMM_MODEL]`.

Nothing here is tied to the zoo of miil21k: the network is timm's, and only the tree and the decoding are ours.
Needs: pip install "miil21k[embedded]"; TIMM_MODEL, such as resnet18.a1_in1k, is downloaded by timm.
"""

import sys

import timm
import torch
from PIL import Image

from miil21k import Decoder, create_model, load_label_space

if len(sys.argv) > 2:
    model = timm.create_model(sys.argv[2], pretrained=True)
else:
    model = create_model("embedded", pretrained=True)
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
with torch.inference_mode():
    logits = model.eval()(transform(Image.open(sys.argv[1]).convert("RGB"))[None]).numpy()

space = load_label_space("in1k")
for level in (0.5, 0.8, 0.9, 0.99):
    found = Decoder(space, "leaf_softmax", hedge=level).read(logits)
    path = " > ".join(space.tree.names[node] for node in found.path.nodes[0, : found.length[0]])
    print(f"{level:.2f}  {path or '(not sure)'}")
