"""What a proved export costs: a one-image process from it, questions in it, and concepts in a graph.

    python benchmarks/export.py start [NAME ...] [--rounds 9]
    python benchmarks/export.py ask [NAME ...] [--rounds 30]
    python benchmarks/export.py decoding [--rounds 30]

start: against imports alone and against timm. Weights are random: speed does not depend on them. They are put where the
Hub's client keeps its files, exported by `miil21k fetch`, and the processes take turns in one run. The two short ones
take more turns, one right after the other, in which what they share is warm in the caches of the processor; each is
also timed right after a long one, which leaves it nothing there. Prints the ratios of the medians, and of the best.

ask: the same process with and without `--ask`, by turns; the ratio of the best, in wall time and in time of the
processor, which other work on the machine disturbs less.

decoding: the decoding part of a graph alone, in ONNX Runtime on one thread: bytes of its tables, and time of the
processor per image against the plain one, the best of all rounds by turns.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

    from miil21k.decode.decoder import Decoder

COMMAND = Path(sysconfig.get_path("scripts")) / "miil21k-predict"
IMAGE = Path(__file__).parent.parent / "examples" / "images" / "cat.jpg"

OURS, BARE = "miil21k-predict --model NAME", "imports and one picture"
COLD = ", right after a process that loaded torch"
QUESTIONS = "bird,vehicle,musical instrument"
WARM_TURNS = 4  # of the two short processes, for one of the long ones

IMPORTS = """
import numpy, onnxruntime, sys
from PIL import Image
numpy.asarray(Image.open(sys.argv[1]).convert("RGB"))
"""
TIMM = """
import sys, timm, torch
from PIL import Image
model = timm.create_model(sys.argv[2], num_classes=int(sys.argv[3])).eval()
config = timm.data.resolve_model_data_config(model)
transform = timm.data.create_transform(**config, is_training=False)
with torch.no_grad():
    print(model(transform(Image.open(sys.argv[1]).convert("RGB"))[None]).softmax(-1).topk(5))
"""


def random_weights(name: str, cache: Path) -> tuple[str, int]:
    """Put random weights of a row into a cache of the Hub's layout; returns the architecture and its classes."""
    import torch
    from safetensors.torch import save_file

    from miil21k.zoo.manifest import find_weights
    from miil21k.zoo.registry import create_model

    row = find_weights(name)
    source = next(s for s in row.sources if s.kind == "hub" and not s.sha256 and not s.sha256_prefix)
    folder = cache / f"models--{source.repo.replace('/', '--')}"
    path = folder / "snapshots" / ("0" * 40) / source.file
    path.parent.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0" * 40)
    torch.manual_seed(0)
    tensors = {key: tensor.contiguous() for key, tensor in create_model(row.name).state_dict().items()}
    if source.format == "safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path)
    return row.arch, row.num_classes


def installed_environment() -> dict[str, str]:
    """Return that of an installed package: with the byte code that Python keeps."""
    return {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}


def fetched(name: str, folder: str) -> tuple[list[str], str, int]:
    """Make the export of a row with random weights in a cache; returns the command that predicts from it."""
    arch, classes = random_weights(name, Path(folder))
    here = ["--cache-dir", folder, "--offline"]
    fetch = [sys.executable, "-m", "miil21k", "fetch", name, "--backend", "onnx", *here]
    subprocess.run(fetch, check=True, env=installed_environment(), stdout=subprocess.DEVNULL)
    return [str(COMMAND), "-q", "--model", name, *here, str(IMAGE)], arch, classes


