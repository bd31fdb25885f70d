"""What a video shows, and when: python examples/video_frames.py CLIP [--frames 1] [-o rows.jsonl].

A frame every so many seconds becomes a row, named after its time (clip.mp4#t=3). Frames with the same answer, one after
the other, are then told as one line. Needs: pip install "miil21k[embedded,video]"
The rows stay in the file: after a kill, the same command with --resume goes on.
Exit code: 1 if a frame could not be read.
"""

import argparse
import json
import sys
from itertools import groupby
from pathlib import Path

from miil21k import Predictor, UsageError


def name_of(row: dict) -> str:
    if row["status"] != "ok":
        return row["error"]
    return row["path"][-1]["name"] if row["path"] else "(not sure)"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clip")
    parser.add_argument("--frames", type=float, default=1.0, help="seconds from one frame to the next")
    parser.add_argument("-o", "--output", type=Path, default=Path("rows.jsonl"))
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--hedge", type=float, default=0.8)
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()

    try:
        predictor = Predictor(args.model, hedge=args.hedge)
        outcome = predictor.run(args.clip, args.output, frames=args.frames, resume=args.resume)
    except UsageError as error:
        print(error, file=sys.stderr)
        return 2
    rows = [json.loads(line) for line in args.output.read_text(encoding="utf-8").splitlines()]
    for name, same in groupby(rows, key=name_of):
        times = [float(row["input"].partition("#t=")[2] or 0) for row in same]
        print(f"{times[0]:6.1f} s to {times[-1]:6.1f} s  {name}")
    return 1 if outcome.failed else 0


if __name__ == "__main__":
    sys.exit(main())
