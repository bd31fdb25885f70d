"""The values that a row of weights_manifest.json becomes: named tuples, which are quick to define, read strictly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from miil21k.records import to_json

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "Candidate",
    "Manifest",
    "Metric",
    "Paper",
    "Preprocess",
    "Resource",
    "Source",
    "Unreleased",
    "Weights",
]

SpaceName = Literal["fall11", "winter21", "goog21k", "in1k"]
HeadKind = Literal["level_softmax", "leaf_softmax", "sigmoid"]
Availability = Literal["mirrored", "single_host", "bucket_only", "package"]
SourceKind = Literal["hub", "url", "package"]
FileFormat = Literal["safetensors", "pth", "npz"]
Origin = Literal["hub", "official", "timm_release", "historic", "package", "third_party"]
CropMode = Literal["center", "squash"]
Interpolation = Literal["bilinear", "bicubic"]


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
    kind `package`: `package` is the importable name, `file` the path inside it.
    format: `safetensors`, `pth` or `npz`. layout: the adapter that renames its tensors.
    origin: who put it there: `hub`, `official`, `timm_release`, `historic` (an older official address),
    `package` or `third_party`.
    sha256 is a full digest that was seen; sha256_prefix the leading digits carried by the file's name.
    size in bytes where it is known exactly, size_seen as a page printed it.
    """

    kind: SourceKind
    origin: Origin
    file: str
    format: FileFormat
    layout: str
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
    availability: `mirrored` (several hosts besides the MIIL bucket, which has answered 403), `single_host` (one),
    `bucket_only` (none) or `package`.
    metrics: of several with one name, the first is the one that describes this file best.
    unverified_copies are never fetched unasked: nobody has shown that they equal the original.
    """

    name: str
    aliases: tuple[str, ...]
    family: str
    role: str | None
    arch: str
    arch_kwargs: Mapping[str, Any]
    buildable: bool
    label_space: SpaceName | None
    head: HeadKind
    num_classes: int | None
    candidates: tuple[Candidate, ...]
    preprocess_default: str
    preprocess_reason: str
    preprocessings: Mapping[str, Preprocess]
    params: int | None
    gmacs: float | None
    gmacs_source: str | None
    availability: Availability
    sources: tuple[Source, ...]
    unverified_copies: tuple[Source, ...]
    licence: str
    licence_source: str
    licence_timm: str | None
    papers: tuple[Paper, ...]
    notes: tuple[str, ...]
    uncertain: tuple[str, ...]
    metrics: tuple[Metric, ...]

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
        """Return the row as plain JSON values, with the default `preprocess` spelled out."""
        return {**to_json(self), "preprocess": to_json(self.preprocess)}


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