def ask(name: str, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        predict, _, _ = fetched(name, folder)
        commands = {"plain": predict, "asked": [*predict, "--ask", QUESTIONS]}
        best = {title: [float("inf")] * 2 for title in commands}
        for turn in range(rounds + 1):
            for title, command in commands.items():
                began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
                subprocess.run(command, check=True, capture_output=True, env=installed_environment())
                after, took = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - began
                computed = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
                if turn:
                    best[title] = [min(best[title][0], took), min(best[title][1], computed)]
    wall, computed = (best["asked"][at] / best["plain"][at] for at in (0, 1))
    print(f"| {name} | {best['plain'][0]:.3f} s | {wall:.3f} | {computed:.3f} |", flush=True)


def decoding(rounds: int) -> None:
    from miil21k.decode.decoder import Decoder
    from miil21k.hierarchy.load import load_label_space

    questions = ("bird", "vehicle", "musical instrument", "dog", "food", "mammal", "person", "cat", "tool", "fish")
    readings: dict[str, dict[str, str]] = {"published": {}, "concepts": {"reading": "concepts"}}
    for space, head in (("in1k", "leaf_softmax"), ("fall11", "leaf_softmax"), ("fall11", "level_softmax")):
        shipped = load_label_space(space)
        logits = 3 * np.random.default_rng(0).standard_normal((16, shipped.num_classes)).astype(np.float32)
        runs = {}
        for title, choice in readings.items():
            decoder = Decoder(shipped, head, **choice)
            runs[title] = decoding_session(decoder)
            runs[f"{title}, ten questions"] = decoding_session(decoder.asking(questions))
        best = {(title, batch): float("inf") for title in runs for batch in (1, 16)}
        for _ in range(rounds):
            for (title, batch), before in best.items():
                session, began = runs[title][0], time.process_time()
                for _ in range(16 // batch):
                    session.run(None, {"logits": logits[:batch]})
                best[title, batch] = min(before, (time.process_time() - began) / 16)
        for title, (_, size) in runs.items():
            ms = [f"{best[title, batch] * 1e3:.2f}" for batch in (1, 16)]
            more = [best[title, batch] / best["published", batch] for batch in (1, 16)]
            print(
                f"| {space}, {head} | {title} | {size / 1e3:,.0f} | {' | '.join(ms)} | {more[0]:.2f} | {more[1]:.2f} |"
            )


def decoding_session(decoder: Decoder) -> tuple[InferenceSession, int]:
    """Return what decodes logits as an export of the decoder does, and the bytes of the model."""
    import onnxruntime
    from onnx import TensorProto, helper

    from miil21k.export.onnx.decoding import HEDGE_INPUT, decoded_shapes, write_decoding
    from miil21k.export.onnx.graph import IR_VERSION, OPSET, GraphWriter

    graph = GraphWriter("decode")
    write_decoding(graph, "logits", decoder, 5)
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", decoder.space.num_classes])
    inputs = [logits, helper.make_tensor_value_info(HEDGE_INPUT, TensorProto.FLOAT, [])]
    indices = {"topk_index", "path", "hedge_node"}
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.INT32 if name in indices else TensorProto.FLOAT, ["n", *shape])
        for name, shape in decoded_shapes(decoder, 5).items()
    ]
    content = helper.make_graph(graph.nodes, "decoding", inputs, outputs, graph.initializers)
    model = helper.make_model(content, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    written = model.SerializeToString()
    return onnxruntime.InferenceSession(written, options, providers=["CPUExecutionProvider"]), len(written)


def start(name: str, rounds: int) -> None:
    environment = installed_environment()
    with tempfile.TemporaryDirectory() as folder:
        predict, arch, classes = fetched(name, folder)
        python = [sys.executable]
        commands = {
            OURS: predict,
            BARE: [*python, "-c", IMPORTS, str(IMAGE)],
            "the same with --backend torch": [*predict, "--backend", "torch"],
            "timm script, no weights": [*python, "-c", TIMM, str(IMAGE), arch, str(classes)],
        }
        torch_backend, timm_script = list(commands)[2:]
        turns = [torch_backend, BARE + COLD, timm_script, OURS + COLD, *WARM_TURNS * (OURS, BARE)]
        times: dict[str, list[float]] = {title: [] for title in turns}
        for turn in range(rounds + 1):
            for title in turns:
                began = time.perf_counter()
                command = commands[title.removesuffix(COLD)]
                subprocess.run(command, check=True, capture_output=True, env=environment)
                if turn:  # the first turn warms the file cache and writes byte code
                    times[title].append(time.perf_counter() - began)
    for title, taken in times.items():
        ours = times[OURS + COLD * title.endswith(COLD)]
        median, best = statistics.median(taken) / statistics.median(ours), min(taken) / min(ours)
        print(f"| {name} | {title} | {1 / median:.2f} | {median:.2f} | {best:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for title, rounds in (("start", 9), ("ask", 30)):
        verb = verbs.add_parser(title)
        verb.add_argument("names", nargs="*", default=["mobilenetv3_large_100_21k", "tresnet_m_21k"])
        verb.add_argument("--rounds", type=int, default=rounds)
    verbs.add_parser("decoding").add_argument("--rounds", type=int, default=30)
    args = parser.parse_args()
    if args.verb == "decoding":
        columns = (
            "head",
            "decoding",
            "kB",
            "ms, batch 1",
            "ms per image, batch 16",
            "times plain, 1",
            "times plain, 16",
        )
        print(f"| {' | '.join(columns)} |\n|---|---|{'---:|' * 5}")
        decoding(args.rounds)
        return
    if args.verb == "ask":
        print("| model | without --ask | with --ask / without, wall | processor |\n|---|---:|---:|---:|")
    else:
        print("| model | process | ours / it | it / ours (median) | it / ours (best) |\n|---|---|---:|---:|---:|")
    for name in args.names:
        {"start": start, "ask": ask}[args.verb](name, args.rounds)


if __name__ == "__main__":
    main()
