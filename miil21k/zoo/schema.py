"""The values that a row of weights_manifest.json becomes: named tuples, which are quick to define, read strictly."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from miil21k.decode.heads import HeadKind  # noqa: TC001 - the reader of the manifest resolves it
from miil21k.records import FrozenMapping, to_json

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "SECOND_NAMES",
    "Candidate",
    "Manifest",
    "Metric",
    "Paper",
    "Preprocess",
    "Resource",
    "Source",
    "Unreleased",
    "Weights",
    "foreign_network",
    "spellings",
]

SpaceName = Literal["fall11", "winter21", "goog21k", "in1k"]
Availability = Literal["mirrored", "single_host", "bucket_only", "package"]
SourceKind = Literal["hub", "url", "package"]
FileFormat = Literal["safetensors", "pth", "npz", "json"]
SourceOrigin = Literal["hub", "official", "timm_release", "historic", "package", "third_party"]
CropMode = Literal["center", "squash"]
Interpolation = Literal["bilinear", "bicubic"]

# One network under two names: timm's, and the one of the repositories that trained it. Both find it at every door.
SECOND_NAMES = {"tresnet_v2_l": "tresnet_l_v2"}
_BUCKET = "miil-public-eu."
# Arguments of timm's `create_model` itself, which read files and fetch weights: nothing that describes a network.
_FACTORY = {
    "model_name", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir",
}  # fmt: skip


def foreign_network(arch: str, arguments: Mapping[str, Any]) -> str | None:
    """Return what is no description of a network, when a file of somebody else gives `timm.create_model` its arguments.

    arch: the bare name of an architecture, not a place to fetch one from. None where nothing is wrong.
    """
    if not re.fullmatch(r"\w+", arch):
        return f"'{arch}' is no architecture"
    found = sorted(_FACTORY & arguments.keys())
    return f"'{found[0]}' is no argument of an architecture" if found else None


def spellings(name: str, aliases: tuple[str, ...], arch: str) -> tuple[str, ...]:
    """Return every spelling of a row's name, each once: aliases, '.' as '_', and all with the second name of `arch`."""
    found = (name, *aliases, name.replace(".", "_"))
    if (second := SECOND_NAMES.get(arch)) is not None:
        for one, other in ((arch, second), (second, arch)):
            found += tuple(other + name.removeprefix(one) for name in found if name.startswith(one))
    return tuple(dict.fromkeys(found))


class Preprocess(NamedTuple):
    """How an image becomes the network's input.

    input_size: (channels, height, width). interpolation: `bilinear` or `bicubic`, antialiased.
    crop_mode `center`: the shorter side is resized to floor(height / crop_pct), then the centre is cut out;
    `squash`: both sides are resized to input_size / crop_pct whatever the aspect ratio, then the centre is cut.
    mean, std: per channel, for pixels in [0, 1]. source: where these values are stated.
    """

    input_size: tuple[int, int, int]
    interpolation: Interpolation
    crop_pct: float
    crop_mode: CropMode
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    source: str


class Source(NamedTuple):
    """One place that holds a checkpoint file, and the layout of the tensors in it.

    kind `hub`: `repo` and `file` (`revision` None means the default branch). kind `url`: `url`.
    kind `package`: `package` is the importable name, `file` the path inside it. What is left out is what a file of
    the Hub is by default.
    format: `safetensors`, `pth` or `npz` (`json`: no checkpoint but the configuration beside one). layout: the
    adapter that renames its tensors.
    origin: who put it there: `hub`, `official`, `timm_release`, `historic` (an older official address),
    `package` or `third_party`.
    sha256 is a full digest that was seen; sha256_prefix the leading digits carried by the file's name.
    size in bytes where it is known exactly, size_seen as a page printed it.
    """

    kind: SourceKind
    origin: SourceOrigin = "hub"
    file: str = "model.safetensors"
    format: FileFormat = "safetensors"
    layout: str = "timm"
    repo: str | None = None
    revision: str | None = None
    url: str | None = None
    package: str | None = None
    sha256: str | None = None
    sha256_prefix: str | None = None
    size: int | None = None
    size_seen: str | None = None
    status: str | None = None

    @property
    def where(self) -> str:
        """The address as people write it: the URL, `hub:repo/file` or `package:name/file`."""
        return self.url or f"{self.kind}:{self.repo or self.package}/{self.file}"


class Metric(NamedTuple):
    """One published number. unit None: a plain count or ratio. conditions: what else was stated beside it."""

    name: str
    value: float
    source: str
    dataset: str | None = None
    unit: str | None = None
    img_size: int | None = None
    conditions: str | None = None


class Paper(NamedTuple):
    """A paper that describes the weights or the architecture; arxiv is the bare identifier."""

    title: str
    arxiv: str
    venue: str | None = None


