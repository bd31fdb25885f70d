"""What was run: versions, model, device, options, counts and times, as one JSON file."""

from __future__ import annotations

import json
import platform
import sys
import time
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from miil21k.data.cloud import is_remote, write_remote
from miil21k.files import replace_file

__all__ = ["Provenance"]

_PACKAGES = ("miil21k", "torch", "timm", "onnxruntime", "numpy", "pillow")


class Provenance:
    """The record of one run, begun when it is constructed.

    path: where `write` puts it, of this machine or an address that fsspec writes. run: what every row has in common.
    options: every option that the rows depend on.
    """

    def __init__(self, path: str | Path, run: dict[str, Any], options: dict[str, Any]) -> None:
        self._path = path
        self._clock = time.perf_counter()
        self._record = {
            "schema": 1,
            "started": _now(),
            "command": sys.argv,
            "run": run,
            "options": options,
            "packages": {name: found for name in _PACKAGES if (found := _version(name)) is not None},
            "python": platform.python_version(),
            "platform": platform.platform(),
        }

    def write(self, outcome: str, **counts: int) -> None:
        """Write the record. outcome: complete, interrupted or failed. counts: by name."""
        seconds = round(time.perf_counter() - self._clock, 3)
        record = {**self._record, "finished": _now(), "seconds": seconds, "outcome": outcome, **counts}
        text = json.dumps(record, indent=2, ensure_ascii=True) + "\n"
        if is_remote(str(self._path)):
            write_remote(str(self._path), text.encode())
        else:
            replace_file(Path(self._path), text)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
