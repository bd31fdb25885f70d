"""Ask a running server: python examples/client.py http://127.0.0.1:8021 PHOTO... [--ask bird,vehicle].

The server is `miil21k serve -m embedded`. The client needs Python alone. Its key, where the server wants one, stands in
the variable MIIL21K_API_KEY. A server that is full, or limits
its clients, says when to try again, and is asked again then.
Exit code: 0 all good, 1 if a picture could not be answered, 2 if the server refuses the request or cannot be reached.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

TRIES = 5
AGAIN = (429, 503)  # too many requests; busy, or about to stop


def ask(server: str, photo: Path, parameters: dict[str, str]) -> dict:
    """Return the row of a picture; raises HTTPError for what trying again does not help."""
    headers = {"Content-Type": "application/octet-stream"}
    if key := os.environ.get("MIIL21K_API_KEY"):
        headers["Authorization"] = f"Bearer {key}"
    request = Request(f"{server}/v1/predict?{urlencode(parameters)}", photo.read_bytes(), headers)  # noqa: S310
    left = TRIES
    while True:
        try:
            with urlopen(request, timeout=60) as reply:  # noqa: S310
                return json.load(reply)["predictions"][0]
        except HTTPError as error:  # noqa: PERF203
            left -= 1
            if error.code not in AGAIN or not left:
                raise
            time.sleep(float(error.headers.get("Retry-After", 1)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("server")
    parser.add_argument("photos", nargs="+", type=Path)
    parser.add_argument("--ask", default="", help="nouns, with commas")
    parser.add_argument("--hedge", default="0.9")
    args = parser.parse_args()

    failed = False
    parameters = {"hedge": args.hedge, **({"ask": args.ask} if args.ask else {})}
    for photo in args.photos:
        try:
            row = ask(args.server, photo, parameters)
        except HTTPError as error:
            print(f"{error.code}: {json.load(error)['error']}", file=sys.stderr)
            return 2
        except URLError as error:
            print(f"'{args.server}' cannot be reached: {error.reason}.", file=sys.stderr)
            return 2
        failed |= row["status"] != "ok"
        names = " > ".join(node["name"] for node in row["path"]) or row["error"] or "(not sure)"
        asked = "".join(f", {one['question']} {one['probability']:.2f}" for one in row.get("asked") or ())
        print(f"{photo.name}: {names}{asked}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
