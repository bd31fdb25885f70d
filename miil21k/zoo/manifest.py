"""The one reader of weights_manifest.json: names in, `Weights` out. Imports neither torch nor NumPy."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miil21k.errors import ManifestError, UnknownModel
from miil21k.records import StrictJsonError, parse, read_record
from miil21k.text import near_names
from miil21k.zoo.schema import (
    SECOND_NAMES,
    Candidate,
    Manifest,
    Metric,
    Paper,
    Preprocess,
    Source,
    Weights,
    foreign_network,
    spellings,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "Candidate",
    "Manifest",
    "Metric",
    "Paper",
    "Preprocess",
    "Source",
    "Weights",
    "find_weights",
    "list_models",
    "load_manifest",
    "manifest_path",
    "parse_manifest",
    "select_weights",
    "trained_as",
]

SCHEMA_VERSION = 2
_FILE = "weights_manifest.json"
_SUFFIXES = {"safetensors": (".safetensors",), "npz": (".npz",), "pth": (".pth", ".bin", ".pt", ".pth.tar"), "json": ()}
_HUB_PREFIXES = ("hf_hub:", "hf-hub:", "timm/")


def manifest_path() -> Path:
    """Return the manifest's path: inside the package (a wheel), else beside it (a clone, torch.hub)."""
    package = Path(__file__).parent.parent
    inside = package / _FILE
    return inside if inside.exists() else package.parent / _FILE


@cache
def load_manifest() -> Manifest:
    """Return the manifest that belongs to this installation, read once per process.

    Raises ManifestError when the file is missing or breaks its schema.
    """
    return parse_manifest(_text())


def _text() -> str:
    path = manifest_path()
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ManifestError(f"Cannot read {path}: {error.strerror}. Reinstall miil21k.") from None


def parse_manifest(text: str) -> Manifest:
    """Return the manifest written in `text` (JSON).

    Raises ManifestError, naming row and key, for what is no JSON, an unknown or missing key, a wrong type,
    another schema version, a name that two rows share, or a default preprocessing that is not listed.
    """
    try:
        raw = parse(text)
    except StrictJsonError as error:
        raise ManifestError(f"{_FILE} is {error.found}.") from None
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if version is not None and version != SCHEMA_VERSION:
        raise ManifestError(f"{_FILE} has schema version {version}; this miil21k reads {SCHEMA_VERSION}.")
    manifest = _read(raw)
    for weights in manifest.models:
        _check(weights)
    _names(manifest)
    return manifest


def _read(raw: object) -> Manifest:
    row = ""
    try:
        if not isinstance(raw, dict) or not isinstance(raw.get("models"), list):
            return read_record(Manifest, raw)  # which says what is wrong
        models = []
        for i, entry in enumerate(raw["models"]):
            name = entry.get("name") if isinstance(entry, dict) else None
            row = f", row '{name}'" if isinstance(name, str) else f", row {i}"
            models.append(read_record(Weights, entry))
        row = ""
        return read_record(Manifest, {**raw, "models": []})._replace(models=tuple(models))
    except StrictJsonError as error:
        key = f", key '{error.path}'" if error.path else ""
        raise ManifestError(f"{_FILE}{row}{key}: {error.found}.") from None


def _check(weights: Weights) -> None:
    row = f"row '{weights.name}'"
    if weights.family == "timm" or weights.timm_config:
        raise ManifestError(f"{row}, key 'family': weights that timm itself describes need no row.")
    if weights.preprocess_default not in weights.preprocessings:
        raise ManifestError(f"{row}, key 'preprocess_default': no preprocessing '{weights.preprocess_default}'.")
    if (problem := foreign_network(weights.arch, weights.arch_kwargs)) is not None:
        raise ManifestError(f"{row}, key 'arch': {problem}.")
    if not weights.sources:
        raise ManifestError(f"{row}, key 'sources': at least one source is needed.")
    for i, source in enumerate((*weights.sources, *weights.unverified_copies)):
        problem = _source_problem(source)
        if problem is not None:
            raise ManifestError(f"{row}, key 'sources[{i}]': {problem}.")
    if (weights.label_space is None) != (weights.num_classes is None):
        raise ManifestError(f"{row}, key 'label_space': a class count and a label space are known together or not.")
    if weights.label_space is None and not weights.candidates:
        raise ManifestError(f"{row}, key 'label_space': without one, the key 'candidates' says which it may be.")


def _source_problem(source: Source) -> str | None:
    """Return what contradicts itself in a source whose keys are all known, or None."""
    address, key = {"hub": (source.repo, "repo"), "url": (source.url, "url"), "package": (source.package, "package")}[
        source.kind
    ]
    if address is None:
        return f"a source of kind '{source.kind}' needs the key '{key}'"
    if (source.kind == "hub") != (source.origin == "hub"):
        return f"a source of kind '{source.kind}' has no origin '{source.origin}'"
    if source.url is not None and not source.url.startswith(("https://", "http://")):
        return f"'{source.url}' is no http or https address"
    if source.url is not None and not source.url.endswith(f"/{source.file}"):
        return f"the URL does not end in the file '{source.file}'"
    if not source.file.endswith(_SUFFIXES[source.format]):
        return f"'{source.file}' is no file of format '{source.format}'"
    return None


