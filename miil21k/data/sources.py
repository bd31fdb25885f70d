"""Sources named by a prefix, as timm's dataset factory names them: `wds/shards`, `hfds/folder`, `torch/cifar10/folder`,
`tfds/name`.

`SOURCES` is the table: prefix -> what opens the parts of the data set after it, by name ("" for one of a single piece).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miil21k.data.lists import few, split_name
from miil21k.data.saved import open_saved
from miil21k.data.shards import ShardSource, named_shards
from miil21k.data.tensorflow_sets import open_tensorflow
from miil21k.data.torchvision_sets import open_torchvision
from miil21k.errors import UsageError
from miil21k.records import StrictJsonError, parse

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["SOURCES"]

_INFO = "_info.json"  # timm's description of a folder of shards


def _web_dataset(name: str, cache: Path | None) -> dict[str, Callable[[], Any]]:
    """Return the parts of shards: those of a folder's `_info.json`, or all shards that the name stands for."""
    folder = Path(name)
    if (folder / _INFO).is_file():
        return {part: partial(ShardSource, shards, cache) for part, shards in _described(folder).items()}
    shards = sorted(folder.glob("*.tar")) if folder.is_dir() else list(named_shards(name))
    if not shards:
        raise UsageError(f"'wds/{name}' names no shards: give a folder of .tar files, one file, or a quoted pattern.")
    return {"": partial(ShardSource, shards, cache)}


def _described(folder: Path) -> dict[str, list[Path]]:
    """Return the shards of each part as `_info.json` says; UsageError where it says none, or they are missing."""
    path = folder / _INFO
    try:
        splits = parse(path.read_bytes())["splits"]
        named = {split_name(name): [folder / file for file in fields["filenames"]] for name, fields in splits.items()}
    except OSError as error:
        raise UsageError(f"'{path}' cannot be read: {error.strerror or error}.") from None
    except (StrictJsonError, KeyError, TypeError, AttributeError):
        raise UsageError(
            f"'{path}' is no description of shards: expected 'splits', each with 'filenames'. Name the shards by a "
            "pattern instead."
        ) from None
    if not named or len(named) < len(splits) or not all(named.values()):
        raise UsageError(f"'{path}' must give shards to each part of the data set, and each part once.")
    missing = [str(shard) for shards in named.values() for shard in shards if not shard.is_file()]
    if missing:
        raise UsageError(f"{len(missing):,} shards that '{path}' names are missing: {few(missing)}.")
    return named


SOURCES: dict[str, Callable[[str, Path | None], dict[str, Callable[[], Any]]]] = {
    "wds": _web_dataset,
    "hfds": lambda name, _: open_saved(name),
    "torch": lambda name, _: open_torchvision(name),
    "tfds": lambda name, _: open_tensorflow(name),
}
