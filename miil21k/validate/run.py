"""A validation from a request to its report."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from miil21k.calibrate.record import mask_digest
from miil21k.data.datasets import open_source
from miil21k.data.options import SourceOptions
from miil21k.data.resizers import resolve_resizer
from miil21k.environment import installed_versions
from miil21k.errors import UsageError
from miil21k.hierarchy.bin_lines import bin_lines
from miil21k.hierarchy.concepts import concepts_of
from miil21k.hierarchy.load import load_label_space
from miil21k.hierarchy.spaces import withdrawn_classes
from miil21k.records import to_json
from miil21k.runtime.resolve import resolve
from miil21k.store.integrity import tensors_digest
from miil21k.text import brief
from miil21k.validate.bins import BinCard, view_of_bins
from miil21k.validate.inference import Inference
from miil21k.validate.label_sets import LabelSetCard
from miil21k.validate.mapped import MappedCard, read_class_map, view_of_map
from miil21k.validate.options import MeasureOptions
from miil21k.validate.score import Scorecard
from miil21k.validate.views import choose_view, without_withdrawn

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from miil21k.calibrate.record import Calibration
    from miil21k.data.datasets import ClassImages, LabelledImages
    from miil21k.data.resizers import ResizerName
    from miil21k.decode.decoded import Reading
    from miil21k.decode.decoder import Decoder
    from miil21k.hierarchy.bin_lines import GivenBins
    from miil21k.hierarchy.bins import Bins
    from miil21k.hierarchy.spaces import LabelSpace
    from miil21k.runtime.base import Backend
    from miil21k.runtime.loading import Loaded
    from miil21k.runtime.resolve import Make
    from miil21k.validate.mapped import ClassMap
    from miil21k.validate.views import View

    Card = Scorecard | BinCard | LabelSetCard | MappedCard

__all__ = ["MeasureRequest", "Validation", "prepare", "validate_model"]


@dataclass(frozen=True)
class MeasureRequest:
    """What is measured or calibrated, and on which labelled images.

    data: class folders, shards or a list, of which `source` says which part. model: a name of the zoo, or a checkpoint
    of `miil21k train`. options: which weights, what computes, how images are read. view: `in1k` or None. make: makes an
    export that the cache lacks (see `resolve`). shard_cache: where indices of shards are kept. bins: the user's own
    labels (see `PredictOptions`); the folders are named by them then, and the answers with them are measured or
    calibrated.
    """

    data: str
    model: str
    options: MeasureOptions = field(default_factory=MeasureOptions)
    view: str | None = None
    source: SourceOptions = field(default_factory=SourceOptions)
    make: Make | None = None
    shard_cache: Path | None = None
    bins: GivenBins | None = None
    classes_present: bool = False
    class_map: str | None = None

    __repr__ = brief


@dataclass(frozen=True, eq=False)
class Validation:
    """What came out: the report as plain values, and the counts behind it."""

    report: dict[str, Any]
    card: Card
    notes: tuple[str, ...]

    def __repr__(self) -> str:
        return f"Validation({self.report['model']['name']!r}, {self.card.samples} images, {self.card.headline})"


@dataclass(frozen=True, eq=False)
class Prepared:
    """A model and its view of the images. weights: the digest of the model's tensors. masked: the same view without
    the classes that ImageNet withdrew. bins: the user's own labels, of which the labels of both views are then.
    """

    loaded: Loaded
    backend: Backend
    resizer: ResizerName
    weights: str
    view: View
    masked: View
    bins: Bins | None = None
    class_map: ClassMap | None = None

    def inference(self, request: MeasureRequest, view: View) -> Inference:
        """Return what gives the logits of the images of `view`."""
        return Inference(self.backend, self.loaded.preprocess, view, replace(request.options, resizer=self.resizer))


def prepare(request: MeasureRequest) -> Prepared:
    """Return everything that scoring needs; raises LabelSpaceMismatch before anything is computed."""
    source = open_source(request.data, request.shard_cache, root=request.source.root, split=request.source.split)
    loaded = resolve(request.model, request.options, images=lambda most: min(most, len(source)), make=request.make)
    resizer = resolve_resizer(request.options.resizer, loaded.preprocess.interpolation)
    bins = class_map = None
    if request.class_map is not None:
        view, class_map = _mapped(request, source, loaded.space)
        masked = view
    elif request.bins is None:
        view = choose_view(
            source,
            loaded.space,
            label_space=request.options.label_space,
            view=request.view,
            present=request.classes_present,
        )
        masked = without_withdrawn(view, source)
    else:
        view, masked, bins = _binned(request, source, loaded.space)
    digest = loaded.weights_sha256 or tensors_digest(loaded.model)
    return Prepared(loaded, loaded.start(), resizer, digest, view, masked, bins, class_map)


def _mapped(request: MeasureRequest, source: ClassImages, head: LabelSpace) -> tuple[View, ClassMap]:
    """Return the images labelled as the class map of the request says, and the map."""
    if request.view is not None or request.bins is not None:
        raise UsageError("--class-map says what the classes mean: leave --view and --bins out.")
    wanted = request.options.label_space
    space = head if wanted is None else load_label_space(wanted, head=head)
    found = read_class_map(str(request.class_map), space)
    return view_of_map(source, space, found, present=request.classes_present), found


def _binned(request: MeasureRequest, source: ClassImages, head: LabelSpace) -> tuple[View, View, Bins]:
    """Return the images labelled with the bins of the request, with and without withdrawn classes, and these bins."""
    from miil21k.hierarchy.bins import bins_of

    if request.view is not None:
        raise UsageError(f"--view {request.view} is of images labelled with classes: leave it out, or --bins.")
    assert request.bins is not None
    wanted = request.options.label_space
    space = head if wanted is None else load_label_space(wanted, head=head)
    bins = bins_of(bin_lines(request.bins), concepts_of(space), ~withdrawn_classes(space))
    masked = view_of_bins(source, space, bins)
    return replace(masked, include_withdrawn=True), masked, bins


def validate_model(
    request: MeasureRequest,
    *,
    hedge: float = 0.9,
    rule: str | None = None,
    calibration: Calibration | None = None,
    reading: Reading = "published",
    min_bits: float = 1.0,
    progress: Callable[[int, int], None] | None = None,
) -> Validation:
    """Return every metric of the model on the images.

    hedge: how sure the hedged answers are to be; with a calibration, how often they are to be correct. rule: how a
    level_softmax head becomes one tree; None for the calibration's, or the default. reading: whether hedged answers are
    those of the tree or of concepts; min_bits: what they must say. progress: called with images done and in all. Raises
    LabelSpaceMismatch (images, head or calibration do not belong together), LogitsError (not finite), UsageError (no
    image can be read) and what loading the model raises.
    """
    prepared = prepare(request)
    view = prepared.view if prepared.bins is None else prepared.masked
    if calibration is not None and calibration.allowed == mask_digest(prepared.masked.mask):
        view = prepared.masked
    loaded = prepared.loaded
    decoder = view.decoder(
        *(loaded.space, loaded.head),
        hedge=hedge,
        rule=rule,
        calibration=calibration,
        reading=reading,
        min_bits=min_bits,
        bins=prepared.bins,
    )
    inference = prepared.inference(request, view)
    card = _card(decoder, view.images, prepared)
    done, scoring = 0, None
    with ThreadPoolExecutor(1, "miil21k-score") as scorer:  # one batch is scored while the next one is computed
        for batch in inference:
            if scoring is not None:
                scoring.result()
            scoring = scorer.submit(card.update, batch)
            done += len(batch.labels)
            if progress is not None:
                progress(done + len(inference.unreadable), len(view.images))
        if scoring is not None:
            scoring.result()
    if not card.samples:
        raise UsageError(f"None of the {len(view.images)} images in '{request.data}' can be read.")
    notes = list(view.notes)
    if view.images.weights is not None:
        notes.append("Every metric counts an image as much as its weight says.")
    if inference.unreadable:
        notes.append(f"{len(inference.unreadable)} images could not be read and were left out.")
    if passed := view.images.source.passed.sentence():
        notes.append(f"{passed}.")
    return Validation(_report(request, prepared, inference, card, notes), card, tuple(notes))


def _card(decoder: Decoder, images: LabelledImages, prepared: Prepared) -> Card:
    if prepared.class_map is not None:
        return MappedCard(decoder, prepared.class_map, images.weights)
    if prepared.bins is not None:
        return BinCard(decoder, prepared.bins, images.weights)
    if images.sets is not None:
        return LabelSetCard(decoder, images)
    return Scorecard(decoder, images.outside, images.weights)


def _report(
    request: MeasureRequest, prepared: Prepared, inference: Inference, card: Card, notes: list[str]
) -> dict[str, Any]:
    view, decoder = inference.view, card.decoder
    backend = inference.backend
    space = view.space
    return {
        "metrics": card.metrics(),
        "images": {
            "data": request.data,
            **card.counts(),
            "classes_skipped": list(view.images.skipped),
            "unreadable": [item._asdict() for item in inference.unreadable],
        },
        "model": _model(prepared),
        "view": {
            "name": view.name,
            "label_space": space.name,
            "label_space_sha256": space.sha256,
            "classes": space.num_classes if decoder.allowed is None else int(decoder.allowed.sum()),
        },
        "reading": {
            "temperature": decoder.temperatures,
            "rule": decoder.tree_rule,
            "calibrated": decoder.temperatures is not None,
            "hedged_on": decoder.reading if decoder.bins is None else "bins",
            **({} if decoder.bins is None else {"bins": list(decoder.bins.labels)}),
            "min_bits": decoder.min_bits,
        },
        "run": {
            "backend": backend.name,
            "device": backend.device,
            "dtype": backend.dtype,
            "resizer": inference.options.resizer,
            "decode": inference.options.decode,
            "forward_seconds": inference.forward_seconds,
        },
        "notes": notes,
        "versions": installed_versions(),
    }


def _model(prepared: Prepared) -> dict[str, Any]:
    loaded = prepared.loaded
    return {
        "name": loaded.name,
        "tensors_sha256": prepared.weights,
        "head": loaded.head,
        "label_space": loaded.space.name,
        "label_space_sha256": loaded.space.sha256,
        "preprocess": to_json(loaded.preprocess),
    }
