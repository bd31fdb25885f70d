"""What one image is answered with: frozen values, and the documented row they are written as."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from miil21k.errors import UsageError
from miil21k.writers.rows import ASKED, BIN, BINS, GIVEN, LEVEL, NODE, PART, ROW, ROW_SCHEMA, SENSE, STOP, encode

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from miil21k.data.facts import ImageFacts
    from miil21k.decode.compact import CompactMasses
    from miil21k.decode.decoded import Reading, StopReason
    from miil21k.decode.decoder import WithdrawnLabels
    from miil21k.predict.heat import Heat

__all__ = [
    "AskedConcept",
    "Bin",
    "BinAnswer",
    "Given",
    "ImagePart",
    "LevelLabel",
    "Node",
    "Origin",
    "PixelBox",
    "Prediction",
    "Sense",
    "Stop",
]


class Node(NamedTuple):
    """A node of the tree with the probability that the answer is this node or lies below it, in [0, 1].

    In `Prediction.topk` the probability is that of exactly this class. Names repeat; the wnid is the key.
    """

    wnid: str
    name: str
    probability: float

    def to_dict(self) -> dict[str, Any]:
        """Return `wnid`, `name` and `probability`, rounded to six decimals."""
        found: dict[str, Any] = encode(NODE, self)
        return found


class LevelLabel(NamedTuple):
    """The answer of one level by the published rule, which decides each level for itself."""

    depth: int
    node: Node
    kept: bool

    def to_dict(self) -> dict[str, Any]:
        """Return `depth`, the node's three fields and `kept` (its probability is above 0.5)."""
        found: dict[str, Any] = encode(LEVEL, self)
        return found


class Stop(NamedTuple):
    """Why the path ended where it did.

    reason: `leaf`: the path reached a class without children; `hedge`: the next step was less sure than
    `hedge` asks for; `depth`: the path was cut at the depth that was asked for; `restriction`: nothing below is
    allowed; `bits`: what is sure enough says too little to be an answer.
    hedge: the wanted certainty (with a calibration file, the wanted share of answers that are right or not given), None
    when the whole chain was asked for. calibrated: whether temperatures that were fitted to this model were applied;
    without them a probability is what the network says. refused: the next step that was not taken. runner_up: its most
    probable sibling. level: the probability that a step had to have: `hedge`, or what the calibration knows for it.
    reading: where the path runs, on the tree as `published` or on `concepts`.
    """

    reason: StopReason
    hedge: float | None
    calibrated: bool
    refused: Node | None
    runner_up: Node | None
    level: float | None = None
    reading: Reading = "published"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name; absent nodes are None."""
        found: dict[str, Any] = encode(STOP, self)
        return found


class Given(NamedTuple):
    """The restriction of an answer, and how probable it was before it was made.

    condition: in words, "under bird, without hen". probability: that it holds, in [0, 1], over all classes that are
    not withdrawn; every probability of the answer is given it.
    """

    condition: str
    probability: float

    def to_dict(self) -> dict[str, Any]:
        """Return `condition` and `probability`, rounded to six decimals."""
        found: dict[str, Any] = encode(GIVEN, self)
        return found


class Sense(NamedTuple):
    """Another meaning of a noun that was asked."""

    wnid: str
    name: str

    def to_dict(self) -> dict[str, Any]:
        """Return `wnid` and `name`."""
        found: dict[str, Any] = encode(SENSE, self)
        return found


class AskedConcept(NamedTuple):
    """A question, and how probable it is that the image shows this concept, in [0, 1], whatever the restriction.

    question: as it was asked. wnid, name: the concept that it was read as. other_senses: further meanings of the noun
    that have classes, None where there are none.
    """

    question: str
    wnid: str
    name: str
    probability: float
    other_senses: tuple[Sense, ...] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name; `other_senses` only where there are some."""
        found: dict[str, Any] = encode(ASKED, self)
        return found


class Bin(NamedTuple):
    """A label of the user, and the probability that the image shows what belongs to it or a label below, in [0, 1]."""

    label: str
    probability: float

    def to_dict(self) -> dict[str, Any]:
        """Return `label` and `probability`, rounded to six decimals."""
        found: dict[str, Any] = encode(BIN, self)
        return found


class BinAnswer(NamedTuple):
    """The answer with the labels of the user.

    path: the highest label first, as far as they are sure enough; empty when none is. level: the probability that a
    label had to have: `hedge`, or what the calibration knows for it; None for the whole chain. labels: every label in
    the order of the file, *other* last.
    """

    path: tuple[Bin, ...]
    level: float | None
    labels: tuple[Bin, ...]

    @property
    def label(self) -> str | None:
        """The last label of the path, None when none is sure enough."""
        return self.path[-1].label if self.path else None

    def leading(self, most: int = 12) -> tuple[Bin, ...]:
        """Return at most so many labels, in their order: those of the path, and the most probable ones."""
        taken = {one.label for one in self.path}
        ranked = sorted(self.labels, key=lambda one: (one.label not in taken, -one.probability))
        kept = {one.label for one in ranked[: max(most, len(taken))]}
        return tuple(one for one in self.labels if one.label in kept)

    def to_dict(self) -> dict[str, Any]:
        """Return `path`, `level` and `labels`."""
        found: dict[str, Any] = encode(BINS, self)
        return found


class PixelBox(NamedTuple):
    """A part of an image, in pixels of the upright original: columns left to right - 1, rows top to bottom - 1."""

    left: int
    top: int
    right: int
    bottom: int


