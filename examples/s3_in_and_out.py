"""Pictures and answers in a bucket: python examples/s3_in_and_out.py s3://bucket/photos/ s3://bucket/answers.jsonl.

Any address that fsspec opens will do: s3://, gs://, az://, memory://, or a folder. Pictures are fetched one by one.
Rows are written here first, since object stores cannot append, and copied when they are complete:
nobody reads half a file.
After a kill the same command goes on behind the rows that are there.
Needs: pip install "miil21k[embedded,cloud]"; credentials come from the environment, as every tool of that store wants.
Exit code: 0 all good, 1 if some pictures could not be read, 2 if the addresses make no sense.
"""

import argparse
import shutil
import sys
from pathlib import Path

import fsspec

from miil21k import Predictor, UsageError


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", help="a folder, a file, a pattern or shards")
    parser.add_argument("answers", help="ends in .jsonl, .csv, .tsv or .parquet")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--work", type=Path, default=Path("unfinished"), help="where rows are until they are complete")
    args = parser.parse_args(words)

    args.work.mkdir(exist_ok=True)
    rows = args.work / args.answers.rpartition("/")[2]
    try:
        predictor = Predictor(args.model)
        outcome = predictor.run(args.photos, rows, recursive=True, resume=True)
        with rows.open("rb") as source, fsspec.open(args.answers, "wb") as target:
            shutil.copyfileobj(source, target)
    except (UsageError, ValueError) as error:  # ValueError: fsspec knows no such protocol
        print(error, file=sys.stderr)
        return 2
    rows.unlink()
    print(f"{args.answers}: {outcome.rows} rows, {outcome.failed} of pictures that could not be read")
    return 1 if outcome.failed else 0


if __name__ == "__main__":
    sys.exit(main())
