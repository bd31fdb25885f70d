"""The page of `miil21k export web` in Chromium against `miil21k-predict`, on the same export.

    miil21k export web MODEL.onnx -o site
    python benchmarks/web.py MODEL.onnx site IMAGES [--images 100] [--chromium /usr/bin/chromium] [--results FILE.json]

Gives the page every n-th picture below IMAGES, and compares path and best class with the rows of the command.
Then measures the time to a first answer, from the request for the page on: with an empty browser on this machine,
once more from what the browser has kept, and over a line of 10 Mbit/s. Needs the package playwright.
"""

from __future__ import annotations

import argparse
import functools
import http.server
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from playwright.sync_api import sync_playwright

from miil21k.decode.decoded import concept_graph
from miil21k.environment import available_cpus
from miil21k.zoo.export_card import read_export_card

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

LISTEN = """
window.answers = [];
const plain = (value) => (ArrayBuffer.isView(value) ? Array.from(value, Number) : value);
document.addEventListener("answer", ({ detail }) =>
  answers.push(Object.fromEntries(Object.entries(detail).map(([name, value]) => [name, plain(value)]))));
"""
MBIT, MOST_S = 10, 120


class Plain(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None: ...


class Slow(Plain):
    """All connections together send at most MBIT."""

    turn = threading.Lock()

    def copyfile(self, source: Any, outputfile: Any) -> None:
        while block := source.read(1 << 14):
            with self.turn:
                time.sleep(8 * len(block) / (MBIT * 1e6))
            outputfile.write(block)


@contextmanager
def serving(handler: type[Plain], folder: Path) -> Iterator[str]:
    """Yield the address under which the folder is served."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("site", type=Path)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    parser.add_argument("--results", type=Path)
    args = parser.parse_args()
    every = sorted(path for path in args.pictures.rglob("*") if path.suffix.lower() in {".jpg", ".jpeg", ".png"})
    pictures = every[:: max(1, len(every) // args.images)][: args.images]
    rows = predicted(args.model, pictures)
    with (
        serving(Plain, args.site) as quick,
        serving(Slow, args.site) as slow,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=args.chromium, args=["--no-sandbox"])
        found = agreement(browser, quick, pictures, rows, args.model)
        found |= first_answers(browser, quick, slow, pictures[0], args.repeats)
        found["chromium"] = browser.version
        browser.close()
    sizes = [path.stat().st_size for path in args.site.iterdir() if path.name != "LICENSES.txt"]
    found |= {"sent_bytes": sum(sizes), "precision": read_export_card(args.model).precision}
    found |= {"load": os.getloadavg()[0], "cpus": available_cpus()}
    print(json.dumps(found, indent=1))
    if args.results:
        args.results.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def predicted(model: Path, pictures: list[Path]) -> list[dict[str, Any]]:
    """Return the rows of the command, which hedges at the level of the file."""
    level = str(read_export_card(model).decoder().record()["hedge"])
    command = [sys.executable, "-m", "miil21k", "predict", "-m", str(model), "--hedge", level, "--format", "jsonl"]
    done = subprocess.run([*command, *map(str, pictures)], capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def answer(page: Page, picture: Path) -> dict[str, Any]:
    before = page.evaluate("answers.length")
    page.set_input_files("#file", picture)
    deadline = time.monotonic() + MOST_S
    while page.evaluate("answers.length") == before:
        if time.monotonic() > deadline:
            raise SystemExit(f"no answer to {picture} in {MOST_S} s; the page says: {page.inner_text('body')}")
        page.wait_for_timeout(10)
    return dict(page.evaluate("answers.at(-1)"))


def agreement(
    browser: Browser, address: str, pictures: list[Path], rows: list[dict[str, Any]], model: Path
) -> dict[str, Any]:
    """Return how many pictures have the same path and best class, and how far probabilities are apart."""
    wnids = concept_graph(read_export_card(model).space).wnids
    page = browser.new_page()
    page.add_init_script(LISTEN)
    asked: list[str] = []
    page.context.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    same = {"path": 0, "top1": 0}
    apart, times = [], []
    for picture, row in zip(pictures, rows, strict=True):
        found = answer(page, picture)
        node = found["hedge_node"][0]
        path = [wnids[one] for one in found["path"] if one >= 0]
        path = path[: path.index(wnids[node]) + 1] if node >= 0 else []
        same["path"] += path == [one["wnid"] for one in row["path"]]
        same["top1"] += wnids[found["topk_index"][0]] == row["topk"][0]["wnid"]
        apart.append(abs(found["topk_prob"][0] - row["topk"][0]["probability"]))
        times.append(found["ms"])
    page.close()
    elsewhere = {url for url in asked if not url.startswith((address, "blob:"))}
    return {
        "pictures": len(pictures),
        **{f"same_{name}": count for name, count in same.items()},
        "probability_apart_most": round(max(apart), 5),
        "probability_apart_mean": round(statistics.mean(apart), 6),
        "network_ms_median": round(statistics.median(times), 1),
        "requests_elsewhere": len(elsewhere),
    }


def first_answers(browser: Browser, quick: str, slow: str, picture: Path, repeats: int) -> dict[str, Any]:
    """Return the medians of the seconds from the request for the page to its first answer."""
    found: dict[str, list[float]] = {"first_answer_s": [], "kept_answer_s": [], "first_answer_slow_line_s": []}
    for _ in range(repeats):
        for address, names in ((quick, ("first_answer_s", "kept_answer_s")), (slow, ("first_answer_slow_line_s",))):
            context = browser.new_context()
            page = context.new_page()
            page.add_init_script(LISTEN)
            for name in names:
                begun = time.perf_counter()
                page.goto(address)
                answer(page, picture)
                found[name].append(time.perf_counter() - begun)
            context.close()
    return {name: round(statistics.median(values), 2) for name, values in found.items()} | {"slow_line_mbit": MBIT}


if __name__ == "__main__":
    main()
