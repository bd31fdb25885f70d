"""How a head's logits and a labelled data set are brought to one label space, or refused."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from miil21k.data.datasets import label_images, matching_space
from miil21k.decode.decoder import Decoder
from miil21k.errors import LabelSpaceMismatch, UsageError
from miil21k.hierarchy.load import load_label_space
from miil21k.hierarchy.spaces import projection, withdrawn_classes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from miil21k.data.datasets import ClassImages, LabelledImages
    from miil21k.decode.heads import HeadKind
    from miil21k.hierarchy.spaces import LabelSpace

__all__ = ["View", "choose_view", "without_withdrawn"]


@dataclass(frozen=True, eq=False)
class View:
    """Images labelled in the space in which the answers are scored.

    name: `own` (the head's label space), the name of a space that the head is projected to, or `in1k`.
    allowed: bool [C], the classes that may be the answer; None for all. include_withdrawn: also those that ImageNet
    withdrew. notes: what was left out, in sentences.
    """

    name: str
    images: LabelledImages
    allowed: NDArray[np.bool_] | None
    notes: tuple[str, ...]
    include_withdrawn: bool = True

    @property
    def space(self) -> LabelSpace:
        """The label space of answers and labels."""
        return self.images.space

    @property
    def mask(self) -> NDArray[np.bool_] | None:
        """bool [C], the classes that may be the answer, those that ImageNet withdrew left out unless included."""
        return self.decoder(self.space, "leaf_softmax").allowed

    def decoder(self, own: LabelSpace, head: HeadKind, **choices: Any) -> Decoder:
        """Return what reads the logits of a head of `own` for this view; choices and errors as for `Decoder`."""
        found = Decoder(own, head, answer_space=self.space, include_withdrawn=self.include_withdrawn, **choices)
        return found if self.allowed is None else found.restricted_to(self.allowed, f"the classes of {self.name}")


def without_withdrawn(view: View, source: ClassImages) -> View:
    """Return the view without the classes that ImageNet withdrew, as prediction answers; itself when there are none."""
    withdrawn = withdrawn_classes(view.space)
    if not withdrawn.any() or view.allowed is not None:
        return view
    wnids = [wnid for wnid, gone in zip(view.space.wnids, withdrawn, strict=True) if gone]
    images = label_images(source, view.space, partial=True, skip=wnids, nouns=True, numbered=True, several=True)
    return replace(_view(view.name, images, None, int((~withdrawn).sum())), include_withdrawn=False)


def choose_view(
    source: ClassImages,
    head: LabelSpace,
    *,
    label_space: str | None = None,
    view: str | None = None,
    present: bool = False,
) -> View:
    """Return the view of `source` for a head of the space `head`.

    label_space: the space that the images were labelled in; the head's logits are selected for it, exactly and
    without retraining. view `in1k`: the images are those of ImageNet-1K, and the head is scored on the classes that
    it shares with it; images of the others are left out, and the other classes of the head cannot be the answer.
    present: no class without an image can be the answer, as is usual for ImageNet-A and ImageNet-R.
    Raises LabelSpaceMismatch when images and head do not belong together, with the way out.
    """
    chosen = _choose(source, head, label_space, view)
    return _of_present(chosen) if present else chosen


def _of_present(view: View) -> View:
    """Return the view whose answers are the classes of its images; LabelSpaceMismatch where a label is none."""
    labels = view.images.labels if view.images.named is None else view.images.named
    if (labels >= view.space.num_classes).any():
        raise LabelSpaceMismatch(
            "Some labels are no classes, so the classes that are present are not known: leave --classes-present out."
        )
    allowed = np.isin(np.arange(view.space.num_classes), labels)
    return replace(view, name=f"{view.name}, the classes present", allowed=allowed)


def _choose(source: ClassImages, head: LabelSpace, label_space: str | None, view: str | None) -> View:
    if view == "in1k":
        if label_space is not None:
            raise UsageError("--view in1k says what the images are; leave --label-space out.")
        return _in1k(source, head)
    if view is not None:
        raise UsageError(f"No view '{view}'; there is in1k.")
    if label_space is None and matching_space(key.rpartition("/")[2] for key in source.keys) == "in1k" != head.name:
        raise LabelSpaceMismatch(
            f"The images are those of ImageNet-1K, the head is of label space '{head.name}': score the classes that "
            "they share with --view in1k."
        )
    if label_space is None:
        return _view("own", label_images(source, head, partial=True, nouns=True, several=True), None)
    wanted = load_label_space(label_space, head=head)
    if wanted.sha256 != head.sha256:
        projection(head, wanted)  # raises where the head lacks a class
    images = label_images(source, wanted, partial=True, nouns=True, numbered=True, several=True)
    return _view(wanted.name, images, None)


def _in1k(source: ClassImages, head: LabelSpace) -> View:
    known = load_label_space("in1k").wnids
    strangers = [key for key in source.keys if key.rpartition("/")[2] not in set(known)]
    if strangers:
        raise LabelSpaceMismatch(
            f"{len(strangers)} of {len(source.keys)} {source.called} are no classes of ImageNet-1K: "
            f"{', '.join(strangers[:3])}{', ...' if len(strangers) > 3 else ''}. Score them without --view in1k."
        )
    own = set(head.wnids)
    lacking = [wnid for wnid in known if wnid not in own]
    if len(lacking) == len(known):
        raise LabelSpaceMismatch(f"A head of label space '{head.name}' shares no class with ImageNet-1K.")
    images = label_images(source, head, partial=True, skip=lacking)
    shared = set(known) - set(lacking)
    allowed = np.array([wnid in shared for wnid in head.wnids])
    return _view("in1k", images, allowed)


def _view(name: str, images: LabelledImages, allowed: NDArray[np.bool_] | None, candidates: int | None = None) -> View:
    if not len(images):
        raise LabelSpaceMismatch("None of the images is of a class that this head can be scored on.")
    notes = []
    if candidates is None:
        candidates = images.space.num_classes if allowed is None else int(allowed.sum())
    labels = np.unique(images.labels) if images.named is None else images.named
    scored = int((labels < images.space.num_classes).sum())
    if images.skipped:
        notes.append(
            f"{len(images.skipped)} {images.source.called} cannot be answered by this head and were skipped: "
            f"{', '.join(images.skipped[:9])}{', ...' if len(images.skipped) > 9 else ''}."
        )
    others = labels.size - scored
    if others and images.named is None:
        notes.append(
            f"{others} of {labels.size} labels are no classes of '{images.space.name}': what lies at or above one is "
            "right; the accuracy of classes leaves their images out."
        )
    notes += images.notes
    if scored < candidates:
        notes.append(f"Images of {scored:,} of the {candidates:,} classes that can be answered are here.")
    return View(name, images, allowed, tuple(notes))
