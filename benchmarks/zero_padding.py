"""What zeros in place of TResNet's reflected edges change: `miil21k export onnx --padding zeros`.

    python benchmarks/zero_padding.py [ROW ...] [--images DIR]

Random weights, norms fitted to photographs; your own weights are measured by the command itself.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from export_zoo import random_model

from miil21k.export.onnx.file import own_photographs, photographs_in
from miil21k.export.onnx.model import decoder_of
from miil21k.export.onnx.padding import padding_difference, with_zero_padding
from miil21k.export.options import ExportOptions
from miil21k.zoo.manifest import find_weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", default=["tresnet_m_21k"])
    parser.add_argument("--images", type=Path, help="a folder of photographs, besides those of miil21k")
    args = parser.parse_args()
    photos = [*own_photographs(), *(photographs_in(args.images) if args.images else ())]
    print("| row | pictures | logits, of their range | same best class | same path | same hedged node |")
    print("|---|---|---|---|---|---|")
    for name in args.rows:
        torch.manual_seed(0)
        loaded = random_model(find_weights(name))
        found = padding_difference(loaded, with_zero_padding(loaded), decoder_of(loaded, ExportOptions()), photos)
        for kind, row in found.items():
            same = " | ".join(f"{row[key]} of {row['images']}" for key in ("same_top1", "same_path", "same_hedge"))
            print(f"| `{name}` | {row['images']} {kind} | {row['logits']:.1e} | {same} |", flush=True)


if __name__ == "__main__":
    main()
