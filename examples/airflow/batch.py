"""A batch that a scheduler may start, kill and start again: python examples/airflow/batch.py PHOTOS ROWS [--tries 3].

It treats the exit codes of `miil21k-predict` as they are meant:

    0       all good
    1       some pictures could not be read: their rows say why. Trying again changes nothing, and the rest is there
    2       the request makes no sense: trying again never helps
    others  it was killed, or the machine failed: try again, and go on behind the rows that are there (--resume)

Exit code: 0 or 1 as above, 2 for a request that makes no sense, 75 (try again later) when all tries were used up.
Needs: pip install "miil21k[embedded]"
"""

import argparse
import subprocess
import sys
import time

GOOD, SOME_FAILED, NO_SENSE, TRY_LATER = 0, 1, 2, 75


def run_batch(photos: str, rows: str, *, model: str = "embedded", tries: int = 3, wait: float = 1.0) -> int:
    """Answer every picture of `photos` into the file `rows`, and return the exit code of the batch."""
    command = ["miil21k-predict", photos, "-r", "-m", model, "-o", rows, "--resume", "--no-progress"]
    for number in range(1, tries + 1):
        code = subprocess.run(command, check=False).returncode
        if code in (GOOD, SOME_FAILED, NO_SENSE):
            return code
        how = f"killed by signal {-code}" if code < 0 else f"ended with {code}"
        print(f"try {number} of {tries}: {how}", file=sys.stderr)
        if number < tries:
            time.sleep(wait * 2 ** (number - 1))  # seconds: 1, 2, 4 ...
    return TRY_LATER


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos")
    parser.add_argument("rows", help=".jsonl, .csv or .parquet")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--tries", type=int, default=3)
    args = parser.parse_args()
    code = run_batch(args.photos, args.rows, model=args.model, tries=args.tries)
    meaning = {
        GOOD: "all pictures answered",
        SOME_FAILED: "answered; some pictures could not be read, see their rows",
        NO_SENSE: "refused, see above",
        TRY_LATER: "given up for now; the same command goes on where it stopped",
    }
    print(f"{args.rows}: {meaning[code]}")
    return code


if __name__ == "__main__":
    sys.exit(main())
