"""How pictures are indexed: one frozen value with every option and its default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from miil21k.data.options import FRAMES, frames_of
from miil21k.errors import UsageError
from miil21k.options import Instead, check, described, option, option_again
from miil21k.predict.options import RunOptions

__all__ = ["IndexOptions"]


@described
@dataclass(frozen=True)
class IndexOptions:
    """What an index is made of, besides the model and its answers."""

    output: str = option(
        "photos.index", "the index: a folder, or a URI that LanceDB writes", flags="-o --output", metavar="INDEX"
    )
    recursive: bool = option(
        True,
        "also the subfolders of a folder",
        flags=None,
        instead={"--no-recursive": Instead(False, "leave the subfolders of a folder out")},
    )
    frames: float | str = option(
        FRAMES,
        "of a video: one every so many seconds, or the first of each of its scenes",
        metavar="SECONDS|scenes",
        parse=frames_of,
    )
    overwrite: bool = option(False, "make the index anew, whatever it holds")
    prune: bool = option(False, "drop pictures that are gone even where most of a folder is")
    vectors: bool = option(
        True,
        "index the embeddings of large collections",
        flags=None,
        instead={"--no-vector-index": Instead(False, "compare every embedding: exact, slower above 50,000 pictures")},
    )
    engine: Literal["local", "ray"] | None = option_again(RunOptions, "engine", None)
    address: str | None = option_again(RunOptions, "address", None)

    def __post_init__(self) -> None:
        check(self)
        frames_of(self.frames)
        if self.address is not None and self.engine != "ray":
            raise UsageError("--address is of a Ray cluster: add --engine ray.")
