"""How the page of a gallery feels with many pictures: in a real browser, on the clock of the wall.

    python benchmarks/gallery.py photos.index --pictures 10000

The pictures of the index are repeated, under other names, until there are as many as asked for. Reports milliseconds:
until the first pictures stand there, frames while 300 steps of 600 pixels are scrolled (the mean and the worst tenth),
a jump to the end, the slider, a first question (which reads the probabilities) and a further one; and how many cells
exist at most. The peer in the same run: a page that holds all pictures as plain elements, with lazy loading.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from miil21k.find.gallery import GalleryOptions, build_gallery
from miil21k.find.store import Index

FRAMES = """
const frame = () => new Promise((done) => requestAnimationFrame(() => done(performance.now())));
async function scrolled(view) {
  const took = [];
  let last = await frame();
  for (let step = 0; step < 300; step++) {
    view.scrollTop += 600;
    const now = await frame();
    took.push(now - last);
    last = now;
  }
  took.sort((a, b) => a - b);
  return {mean: took.reduce((a, b) => a + b) / took.length, worst_tenth: took[Math.floor(took.length * 0.9)]};
}
const timed = async (act) => { const start = performance.now(); await act(); return performance.now() - start; };
const send = (seen) => fetch("/seen", {method: "POST", body: JSON.stringify(seen)});
"""
OURS = """
(async () => {
  const by = (id) => document.getElementById(id);
  const seen = {};
  while (!document.querySelector(".cell")) await frame();
  seen.first = performance.now();
  const count = () => { seen.cells = Math.max(seen.cells || 0, document.querySelectorAll(".cell").length); };
  const watch = setInterval(count, 5);
  seen.scroll = await scrolled(by("scroll"));
  clearInterval(watch);
  seen.jump = await timed(async () => { by("scroll").scrollTop = 1e9; await frame(); await frame(); });
  const slide = (value) => { by("sure").value = value; by("sure").dispatchEvent(new Event("input")); };
  seen.slider = await timed(async () => { slide("0.97"); await frame(); });
  slide("0.5");
  const ask = (text) => timed(async () => {
    by("query").value = text;
    by("search").requestSubmit();
    while (by("said").textContent === "…") await frame();
  });
  seen.first_question = await ask("bird and not parrot");
  seen.question = await ask("musical instrument");
  seen.counted = by("counted").textContent;
  await send(seen);
})();
"""
PLAIN = """
addEventListener("load", async () => {
  const seen = {first: performance.now(), cells: document.images.length};
  seen.scroll = await scrolled(document.scrollingElement);
  await send(seen);
});
"""


def main() -> int:
    """Measure; returns 0."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("index", type=Path)
    parser.add_argument("--pictures", type=int, default=10_000)
    parser.add_argument("--browser", default=shutil.which("chromium") or "google-chrome")
    parser.add_argument("--site", type=Path, help="keep the page here")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        site = args.site or Path(folder) / "site"
        build_gallery(Index.open(str(args.index)), GalleryOptions(output=str(site)))
        thumbs = _repeat(site, args.pictures)
        page = (site / "index.html").read_text()
        (site / "ours.html").write_text(page.replace("</body>", '<script src="ours.js"></script></body>'))
        (site / "ours.js").write_text(FRAMES + OURS)
        images = "".join(
            f'<figure><img loading="lazy" src="{name}"><figcaption>{name}</figcaption></figure>' for name in thumbs
        )
        style = (
            "<style>body{display:flex;flex-wrap:wrap}figure{margin:5px}figure,img{width:170px}img{height:145px}</style>"
        )
        (site / "plain.html").write_text(f"{style}{images}<script>{FRAMES}{PLAIN}</script>")
        result = {name: _seen(site, f"{name}.html", args.browser) for name in ("ours", "plain")}
    json.dump({"pictures": args.pictures, **result}, sys.stdout, indent=1)
    print()
    return 0


def _read(path: Path) -> tuple[str, dict]:
    head, _, rest = path.read_text().partition(",")
    return head, json.loads(rest.removesuffix(");\n"))


def _repeat(site: Path, count: int) -> list[str]:
    """Make the data of the page those of `count` pictures; returns their thumbnails."""
    data = site / "data"
    head, collection = _read(data / "collection.js")
    own = len(collection["paths"])
    for name in ("paths", "links", "thumbs", "answers", "top", "captured", "sizes"):
        collection[name] = [collection[name][number % own] for number in range(count)]
    collection["paths"] = [f"{number}/{name}" for number, name in enumerate(collection["paths"])]
    (data / "collection.js").write_text(f"{head},{json.dumps(collection)});\n")
    for kind in ("masses", "near"):
        content = (data / f"{kind}-0.js").read_text().partition(",")[2]
        for chunk in range(-(-count // collection["chunk"])):
            (data / f"{kind}-{chunk}.js").write_text(f'GALLERY.data("{kind}-{chunk}",{content}')
    return [f"thumbs/{collection['edge']}/{key[:2]}/{key}.jpg" for key in collection["thumbs"]]


def _seen(site: Path, page: str, browser: str) -> dict:
    """Return what a page of `site` reports from a browser."""
    reports: list[dict] = []
    done = threading.Event()

    class Handler(SimpleHTTPRequestHandler):
        def do_POST(self) -> None:
            reports.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()
            done.set()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as profile:
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1600,900", "--remote-debugging-port=0"]
        url = f"http://127.0.0.1:{server.server_port}/{page}"
        process = subprocess.Popen(
            [browser, *flags, f"--user-data-dir={profile}", url], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            if not done.wait(300):
                raise SystemExit(f"{page} reported nothing within 300 seconds")
        finally:
            process.terminate()
            process.wait()
            server.shutdown()
    return reports[0]


if __name__ == "__main__":
    sys.exit(main())