class Candidate(NamedTuple):
    """A label space that unlabelled weights may have been trained on; params None where it cannot be counted."""

    label_space: SpaceName
    num_classes: int
    params: int | None


class Weights(NamedTuple):
    """One trained checkpoint: what it is, where it lies, what was published about it.

    label_space, num_classes and params are None where nobody published them; `candidates` then lists what they
    may be, and `uncertain` names every field that is assumed rather than stated.
    head: `level_softmax` (one softmax per depth of the tree), `leaf_softmax` (one softmax over all classes)
    or `sigmoid`. buildable: False where the architecture's configuration was never published.
    preprocessings holds every known preprocessing by name (`native`, `timm`, ...); `preprocess` is the default.
    gmacs: 10^9 multiply-adds of the network at its default input size, as published.
    metrics: of several with one name, the first is the one that describes this file best.
    unverified_copies are never fetched unasked: nobody has shown that they equal the original.
    timm_config: timm's own configuration, of weights that timm publishes and no row of the manifest describes.
    carded: the file says itself what it is, as what `miil21k push` put on the Hub does (see `TrainedCard`).
    """

    name: str
    family: str
    arch: str
    head: HeadKind
    preprocessings: Mapping[str, Preprocess]
    sources: tuple[Source, ...]
    licence: str
    licence_source: str
    aliases: tuple[str, ...] = ()
    role: str | None = None
    arch_kwargs: Mapping[str, Any] = FrozenMapping({})
    buildable: bool = True
    label_space: SpaceName | None = None
    num_classes: int | None = None
    candidates: tuple[Candidate, ...] = ()
    preprocess_default: str = "timm"
    preprocess_reason: str = "It is the only preprocessing that is known for these weights."
    params: int | None = None
    gmacs: float | None = None
    gmacs_source: str | None = None
    unverified_copies: tuple[Source, ...] = ()
    licence_timm: str | None = None
    papers: tuple[Paper, ...] = ()
    notes: tuple[str, ...] = ()
    uncertain: tuple[str, ...] = ()
    metrics: tuple[Metric, ...] = ()
    timm_config: Mapping[str, Any] = FrozenMapping({})
    carded: bool = False

    def __repr__(self) -> str:
        size = "" if self.params is None else f", {self.params:,} parameters"
        return f"Weights({self.name!r}, {self.label_space}, {self.head}{size}, {self.availability})"

    @property
    def names(self) -> tuple[str, ...]:
        """Every spelling that finds this row, the canonical name first."""
        return spellings(self.name, self.aliases, self.arch)

    @property
    def availability(self) -> Availability:
        """Who holds the file besides the MIIL bucket, which has answered 403: several hosts, one, or none."""
        hosts = {s.url.split("/")[2] if s.url else s.kind for s in self.sources}
        if hosts == {"package"}:
            return "package"
        reachable = {host for host in hosts if not host.startswith(_BUCKET)}
        kinds: tuple[Availability, ...] = ("bucket_only", "single_host", "mirrored")
        return kinds[min(len(reachable), 2)]

    @property
    def preprocess(self) -> Preprocess:
        """The default preprocessing; `preprocess_reason` says why it is the default."""
        return self.preprocessings[self.preprocess_default]

    @property
    def layouts(self) -> tuple[str, ...]:
        """Every layout in which these weights were published, in source order, each once."""
        return tuple(dict.fromkeys(s.layout for s in (*self.sources, *self.unverified_copies)))

    @property
    def headline(self) -> Metric | None:
        """The accuracy that stands for these weights in tables: semantic top-1 of a 21K head, else ImageNet top-1."""
        return self.metric("semantic_top1") or self.metric("top1", "imagenet")

    def metric(self, name: str, dataset: str | None = None) -> Metric | None:
        """Return the first published metric of that name (and data set), or None."""
        return next((m for m in self.metrics if m.name == name and dataset in (None, m.dataset)), None)

    def to_dict(self) -> dict[str, Any]:
        """Return the row as plain JSON values, with `availability` and the default `preprocess` spelled out."""
        row: dict[str, Any] = to_json(self)
        return {**row, "availability": self.availability, "preprocess": to_json(self.preprocess)}


class Unreleased(NamedTuple):
    """A published score whose weights were never released."""

    model: str
    metric: Metric
    reason: str


class Resource(NamedTuple):
    """A published file that is no checkpoint."""

    name: str
    label_space: SpaceName
    urls: tuple[str, ...]
    status: str


class Manifest(NamedTuple):
    """The whole of weights_manifest.json."""

    schema_version: int
    models: tuple[Weights, ...]
    unreleased: tuple[Unreleased, ...]
    resources: tuple[Resource, ...]

    def __repr__(self) -> str:
        return f"Manifest({len(self.models)} models, {len(self.unreleased)} unreleased)"
