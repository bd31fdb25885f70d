"""`miil21k serve` against the Starlette app that one writes by hand around timm, under concurrent clients.

    python benchmarks/serve.py [--clients 1 8 32] [--requests 200] [--rounds 3] [--backend torch onnx openvino]

Prints Markdown. Both servers are processes of their own with the same random weights; the clients
are threads of a third one, which keep their connections and send photographs cut from those of the repository. The
servers take turns, round by round, and the best round counts for both.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from miil21k.environment import available_cpus

if TYPE_CHECKING:
    from collections.abc import Iterator

MODEL = "mobilenetv3_large_100.miil_in21k"
IMAGES = Path(__file__).parent.parent / "examples" / "images"

# What the tutorials show: the network in memory, one forward pass per request in Starlette's thread pool.
TIMM_APP = """
import io, sys, timm, torch, uvicorn
from PIL import Image
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse
from starlette.routing import Route
torch.set_num_threads(int(sys.argv[3]))
model = timm.create_model("mobilenetv3_large_100", num_classes=11221, checkpoint_path=sys.argv[1]).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
@torch.inference_mode()
def classify(body):
    image = transform(Image.open(io.BytesIO(body)).convert("RGB"))
    top = model(image[None]).softmax(-1).topk(5)
    return {"classes": top.indices[0].tolist(), "probabilities": top.values[0].tolist()}
async def predict(request):
    return JSONResponse(await run_in_threadpool(classify, await request.body()))
app = Starlette(routes=[Route("/v1/predict", predict, methods=["POST"])])
uvicorn.run(app, port=int(sys.argv[2]), log_level="warning")
"""


class Round(NamedTuple):
    """Requests per second, and the latency of requests in milliseconds."""

    rate: float
    median: float
    slow: float  # the 95th percentile


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--requests", type=int, default=200, help="per round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--backend", nargs="+", default=["torch"], help="of miil21k serve, one server for each")
    parser.add_argument(
        "--peer-threads", type=int, default=available_cpus(), help="of one forward pass (default: torch's own)"
    )
    args = parser.parse_args()
    pictures = photographs(64)
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        checkpoint = random_checkpoint(Path(scratch))
        models: dict[str, list[object]] = {"torch": [MODEL, "--checkpoint", checkpoint]}
        if set(args.backend) - {"torch"}:
            export = exported(checkpoint, Path(scratch))
            models |= {name: [export] for name in ("onnx", "openvino")}
        ports = {"timm": free_port()}
        peer = [sys.executable, "-c", TIMM_APP, checkpoint, ports["timm"], args.peer_threads]
        processes = [stack.enter_context(running(peer))]
        for name in args.backend:
            ports[name] = free_port()
            words = ["serve", "-m", *models[name], "--backend", name, "--port", ports[name]]
            processes.append(stack.enter_context(running([sys.executable, "-m", "miil21k", *words])))
        for process, port in zip(processes, ports.values(), strict=True):
            wait_for(port, process)
            load(port, pictures, 8, 32)
        print(f"{available_cpus()} CPUs, {args.requests} requests a round, best of {args.rounds} rounds\n")
        print("| clients | server | requests/s | ratio | median ms | 95 % ms | images per batch |")
        print("|---:|---|---:|---:|---:|---:|---:|")
        for clients in args.clients:
            report(ports, pictures, clients, args)


def report(ports: dict[str, int], pictures: list[bytes], clients: int, args: argparse.Namespace) -> None:
    before = {name: batches(port) for name, port in ports.items() if name != "timm"}
    rounds: dict[str, list[Round]] = {name: [] for name in ports}
    for _ in range(args.rounds):
        for name, port in ports.items():
            rounds[name].append(load(port, pictures, clients, args.requests))
    best = {name: max(found) for name, found in rounds.items()}  # by rate
    for name, (rate, median, slow) in best.items():
        label, size = "Starlette + timm", "1"
        if name != "timm":
            (count, images), (count_before, images_before) = batches(ports[name]), before[name]
            label, size = f"miil21k serve, {name}", f"{(images - images_before) / (count - count_before):.1f}"
        ratio = rate / best["timm"].rate
        print(f"| {clients} | {label} | {rate:.1f} | {ratio:.2f} | {median:.0f} | {slow:.0f} | {size} |", flush=True)


def photographs(count: int) -> list[bytes]:
    """Return JPEGs between 500 x 375 and 1024 x 768, random crops of the photographs of the repository."""
    rng = np.random.default_rng(0)
    sources = [Image.open(path).convert("RGB") for path in sorted(IMAGES.glob("*.jpg"))]
    found = []
    for number in range(count):
        source = sources[number % len(sources)]
        width, height = (int(side * rng.uniform(0.6, 1.0)) for side in source.size)
        left, top = rng.integers(0, source.width - width + 1), rng.integers(0, source.height - height + 1)
        scale = rng.uniform(500, 1024)
        picture = source.resize((int(scale), int(scale * 0.75)), box=(left, top, left + width, top + height))
        file = io.BytesIO()
        picture.save(file, "jpeg", quality=int(rng.integers(80, 96)))
        found.append(file.getvalue())
    return found


def random_checkpoint(folder: Path) -> Path:
    import torch
    from safetensors.torch import save_file

    from miil21k.zoo.registry import create_model

    torch.manual_seed(0)
    path = folder / "random.safetensors"
    save_file({k: v.contiguous() for k, v in create_model(MODEL).state_dict().items()}, path)
    return path


def exported(checkpoint: Path, folder: Path) -> Path:
    path = folder / "model.onnx"
    if not path.exists():
        words = ["export", "onnx", MODEL, "--checkpoint", checkpoint, "--form", "tensor", "-o", path]
        subprocess.run([sys.executable, "-m", "miil21k", *map(str, words)], check=True, stdout=subprocess.DEVNULL)
    return path


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@contextmanager
def running(command: list[object]) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([str(word) for word in command]) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    while not listens(port):
        if process.poll() is not None:
            sys.exit(f"The server for port {port} has ended.")
        time.sleep(0.2)


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def load(port: int, pictures: list[bytes], clients: int, requests: int) -> Round:
    """Send `requests` pictures from `clients` threads; each sends its next one when it has the answer."""
    left = iter(range(requests))
    taking = threading.Lock()
    seconds: list[float] = []

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        while True:
            with taking:
                number = next(left, None)
            if number is None:
                break
            start = time.perf_counter()
            body = pictures[number % len(pictures)]
            connection.request("POST", "/v1/predict", body, {"Content-Type": "image/jpeg"})
            response = connection.getresponse()
            answer = json.loads(response.read())
            seconds.append(time.perf_counter() - start)
            if response.status != 200:
                sys.exit(str(answer))
        connection.close()

    threads = [threading.Thread(target=client) for _ in range(clients)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    whole = time.perf_counter() - start
    slow = statistics.quantiles(seconds, n=20)[-1]
    return Round(requests / whole, 1000 * statistics.median(seconds), 1000 * slow)


def batches(port: int) -> tuple[float, float]:
    """Return how many batches and images a server of ours has computed."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    count, total = (re.search(rf"^miil21k_batch_size_{end} (\S+)", text, re.MULTILINE) for end in ("count", "sum"))
    assert count is not None
    assert total is not None
    return float(count[1]), float(total[1])


if __name__ == "__main__":
    main()
