"""What starting costs: imports, `--help`, and loading a label space, each as a ratio against importing NumPy.

Run `python benchmarks/startup.py [--repeats N]` on an idle machine; prints a Markdown table. Every figure is the
best of N fresh processes; label spaces are timed inside fresh processes that import NumPy first.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time

LOAD = """
import time
start = time.perf_counter(); import numpy; numpy_s = time.perf_counter() - start
from miil21k.hierarchy.load import load_label_space
start = time.perf_counter(); load_label_space({name!r}).tree; load_s = time.perf_counter() - start
print(numpy_s, load_s)
"""


def seconds(command: list[str], repeats: int) -> float:
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        best = min(best, time.perf_counter() - start)
    return best


def load_ratio(name: str, repeats: int) -> tuple[float, float]:
    runs = []
    for _ in range(repeats):
        done = subprocess.run(
            [sys.executable, "-c", LOAD.format(name=name)], check=True, capture_output=True, text=True
        )
        numpy_s, load_s = map(float, done.stdout.split())
        runs.append((numpy_s, load_s))
    return min(r[1] for r in runs), min(r[0] for r in runs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=10)
    repeats = parser.parse_args().repeats
    command = shutil.which("miil21k-predict")
    if command is None:
        raise SystemExit("miil21k-predict is not on the path: install the package first (pip install -e .).")

    floor = seconds([sys.executable, "-c", "import numpy, PIL"], repeats)
    print("| process | ms | against `import numpy, PIL` | floor |\n|---|---:|---:|---:|")
    print(f'| `python -c "import numpy, PIL"` | {floor * 1e3:.0f} | 1.00 | |')
    for title, words in {
        '`python -c "import miil21k"`': [sys.executable, "-c", "import miil21k"],
        "`miil21k-predict --help`": [command, "--help"],
    }.items():
        taken = seconds(words, repeats)
        print(f"| {title} | {taken * 1e3:.0f} | {taken / floor:.2f} | 1.5 |")

    print("\n| label space | load ms | import numpy ms | ratio | floor |\n|---|---:|---:|---:|---:|")
    for name in ("fall11", "winter21", "goog21k", "in1k"):
        load_s, numpy_s = load_ratio(name, repeats)
        print(f"| {name} | {load_s * 1e3:.1f} | {numpy_s * 1e3:.0f} | {load_s / numpy_s:.2f} | 0.5 |")


if __name__ == "__main__":
    main()