class ImagePart(NamedTuple):
    """Something in a part of an image, with the probability that the network gives it there, in [0, 1].

    box: the tile that was surest of it, which is no outline. See `miil21k.predict.parts`.
    """

    wnid: str
    name: str
    probability: float
    box: PixelBox

    def to_dict(self) -> dict[str, Any]:
        """Return `wnid`, `name`, `probability`, rounded to six decimals, and `box`."""
        found: dict[str, Any] = encode(PART, self)
        return found


class Origin(NamedTuple):
    """What every row of one predictor has in common.

    model: canonical name of the weights that answered. label_space and label_space_sha256 name the classes.
    removed_labels: `masked` when classes that ImageNet withdrew were left out of the answer, `included` when they
    were asked for, `none` when the label space holds none. backend, device, dtype: what computed the logits.
    """

    model: str
    label_space: str
    label_space_sha256: str
    removed_labels: WithdrawnLabels
    backend: str
    device: str
    dtype: str


@dataclass(frozen=True, eq=False)
class Prediction:
    """The answer to one input; exactly one exists per input, in the order of the inputs.

    input: the path or name that was given. error: one sentence, None when all is well.
    path: root first, one chain of the tree or of concepts; its probabilities never grow. Empty when nothing that says
    enough is as sure as the hedge, or on an error. stop: why the path ended, None on an error. topk: the most probable
    classes, best first. levels: the published per-level rule, None unless asked for. given: the restriction, None
    without one.
    asked: the concepts that were asked for, in their order, None without a question. concepts: every concept above the
    probability that `min_node` says, the most informative first, None unless asked for. bins: the answer with the
    user's own labels, None without any. parts: the different things in its parts, None unless asked for by `multi`.
    heat: where the evidence for a concept is, in the answers of `miil21k serve` alone.
    embedding: float32 [D], the network's pre-logits, None unless asked for. facts, masses: what the file says about
    itself, and P(exactly this class) in few bytes, None unless asked for by the option `facts`; no part of the row.
    Two are equal when all of that is, the numbers of the embedding included.
    """

    input: str
    origin: Origin
    error: str | None = None
    path: tuple[Node, ...] = ()
    stop: Stop | None = None
    topk: tuple[Node, ...] = ()
    levels: tuple[LevelLabel, ...] | None = None
    given: Given | None = None
    asked: tuple[AskedConcept, ...] | None = None
    concepts: tuple[Node, ...] | None = None
    bins: BinAnswer | None = None
    parts: tuple[ImagePart, ...] | None = None
    heat: Heat | None = None
    embedding: NDArray[np.float32] | None = None
    facts: ImageFacts | None = None
    masses: CompactMasses | None = None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Prediction):
            return NotImplemented
        mine, theirs = self.embedding, other.embedding
        if mine is None or theirs is None:
            return self._plain() == other._plain() and mine is theirs
        return self._plain() == other._plain() and mine.shape == theirs.shape and bool((mine == theirs).all())

    def __hash__(self) -> int:
        return hash(self._plain())

    def _plain(self) -> tuple[object, ...]:
        """Return everything but the arrays."""
        arrays = ("embedding", "heat", "masses")
        return tuple(getattr(self, field.name) for field in fields(self) if field.name not in arrays)

    def __repr__(self) -> str:
        if self.error is not None:
            return f"Prediction({_cut(self.input)!r}, error={_cut(self.error)!r})"
        steps = [f"{node.name} {node.probability:.2f}" for node in self.path[-3:]]
        path = " > ".join(["...", *steps] if len(self.path) > 3 else steps)
        return f"Prediction({_cut(self.input)!r}, {path or 'nothing sure enough'})"

    def _repr_html_(self) -> str:
        """Return the answer as a notebook shows it."""
        from miil21k.predict.notebook import html_of

        return html_of(self)

    @property
    def schema(self) -> int:
        """The version of the row; it changes when a field changes its meaning or goes away."""
        return ROW_SCHEMA

    @property
    def status(self) -> Literal["ok", "error"]:
        """`ok`, or `error` when the input could not be read."""
        return "ok" if self.error is None else "error"

    @property
    def model(self) -> str:
        """Canonical name of the weights that answered."""
        return self.origin.model

    @property
    def label_space(self) -> str:
        """Name of the label space of the answer."""
        return self.origin.label_space

    @property
    def label(self) -> Node | None:
        """The last node of the path: the most specific answer that is sure enough, None when there is none."""
        return self.path[-1] if self.path else None

    def probability(self, question: str) -> float:
        """Return how probable a concept is that was asked for, by its question or wnid (`Predictor.ask`, option `ask`).

        Raises UsageError for one that was not asked, and for an image that could not be read.
        """
        if self.error is not None:
            raise UsageError(f"Nothing is known about '{self.input}': {self.error}")
        for found in self.asked or ():
            if question in (found.question, found.wnid):
                return found.probability
        raise UsageError(f"'{question}' was not asked: predictor.ask(images, ['{question}']) does, and so does ask=.")

    def to_dict(self) -> dict[str, Any]:
        """Return the row, schema 1, as plain JSON values.

        Always present: schema, input, status, error, model, label_space, label_space_sha256, removed_labels,
        backend, device, dtype, path, stop, topk. Only when asked for and present: levels, given, asked, concepts,
        bins, parts, heat, embedding.
        """
        row: dict[str, Any] = encode(ROW, self)
        return row


def _cut(text: str) -> str:
    return text if len(text) <= 60 else f"...{text[-57:]}"