def _names(manifest: Manifest) -> Mapping[str, Weights]:
    """Map every spelling to its row; raises ManifestError for one that two rows claim."""
    owner: dict[str, Weights] = {}
    for weights in manifest.models:
        for name in weights.names:
            other = owner.setdefault(name, weights)
            if other is not weights:
                raise ManifestError(f"row '{weights.name}', key 'aliases': '{name}' already names '{other.name}'.")
    return owner


@cache
def _index() -> Mapping[str, Weights]:
    return _names(load_manifest())


@cache
def _single_rows() -> Mapping[str, Any]:
    """Map every spelling to its row as it was written: one row can be read in a tenth of the time of all."""
    try:
        return {
            spelling: entry
            for entry in json.loads(_text())["models"]
            for spelling in spellings(entry["name"], tuple(entry.get("aliases", ())), entry["arch"])
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}  # reading the whole manifest says what is wrong


@cache
def _single(canonical: str) -> Weights | None:
    try:
        weights = read_record(Weights, _single_rows()[canonical])
    except StrictJsonError:
        return None
    _check(weights)
    return weights


def find_weights(name: str) -> Weights:
    """Return the row that `name` stands for: one of its `names`.

    The prefixes of Hub names (`hf_hub:timm/`, `hf-hub:timm/`, `timm/`) are accepted and ignored, because the
    canonical names are those of the Hub repositories. Raises UnknownModel with near matches; a bare
    architecture is refused too, with the names of its trained weights, since it names no weight.
    """
    bare = name.strip()
    for prefix in _HUB_PREFIXES:
        bare = bare.removeprefix(prefix)
    if not load_manifest.cache_info().currsize and bare in _single_rows():
        single = _single(_single_rows()[bare]["name"])
        if single is not None:
            return single
    index = _index()
    if bare in index:
        return index[bare]
    trained = trained_as(bare)
    if trained:
        raise UnknownModel(f"'{name}' is an architecture, not a trained weight. Name one of: {', '.join(trained)}.")
    near = _near(bare, index)
    hint = f" Near: {', '.join(repr(n) for n in near)}." if near else ""
    raise UnknownModel(f"No weight '{name}'.{hint} List all: miil21k models.")


def trained_as(arch: str) -> tuple[str, ...]:
    """Return the canonical names of the weights of an architecture, which may be called by its second name."""
    return tuple(w.name for w in load_manifest().models if arch in (w.arch, SECOND_NAMES.get(w.arch)))


def _near(name: str, index: Mapping[str, Weights]) -> list[str]:
    return list(dict.fromkeys(index[spelling].name for spelling in near_names(name, index, most=8)))[:3]


def select_weights(
    pattern: str = "*",
    *,
    family: str | None = None,
    label_space: str | None = None,
    head: str | None = None,
    licence: str | None = None,
    availability: str | None = None,
    max_params: int | None = None,
    min_metric: Mapping[str, float] | None = None,
) -> tuple[Weights, ...]:
    """Return the rows that pass every filter, in manifest order.

    pattern: a shell glob over every name of a row; without wildcard it must equal one.
    licence: a glob over the licence, ignoring case, spaces and hyphens (`cc-by-nc*`).
    max_params: rows whose count is known and not larger. min_metric: `{"top1": 82}` keeps rows whose first
    published metric of that name reaches the value.
    """
    wanted = {"family": family, "label_space": label_space, "head": head, "availability": availability}
    return tuple(
        w
        for w in load_manifest().models
        if any(fnmatchcase(n, pattern) for n in w.names)
        and all(value is None or getattr(w, key) == value for key, value in wanted.items())
        and (licence is None or fnmatchcase(_plain_licence(w.licence), _plain_licence(licence)))
        and (max_params is None or (w.params is not None and w.params <= max_params))
        and all(_reaches(w, name, value) for name, value in (min_metric or {}).items())
    )


def _plain_licence(text: str) -> str:
    return text.lower().replace(" ", "").replace("-", "")


def _reaches(weights: Weights, name: str, value: float) -> bool:
    metric = weights.metric(name)
    return metric is not None and metric.value >= value


def list_models(
    pattern: str = "*", *, family: str | None = None, label_space: str | None = None, licence: str | None = None
) -> list[str]:
    """Return the canonical names of the trained weights that match; the filters are those of `select_weights`."""
    rows = select_weights(pattern, family=family, label_space=label_space, licence=licence)
    return [weights.name for weights in rows]
