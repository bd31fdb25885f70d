"""Draw docs/serve_page.png: the page of `miil21k serve` with a photograph of the examples, in a real browser.

Needs the extras serve and embedded, the package playwright and a Chromium (`--chromium` says where).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parent.parent
PICTURE = ROOT / "docs" / "serve_page.png"
PHOTO = ROOT / "examples" / "images" / "cat.jpg"
PORT = 8045


def main() -> None:
    """Start a server, drop the photograph on its page, and keep what is seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chromium", help="the program of the browser")
    args = parser.parse_args()
    words = [sys.executable, "-m", "miil21k", "serve", "-m", "embedded", "--port", str(PORT)]
    server = subprocess.Popen(words, cwd=ROOT)
    try:
        _wait()
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=args.chromium, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1080, "height": 578}, color_scheme="light")
            page.goto(f"http://127.0.0.1:{PORT}/")
            page.set_input_files("#file", PHOTO)
            page.wait_for_selector("#path li", timeout=120_000)
            page.fill("#ask", "mammal, vehicle")
            page.press("#ask", "Enter")
            page.wait_for_timeout(5000)  # the second answer comes, bars grow
            page.screenshot(path=PICTURE)
            browser.close()
    finally:
        server.terminate()
        server.wait()


def _wait() -> None:
    """Return when the server answers; raises TimeoutError after five minutes."""
    last = time.monotonic() + 300
    while not _ready():
        if time.monotonic() > last:
            raise TimeoutError("The server did not start.")
        time.sleep(1)


def _ready() -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/ready"):
            return True
    except OSError:
        return False


if __name__ == "__main__":
    main()
