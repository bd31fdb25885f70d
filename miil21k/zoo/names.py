"""What a name stands for: weights of the manifest, weights that timm publishes, or an architecture without weights.

Every verb that takes a model asks `identify`, so a name means the same to predict, train, validate, export and to a
teacher.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from miil21k.errors import UnknownModel
from miil21k.records import FrozenMapping
from miil21k.text import near_names
from miil21k.zoo.manifest import find_weights, trained_as
from miil21k.zoo.schema import Source, Weights

if TYPE_CHECKING:
    from os import PathLike
    from pathlib import Path

    from miil21k.calibrate.record import Calibration

__all__ = [
    "CALIBRATION",
    "HUB_PREFIX",
    "Architecture",
    "identify",
    "named_calibration",
    "own_checkpoint",
    "trained_weights",
]

CALIBRATION = "calibration.json"  # beside the weights that `miil21k push` put on the Hub
HUB_PREFIX = "hf-hub:"
_HUB = (HUB_PREFIX, "hf_hub:")
_LISTED = 6


class Architecture(NamedTuple):
    """A network of timm without weights of its own: random until a checkpoint fills it.

    name: what timm builds. trained: names of its trained weights, those of the manifest before timm's own.
    """

    name: str
    trained: tuple[str, ...]

    @property
    def refusal(self) -> str:
        """One sentence for whoever asked for trained weights, without its way out for them all."""
        if not self.trained:
            return f"'{self.name}' is an architecture, and neither the zoo nor timm has trained weights of it."
        more = ", ..." if len(self.trained) > _LISTED else ""
        return (
            f"'{self.name}' is an architecture, not a trained weight. "
            f"Name one of: {', '.join(self.trained[:_LISTED])}{more}."
        )


def identify(
    name: str, *, cache_dir: str | PathLike[str] | None = None, offline: bool | None = None
) -> Weights | Architecture:
    """Return what `name` stands for: a row with its weights, or an architecture, which has none.

    The manifest is asked first (every spelling of `find_weights`); then timm's tags (`resnet50.a1_in1k`), its former
    names, and its architectures. `hf-hub:OWNER/REPOSITORY[@REVISION]` is a model that timm's users put on the Hub;
    its `config.json` is fetched into the cache, for which cache_dir and offline are as in `fetch_weights`. Rows of timm
    have the family `timm` and no label space, for timm states a class count alone.
    Raises UnknownModel, with near names; for the Hub what `fetch_weights` raises, and CheckpointError for a repository
    that is not timm's.
    """
    name = name.strip()
    try:
        return find_weights(name)
    except UnknownModel as error:
        refused = error
    from miil21k.zoo.timm_config import current_name, row_of_tag

    bare = _without_hub(name)
    current = current_name(bare)
    found = row_of_tag(current) if current else None
    if found is not None:
        return found
    if current and name.startswith(_HUB):
        return _on_the_hub(name, cache_dir, offline)
    if current and "." not in current and (architecture := _architecture(current)) is not None:
        return architecture
    raise UnknownModel(_unknown(name, current or bare, refused))


def trained_weights(name: str, *, cache_dir: str | PathLike[str] | None = None, offline: bool | None = None) -> Weights:
    """Return what `identify` returns; raises UnknownModel for an architecture, with the names of its weights."""
    found = identify(name, cache_dir=cache_dir, offline=offline)
    if isinstance(found, Architecture):
        raise UnknownModel(found.refusal)
    return found


def own_checkpoint(
    name: str,
    *,
    revision: str | None = None,
    cache_dir: str | PathLike[str] | None = None,
    offline: bool | None = None,
) -> Path | None:
    """Return the local file of a checkpoint that `miil21k push` put on the Hub; None for any other name.

    name: `hf-hub:OWNER/REPOSITORY[@REVISION]`. revision: where the name has none. The file is fetched into the cache
    and says itself what it is, so whoever takes a checkpoint of `miil21k train` takes it. Raises what `identify` and
    `fetch_weights` raise.
    """
    name = name.strip()
    if not name.startswith(_HUB):
        return None
    found = identify(_revised(name, revision), cache_dir=cache_dir, offline=offline)
    if isinstance(found, Architecture) or not found.carded:
        return None
    from miil21k.store.download import fetch_weights

    return fetch_weights(found, cache_dir=cache_dir, offline=offline)


def named_calibration(
    name: str | PathLike[str],
    *,
    revision: str | None = None,
    cache_dir: str | PathLike[str] | None = None,
    offline: bool | None = None,
) -> Calibration:
    """Return the calibration of a file, or of a model that `miil21k push` put on the Hub.

    name: a path, or `hf-hub:OWNER/REPOSITORY[@REVISION]`. revision: where such a name has none, that of the model
    beside it. Raises UsageError for what is no calibration, and for the Hub what `identify` and `fetch_weights` raise.
    """
    from miil21k.calibrate.record import load_calibration

    name = os.fspath(name)
    if name.startswith(_HUB):
        return load_calibration(_local_file(_revised(name, revision), CALIBRATION, cache_dir, offline))
    return load_calibration(name)


def _without_hub(name: str) -> str:
    for prefix in _HUB:
        name = name.removeprefix(prefix)
    return name.removeprefix("timm/")


def _architecture(name: str) -> Architecture | None:
    from timm.models import is_model

    from miil21k.zoo.timm_config import tags_of

    if not is_model(name):
        return None
    ours = trained_as(name)
    return Architecture(name, (*ours, *(tag for tag in tags_of(name) if tag not in ours)))


def _on_the_hub(name: str, cache_dir: str | PathLike[str] | None, offline: bool | None) -> Weights:
    from miil21k.zoo.timm_config import row_of_hub

    path = _local_file(name, "config.json", cache_dir, offline)
    return row_of_hub(name, *_repository(name), path.read_text(encoding="utf-8", errors="replace"))


def _repository(name: str) -> tuple[str, str | None]:
    """Return repository and revision of `hf-hub:OWNER/REPOSITORY[@REVISION]`."""
    repo, _, revision = name.partition(":")[2].partition("@")
    if repo.count("/") != 1 or not all(repo.split("/")):
        raise UnknownModel(f"'{name}' names no repository of the Hub: write hf-hub:OWNER/REPOSITORY.")
    return repo, revision or None


def _revised(name: str, revision: str | None) -> str:
    return name if revision is None or "@" in name else f"{name}@{revision}"


def _local_file(name: str, file: str, cache_dir: str | PathLike[str] | None, offline: bool | None) -> Path:
    """Return the local copy of a JSON file in the repository `hf-hub:OWNER/REPOSITORY[@REVISION]`."""
    from miil21k.store.download import fetch_weights

    repo, revision = _repository(name)
    source = Source("hub", "hub", file, "json", repo=repo, revision=revision)
    row = Weights(name, "timm", "", "leaf_softmax", FrozenMapping({}), (source,), "", "")
    return fetch_weights(row, cache_dir=cache_dir, offline=offline)


def _unknown(name: str, bare: str, refused: UnknownModel) -> str:
    """Return why a name stands for nothing: a wrong tag of a known architecture, or what the manifest says."""
    architecture = _architecture(bare.partition(".")[0]) if "." in bare else None
    if architecture is None or not architecture.trained:
        owner = bare.count("/") == 1 and not name.startswith(_HUB)
        return f"{refused} A model of the Hub is written hf-hub:{bare}." if owner else str(refused)
    near = near_names(bare, architecture.trained) or architecture.trained[:3]
    return f"No weight '{name}'. Near: {', '.join(repr(n) for n in near)}. List all: miil21k models."
